"""What every part measures on: recipes of three sizes, a real engine with a full state, a small data set, and the machine in words."""

import contextlib
import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from jadeberta.checkpoint.state_dict import tensor_files
from jadeberta.cluster.environment import Process
from jadeberta.config import PROJECT, Recipe, load_recipe
from jadeberta.config.phases import phases_of, with_lengths
from jadeberta.data.batches import MicroBatch, StepBatch
from jadeberta.data.run_data import RunData
from jadeberta.data.sample_order import SampleOrder
from jadeberta.shards import INDEX_NAME, SEQUENCE_LENGTH, CorpusEntry, ShardIndex, ShardReader, file_sha256, write_shard
from jadeberta.shards import open as open_shards
from jadeberta.training.console import Console
from jadeberta.training.control import RunControl
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.ledger import Ledger
from jadeberta.training.run_context import RunContext
from jadeberta.training.watchdog.client import WatchdogClient
from jadeberta.training.zero_state import fragments

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("large", {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}),
    "base": ("base", {}),
    "large": ("large", {}),
}
"""Recipe and what is changed in its model."""
ALONE = Process("none", 0, 0, 1, "127.0.0.1", 0)
REPEATS = {"bench": 1}
CHUNK = 16 << 20
QUIET_SHARE = 0.1
"""Of all cores, that others may use beside a measurement."""


def recipe_of(size: str, run_dir: Path, **model: Any) -> Recipe:
    """The recipe of a size with some keys of its model changed; ZeRO-1 and bf16 as it says."""
    name, changes = SIZES[size]
    recipe = load_recipe(PROJECT / "recipes" / f"{name}.yaml")
    sizes = {**changes, **model}
    sizes["pooler_hidden_size"] = sizes.get("hidden_size", recipe.model.hidden_size)
    return replace(
        recipe,
        run=replace(recipe.run, dir=str(run_dir)),
        model=replace(recipe.model, **sizes),
        checkpoint=replace(recipe.checkpoint, keep_last=1, keep_every=0, staging=""),
    )


def engine_of(recipe: Recipe, device: torch.device) -> TrainingEngine:
    """An engine with moments that are not zero: pages never written to would all be one page and copy too fast."""
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its memory
        engine = TrainingEngine(recipe, ALONE, device)
    for fragment in fragments(engine.engine):
        fragment.moments["exp_avg"].uniform_(-1e-3, 1e-3)
        fragment.moments["exp_avg_sq"].uniform_(0, 1e-6)
    return engine


def context_of(recipe: Recipe, engine: TrainingEngine, shards: ShardReader, ledger: Ledger) -> RunContext:
    """The run context of one rank without console and watchdog, which a checkpointer does not use.

    Args:
        recipe: of the run.
        engine: whose device and process it names.
        shards: as `make_shards` makes them.
        ledger: of the run.
    """
    sizes = recipe.training.batch_sizes
    order = SampleOrder.of(recipe.training.seed, sizes.last, shards.corpora, REPEATS, sizes.warmup)
    control, none = RunControl(Path(recipe.run.dir), True, 0), cast(WatchdogClient, None)
    data = RunData(with_lengths(phases_of(recipe), SEQUENCE_LENGTH), {SEQUENCE_LENGTH: shards}, REPEATS, order)
    return RunContext(recipe, engine.process, engine.device, data, ledger, Console(1, 1), none, control)


def state_of(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, the engine's own, by the name of its file and its own."""
    return {f"{file}/{key}": tensor for file, (tensors, _) in tensor_files(engine).items() for key, tensor in tensors.items()}


def apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a storage of its own: torch.distributed.checkpoint copies every tensor that shares one, and keeps the copies."""
    if tensor.is_cuda:
        return tensor
    words = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return torch.from_numpy(tensor.detach().view(words).numpy()).view(tensor.dtype)


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def make_shards(directory: Path, vocab_size: int) -> ShardReader:
    """A data set of a few rows, which a checkpoint names."""
    tokenizer = directory / "tokenizer" / "spm.model"
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_bytes(b"stands for a tokenizer")
    index = ShardIndex(SEQUENCE_LENGTH, vocab_size, file_sha256(tokenizer), {"engine": "none"}, "none", "none", {})
    tokens = np.full((4, SEQUENCE_LENGTH), 5, dtype=np.uint16)
    shard = write_shard(directory / "bench-00000.tar", tokens, np.ones_like(tokens), 4, {"corpus": "bench"})
    index.corpora["bench"] = CorpusEntry(1, [shard], [])
    (directory / INDEX_NAME).write_bytes(index.to_json())
    return open_shards(directory)


def batch_of(recipe: Recipe, rows: int, length: int, micro_batches: int = 1) -> StepBatch:
    """A step's batch of random tokens; 1 in 7 is predicted, about the 15% that are masked."""
    ids = torch.randint(5, recipe.model.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    index = torch.arange(0, ids.numel(), 7)
    made = [MicroBatch(ids, index, ids.flatten()[index], None, None) for _ in range(micro_batches)]
    return StepBatch(0, 0, "0" * 16, made, micro_batches * len(index), micro_batches * ids.numel())


def await_quiet(patience: float) -> bool:
    """Waits until others leave the machine alone for a second, so many seconds at most; returns whether they do."""
    deadline = time.monotonic() + patience
    while patience and (busy := _busy_share(1.0)) > QUIET_SHARE:
        if time.monotonic() > deadline:
            tell(f"  others keep {busy:.0%} of the machine busy")
            return False
    return True


def _busy_share(seconds: float) -> float:
    def jiffies() -> tuple[int, int]:
        # Guest time, in the columns after these, is part of user time already.
        figures = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(figures), figures[3] + figures[4]  # all, idle and waiting for disks

    before, idle_before = jiffies()
    time.sleep(seconds)
    after, idle_after = jiffies()
    return 1 - (idle_after - idle_before) / max(1, after - before)


def settle(device: torch.device) -> None:
    """Waits for what the device still does."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def flush(directory: Path) -> None:
    """Makes the files of a directory durable, and their names."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def warm(paths: Iterable[Path]) -> None:
    """Reads files so that they lie in the page cache."""
    buffer = bytearray(CHUNK)
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median and spread; None for the median where nothing was measured."""
    return {"median_s": statistics.median(seconds) if seconds else None, "count": len(seconds), "seconds": seconds}


def target(what: str, value: float | None, limit: float) -> dict[str, Any]:
    """A figure and the limit it must stay within; not met where it could not be measured."""
    return {"target": what, "value": value, "limit": limit, "met": value is not None and value <= limit}


def machine() -> str:
    """The machine in words."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f"one {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    return f"{models[0] if models else platform.machine()}, {cores} cores, {memory:.0f} GiB of memory, {gpu}"


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("jadeberta", "torch", "deepspeed", "safetensors")
    }


def tell(line: str) -> None:
    """Says on standard error how far the measurement is."""
    print(line, file=sys.stderr, flush=True)
