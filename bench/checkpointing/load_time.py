"""Part C: a load with every byte hashed against torch.load of the same bytes, both from a warm page cache and into the engine."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.checkpointing.workload import await_quiet, context_of, settle, state_of, summary, target, tell, warm
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.checkpoint.manifest import list_checkpoints, step_of, verify
from jadeberta.checkpoint.state_dict import restore
from jadeberta.config import Recipe
from jadeberta.shards import ShardReader
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.ledger import Ledger

LIMIT = 1.0
OURS, THEIRS = "jadeberta, hashed and restored", "torch.load and copy"


def measure(
    recipe: Recipe, engine: TrainingEngine, shards: ShardReader, directory: Path, rounds: int, patience: float
) -> dict[str, Any]:
    """The run's newest checkpoint against one file of torch.save with the same tensors."""
    # A checkpointer without memory for saves: of two states at a time the page cache must keep the files.
    checkpointer = Checkpointer(context_of(recipe, engine, shards, Ledger(directory / "load.jsonl", 0)), engine)
    checkpoint = list_checkpoints(checkpointer.root)[-1]
    state, file = state_of(engine), directory / "state.pt"
    torch.save(state, file)

    def load() -> None:
        for name, tensor in torch.load(file, map_location="cpu", weights_only=True, mmap=False).items():
            state[name].copy_(tensor)

    ways: dict[str, tuple[list[Path], Callable[[], Any]]] = {
        OURS: (list(checkpoint.iterdir()), lambda: checkpointer.roll_back(step_of(checkpoint))),
        THEIRS: ([file], load),
        "of it: hashing alone": (list(checkpoint.iterdir()), lambda: verify(checkpoint)),
        "of it: restoring alone": (list(checkpoint.iterdir()), lambda: restore(checkpoint, engine)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:
            paths, work = ways[name]
            await_quiet(patience)
            warm(paths)
            began = time.perf_counter()
            work()
            # Copies to the device are only queued when the call returns.
            settle(engine.device)
            times[name].append(time.perf_counter() - began)
            tell(f"  load {number + 1}: {name}: {times[name][-1]:.2f} s")
    # Emptied first: otherwise a load that does nothing would pass the comparison.
    for tensor in state.values():
        tensor.zero_()
    checkpointer.roll_back(step_of(checkpoint))
    saved = torch.load(file, map_location=engine.device, weights_only=True, mmap=engine.device.type == "cpu")
    same = all(tensor.equal(saved[name]) for name, tensor in state.items())
    del saved
    file.unlink()
    share = statistics.median(times[OURS]) / statistics.median(times[THEIRS])
    rows = [{"way": name, "load": summary(seconds)} for name, seconds in times.items()]
    return {"rows": rows, "same_tensors": same, "targets": [target("verified load / torch.load", share, LIMIT)]}


def lines(result: dict[str, Any]) -> list[str]:
    same = "the same tensors" if result["same_tensors"] else "DIFFERENT TENSORS"
    out = [f"C. a load from the page cache into the engine; both give {same}"]
    return out + [f"   {row['way']:<32} {row['load']['median_s']:8.2f} s" for row in result["rows"]]
