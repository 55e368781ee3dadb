"""Part: how long a save stops the training: ours, whose tensors leave the device first, and torch.save, which writes while all wait."""

import shutil
import statistics
import tempfile
from importlib import metadata
from pathlib import Path

import torch.distributed as dist

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import Machine
from jadeberta.cluster.process_group import join_process_group
from jadeberta.training.ledger import Ledger


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """Rows ours and torch.save: seconds of the stall and until the bytes are on the disk."""
    from bench.checkpointing.alternatives import Ours, TorchSave, Way
    from bench.checkpointing.workload import (
        ALONE,
        bytes_of,
        context_of,
        engine_of,
        make_shards,
        recipe_of,
        settle,
        state_of,
    )  # fmt: skip
    from jadeberta.checkpoint import checkpointer as checkpoints

    checkpoints.version = _version  # a bare machine has the project as a checkout, not installed
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        join_process_group(ALONE, machine.device, 600)
        recipe = recipe_of("large", folder / "run", **machine.sizes.engine_model)
        engine = engine_of(recipe, machine.device)
        shards = make_shards(folder / "shards", recipe.model.vocab_size)
        ledger = Ledger(folder / "run" / "ledger.jsonl", 0)
        checkpointer = checkpoints.Checkpointer(context_of(recipe, engine, shards, ledger), engine)
        checkpointer.resume("auto")
        state = state_of(engine)
        rows.put("state_gb", bytes_of(state.values()) / 1e9)
        ways: list[Way] = [Ours(checkpointer), TorchSave(state)]
        times: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
        for _ in range(3):
            for one in ways:
                settle(engine.device)  # queued work would count as part of the stall
                with machine.alone():
                    times[one.name].append(one.save(folder / "save"))
                shutil.rmtree(folder / "save", ignore_errors=True)
                counted = times[one.name][1:] or times[one.name]  # the first registers memory and starts the writer
                row: dict[str, object] = {"way": one.name, "first_stall_s": times[one.name][0][0]}
                row |= {
                    "stall_s": statistics.median(t[0] for t in counted),
                    "durable_s": statistics.median(t[1] for t in counted),
                }
                rows.add(row | {"measured": len(counted)})
            if machine.left() < 10:
                break
        checkpointer.close()
        engine.close()
        dist.destroy_process_group()


def _version(distribution_name: str) -> str:
    try:
        return metadata.version(distribution_name)
    except metadata.PackageNotFoundError:
        return "not installed"
