"""Part A: how long a save stops the training, and how long its bytes need to the disk."""

import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from bench.checkpointing.alternatives import KINDS, AsyncSave, AsyncSaves, DeepSpeed, Ours, TorchSave, Way
from bench.checkpointing.workload import await_quiet, settle, state_of, summary, target, tell
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.training.engine import TrainingEngine

LIMIT = 0.15
"""Of the time of a blocking torch.save."""


def measure(engine: TrainingEngine, checkpointer: Checkpointer, directory: Path, rounds: int, patience: float) -> dict[str, Any]:
    """Every way in turn, each round beginning with another one; `checkpointer` has its memory already."""
    state = state_of(engine)
    Ours(checkpointer).save(directory)  # starts the writer
    saves = AsyncSaves(state, checkpointer.group)
    saves.warm_up(directory)
    ways: list[Way] = [Ours(checkpointer), TorchSave(state), DeepSpeed(engine), *(AsyncSave(saves, kind) for kind in KINDS)]
    stalls: dict[str, list[float]] = {way.name: [] for way in ways}
    durable: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            # Work that is still queued would count as part of the stall.
            settle(engine.device)
            await_quiet(patience)
            times = way.save(directory / "save")
            shutil.rmtree(directory / "save", ignore_errors=True)
            stalls[way.name].append(times.stall)
            durable[way.name].append(times.durable)
            tell(f"  save {number + 1}: {way.name}: stall {times.stall:.3f} s, durable after {times.durable:.2f} s")
    saves.close()
    blocking = statistics.median(stalls[TorchSave.name])
    share = statistics.median(stalls[Ours.name]) / blocking
    rows = [
        {
            "way": way.name,
            "flushes": way.flushes,
            "stall": summary(stalls[way.name]),
            "durable": summary(durable[way.name]),
            "stall_of_torch_save": statistics.median(stalls[way.name]) / blocking,
        }
        for way in ways
    ]
    return {"rows": rows, "threads": torch.get_num_threads(), "targets": [target("stall / torch.save", share, LIMIT)]}


def lines(result: dict[str, Any]) -> list[str]:
    out = [f"A. one save ({result['threads']} threads)             stall   of torch.save   durable after   flushes by itself"]
    for row in result["rows"]:
        stall, durable = row["stall"]["median_s"], row["durable"]["median_s"]
        out.append(
            f"   {row['way']:<28} {stall:8.3f} s   {row['stall_of_torch_save']:10.1%}   {durable:11.2f} s   {row['flushes']}"
        )
    return out
