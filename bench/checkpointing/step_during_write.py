"""Part B: the time of a training step while a checkpoint of full size is written beside it, against the quiet step.

The steps are those of a real engine of the same width with one layer, so that they take seconds at most; the bytes are those of the
whole model. With one thread the writer has a core, as on a node; with all cores busy it has none.
"""

import mmap
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.checkpointing.alternatives import KINDS, PATIENCE_S, AsyncSaves
from bench.checkpointing.workload import await_quiet, batch_of, engine_of, recipe_of, settle, summary, target, tell
from jadeberta.checkpoint.commit import Files
from jadeberta.checkpoint.snapshot import Snapshot, Tensors, lay_out
from jadeberta.checkpoint.writer_client import WriterClient
from jadeberta.checkpoint.writer_messages import (
    Answer,
    Command,
    DiscardCommand,
    PublishCommand,
    VerifyCommand,
    WriteCommand,
)
from jadeberta.config import Recipe
from jadeberta.model import build
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import TrainingEngine

LIMIT = 1.05
QUIET = "quiet"
OURS = {"write": "jadeberta, writing", "verify": "jadeberta, reading back"}
"""By the writer's command."""
QUIET_S = {"tiny": 0.5, "base": 3.0, "large": 8.0}
"""Seconds of a quiet window."""
LENGTH = {"tiny": 128, "base": 512, "large": 512}
"""Tokens in a step, one row."""
FILE = "state.safetensors"
DTYPES = {"model": torch.bfloat16, "master": torch.float32, "exp_avg": torch.float32, "exp_avg_sq": torch.float32}


def measure(size: str, directory: Path, device: torch.device, rounds: int, patience: float) -> dict[str, Any]:
    """Windows of steps, quiet and beside a write in turn, with one thread and then with all."""
    snapshot, state = snapshot_of_full_size(recipe_of(size, directory))
    recipe = recipe_of(size, directory, num_hidden_layers=1)
    recipe = replace(recipe, training=replace(recipe.training, global_batch_size=1, micro_batch_size=1, max_grad_norm=1.0))
    stepper = Stepper(engine_of(recipe, device), recipe, LENGTH[size])
    writer = WriterClient(snapshot)
    writer.send(DiscardCommand(root=str(directory), step=0))  # starts the process
    assert not writer.wait(PATIENCE_S)[0].error
    saves = AsyncSaves(state, dist.new_group(backend="gloo"))
    saves.warm_up(directory)
    threads = torch.get_num_threads()
    results: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            times = in_turn(stepper, snapshot, writer, saves, directory, rounds, QUIET_S[size], patience)
            quiet = statistics.median(times[QUIET])
            rows: list[dict[str, Any]] = [
                {"beside": name, "step": summary(seconds), "of_quiet": statistics.median(seconds) / quiet if seconds else None}
                for name, seconds in times.items()
            ]
            results.append({"threads": count, "rows": rows})
            if count == 1:
                targets = [
                    target(f"step beside {r['beside']} / quiet", r["of_quiet"], LIMIT) for r in rows if "jade" in r["beside"]
                ]
    finally:
        torch.set_num_threads(threads)
        writer.close()
        saves.close()
    return {"bytes": snapshot.size, "tokens": LENGTH[size], "cases": results, "skipped": stepper.skipped, "targets": targets}


def snapshot_of_full_size(recipe: Recipe) -> tuple[Snapshot, Tensors]:
    """Memory with random bytes in the shapes of a model's training state, and tensors that lie in it."""
    with torch.device("meta"):
        model = build(recipe.model.hugging_face(), recipe.model.attention, seed=0)
        layout = {
            f"{kind}.{name}": torch.empty(parameter.shape, dtype=dtype)
            for kind, dtype in DTYPES.items()
            for name, parameter in model.named_parameters()
        }
    snapshot = Snapshot({FILE: (layout, {})}, pin=torch.cuda.is_available())
    noise = torch.rand(max(tensor.numel() for tensor in layout.values()))
    noises = {dtype: noise.to(dtype) for dtype in set(DTYPES.values())}
    snapshot.fill({FILE: {name: noises[tensor.dtype][: tensor.numel()] for name, tensor in layout.items()}})
    memory = torch.frombuffer(mmap.mmap(snapshot.descriptor, snapshot.size), dtype=torch.uint8)
    _, ranges, _ = lay_out(layout, {})
    return snapshot, {name: memory[slice(*ranges[name])].view(t.dtype).view(t.shape) for name, t in layout.items()}


class Stepper:
    """Takes optimizer steps and their times."""

    def __init__(self, engine: TrainingEngine, recipe: Recipe, length: int) -> None:
        self.engine, self.batch = engine, batch_of(recipe, 1, length)
        self.skipped = 0

    def __call__(self) -> float:
        began = time.perf_counter()
        result = self.engine.step(self.batch, 1e-6, RankFlags())
        # The step is only queued when the call returns.
        settle(self.engine.device)
        self.skipped += result.fault is not None
        return time.perf_counter() - began

    def window(self, lasts: Callable[[], bool]) -> list[float]:
        """Times of the steps that lie wholly inside a window."""
        seconds: list[float] = []
        while True:
            taken = self()
            # Asked after the step: one that outlasts the write ran without it for a part of its time.
            if not lasts():
                return seconds
            seconds.append(taken)


def in_turn(
    step: Stepper,
    snapshot: Snapshot,
    writer: WriterClient,
    saves: AsyncSaves,
    directory: Path,
    rounds: int,
    quiet_s: float,
    patience: float,
) -> dict[str, list[float]]:
    """Step times by what ran beside."""
    times: dict[str, list[float]] = {QUIET: [], **{name: [] for name in OURS.values()}, **{_name(kind): [] for kind in KINDS}}
    for _ in range(3):
        step()
    for number in range(1, rounds + 1):
        for name in ("ours", *KINDS):
            await_quiet(patience)
            times[QUIET] += step.window(_until(time.perf_counter() + quiet_s))
            if name == "ours":
                for op, seconds in beside_ours(step, snapshot, writer, directory / "ours", number).items():
                    times[OURS[op]] += seconds
            else:
                future = saves.start(name, directory / "async")
                times[_name(name)] += step.window(_until_done(future))
                future.result()
                shutil.rmtree(directory / "async")
        told = ", ".join(f"{key} {statistics.median(t):.3f} s ({len(t)})" for key, t in times.items() if t)
        tell(f"  beside {number}, {torch.get_num_threads()} threads: {told}")
    return times


def _until(end: float) -> Callable[[], bool]:
    return lambda: time.perf_counter() < end


def _until_done(future: Any) -> Callable[[], bool]:
    return lambda: not future.done()


def _name(kind: str) -> str:
    return f"torch async_save, {kind}"


def beside_ours(step: Stepper, snapshot: Snapshot, writer: WriterClient, root: Path, number: int) -> dict[str, list[float]]:
    """Steps beside the writer's two long works: from each command until its answer."""
    texts = {"state.json": "{}", "config.json": "{}", "model.safetensors": ""}  # what a manifest must name
    times: dict[str, list[float]] = {}
    files: Files = {}
    where: dict[str, Any] = {"root": str(root), "step": number}
    commands: dict[str, Callable[[], Command]] = {
        "write": lambda: WriteCommand(**where, space_needed=snapshot.size, files=snapshot.files, texts=texts),
        "publish": lambda: PublishCommand(**where, files=files),
        "verify": lambda: VerifyCommand(**where),
    }
    for op, command in commands.items():
        writer.send(command())
        answers: list[Answer] = []

        def lasts(answers: list[Answer] = answers) -> bool:
            answers += writer.poll()
            return not answers

        times[op] = step.window(lasts)
        assert answers[0].error is None and not getattr(answers[0], "faults", []), answers[0]
        files |= getattr(answers[0], "files", {})
    shutil.rmtree(root)
    return {op: times[op] for op in OURS}


def lines(result: dict[str, Any]) -> list[str]:
    out = []
    for case in result["cases"]:
        out.append(f"B. a step of {result['tokens']} tokens beside {result['bytes'] / 1e9:.2f} GB, {case['threads']} thread(s)")
        for row in case["rows"]:
            step, share = row["step"], row["of_quiet"]
            shown = f"{step['median_s'] * 1e3:9.1f} ms   x{share:.3f}" if share else "   the window was shorter than a step"
            out.append(f"   {row['beside']:<28} {shown}   {step['count']} steps")
    return out
