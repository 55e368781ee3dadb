"""The ways to save that are compared; each tells how long it stops the training and when its bytes are on the disk.

torch.distributed.checkpoint gets its best: one staging area of shared memory that is kept from save to save, pinned on a GPU,
and tensors that share no storage.
"""

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from bench.checkpointing.workload import apart, flush
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.checkpoint.manifest import directory_name
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.lr_schedule import learning_rate
from jadeberta.training.run_state import RunState

PATIENCE_S = 600.0
KINDS = {"thread": AsyncCheckpointerType.THREAD, "process": AsyncCheckpointerType.PROCESS}


class Times(NamedTuple):
    """Seconds of one save."""

    stall: float
    """That the training waited."""
    durable: float
    """From the start until the bytes were flushed to the disk, by whomever."""


class Way(Protocol):
    """One way to save."""

    name: str
    flushes: str
    """Whether it brings its bytes to the disk itself."""

    def save(self, directory: Path) -> Times:
        """Saves into a directory that is not there yet, and returns when all is on the disk."""


class Ours:
    """`Checkpointer.save`, with its writer process, manifest, rename and flushes."""

    name = "jadeberta"
    flushes = "yes, and renames a verified directory into place"

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer, self.step = checkpointer, checkpointer.committed

    def begin(self) -> None:
        """Returns as soon as the training may go on."""
        self.step += 1
        training = self.checkpointer.recipe.training
        lr = learning_rate(
            self.step - 1,
            peak=training.lr,
            warmup_steps=training.warmup_steps,
            max_steps=training.max_steps,
            schedule=training.schedule,
        )
        self.checkpointer.save(RunState(step=self.step, skipped_steps=self.step), lr)

    def finish(self) -> None:
        """Returns when the checkpoint is on the disk, whole and under its name."""
        self.checkpointer.drain()
        assert self.checkpointer.committed == self.step, "the checkpoint was not written"

    def save(self, directory: Path) -> Times:
        """Saves; `directory` stays empty, the checkpoint goes into the run directory."""
        began = time.perf_counter()
        self.begin()
        stall = time.perf_counter() - began
        self.finish()
        durable = time.perf_counter() - began
        self._await_readback()
        return Times(stall, durable)

    def _await_readback(self) -> None:
        """The writer reads the checkpoint back and removes the one before; what comes next is not to share the disk with it."""
        deadline = time.monotonic() + PATIENCE_S
        while {path.name for path in self.checkpointer.root.iterdir()} != {directory_name(self.step)} or self._is_reading():
            assert time.monotonic() < deadline, "the checkpoint is not read back"
            self.checkpointer.has_written()
            time.sleep(0.02)

    def _is_reading(self) -> bool:
        lines = self.checkpointer.context.ledger.path.read_bytes().splitlines()
        return not any(b'"verified"' in line and b'"step":%d,' % self.step in line for line in lines)


class TorchSave:
    """One file with everything, written while the training waits."""

    name = "torch.save"
    flushes = "no; the benchmark flushes it"

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def save(self, directory: Path) -> Times:
        directory.mkdir()
        began = time.perf_counter()
        torch.save(self.state, directory / "state.pt")
        stall = time.perf_counter() - began
        flush(directory)
        return Times(stall, time.perf_counter() - began)


class DeepSpeed:
    """The engine's own checkpoint."""

    name = "DeepSpeed save_checkpoint"
    flushes = "no; the benchmark flushes it"

    def __init__(self, engine: TrainingEngine) -> None:
        self.engine = engine

    def save(self, directory: Path) -> Times:
        began = time.perf_counter()
        self.engine.engine.save_checkpoint(str(directory), tag="bench")
        stall = time.perf_counter() - began
        flush(directory)
        return Times(stall, time.perf_counter() - began)


class AsyncSaves:
    """torch.distributed.checkpoint.async_save, by a thread or a process, from one staging area."""

    def __init__(self, state: dict[str, torch.Tensor], group: "dist.ProcessGroup") -> None:
        cuda = torch.cuda.is_available()
        self.state, self.group = {name: apart(tensor) for name, tensor in state.items()}, group
        self._alive = [tensor.untyped_storage() for tensor in self.state.values()]  # the stager forgets areas of others
        self.stager = DefaultStager(
            StagingOptions(use_pinned_memory=cuda, use_shared_memory=True, use_async_staging=False, use_non_blocking_copy=cuda)
        )

    def start(self, kind: str, directory: Path, state: dict[str, Any] | None = None) -> Any:
        """Stages the state and begins to write it; returns the future of the write."""
        return dcp.async_save(
            self.state if state is None else state,
            storage_writer=dcp.FileSystemWriter(directory),
            process_group=self.group,
            async_checkpointer_type=KINDS[kind],
            async_stager=self.stager,
        )

    def warm_up(self, directory: Path) -> None:
        """Starts what is started once: the process, with its imports, and the staging area."""
        self.stager.stage(self.state)
        for kind in KINDS:
            self.start(kind, directory / kind, {"x": torch.zeros(1)}).result()
            shutil.rmtree(directory / kind)

    def close(self) -> None:
        """Ends the process and gives the staging area back."""
        from torch.distributed.checkpoint import _async_process_executor as executor

        process, executor._CHECKPOINT_PROCESS = executor._CHECKPOINT_PROCESS, None
        if process is not None:
            del process  # its finaliser ends it
        self.stager.close()
        self._alive.clear()


class AsyncSave:
    """One kind of the above."""

    flushes = "files yes, directory no"

    def __init__(self, saves: AsyncSaves, kind: str) -> None:
        self.saves, self.kind, self.name = saves, kind, f"torch async_save, {kind}"

    def save(self, directory: Path) -> Times:
        began = time.perf_counter()
        future = self.saves.start(self.kind, directory)
        stall = time.perf_counter() - began
        future.result()
        return Times(stall, time.perf_counter() - began)
