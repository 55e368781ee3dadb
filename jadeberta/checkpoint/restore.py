"""Finds the checkpoint to resume from and reads it into the engine; all ranks take part and come to the same result."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from jadeberta.checkpoint.compatibility import state_fault
from jadeberta.checkpoint.manifest import skipped_line, verify
from jadeberta.checkpoint.state_dict import read_state, restore
from jadeberta.errors import CheckpointError, JadebertaError
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.run_state import RunState


class CheckpointLoader:
    """Reads the checkpoints of one run into its engine."""

    def __init__(
        self,
        root: Path,
        engine: TrainingEngine,
        expected: dict[str, Any],
        group: dist.ProcessGroup,
        report: Callable[[Path, str], None],
    ) -> None:
        """Every rank makes one.

        Args:
            root: the run's `checkpoints` directory.
            engine: the engine that checkpoints are read into.
            expected: fingerprints and settings that a checkpoint of this run must have (`compatibility.expected_of`).
            group: process group of all ranks, for Python objects.
            report: called with every checkpoint that is skipped, and a line that says why.
        """
        self.root, self.engine, self.expected, self.group, self.report = root, engine, expected, group, report
        self.seconds = 0.0
        """Time that the last load took, hashing included."""

    def load_first_trusted(self, found: list[Path]) -> RunState | None:
        """Loads the first checkpoint of a list that can be trusted and returns its counters; None where none can.

        Bytes are hashed while they are read into the engine. Where a hash then differs, the next checkpoint is read over this one.
        """
        for directory in found:
            state, fault = self._load(directory, self.expected)
            if state is not None:
                return state
            self.report(directory, skipped_line(directory, fault))
        return None

    def branch_off(self, directory: Path, report: Callable[[str], None]) -> RunState | None:
        """Loads a checkpoint of another run, whose settings may differ, and returns its counters; None where it cannot be trusted.

        Args:
            directory: the checkpoint.
            report: called with the reason where it cannot be trusted.
        """
        state, fault = self._load(directory, None)
        if state is None:
            report(fault)
        return state

    def _load(self, directory: Path, expected: dict[str, Any] | None) -> tuple[RunState | None, str]:
        """Counters of a checkpoint that was loaded, or why it cannot be trusted; the same on every rank."""
        began = time.monotonic()
        # Rank 0 looks and broadcasts: on a shared file system two hosts may see a directory differently for a while.
        fault, state = on_root(self.group, partial(self._look, directory, expected))
        if fault is None:
            with ThreadPoolExecutor(1) as thread:
                hashed = thread.submit(verify, directory) if self.engine.process.is_root else None
                problem = self._try_restore(directory)
                faults = hashed.result() if hashed is not None else []
            problems: list[Any] = [None] * self.engine.process.world_size
            # All ranks must use the same checkpoint: one rank's problem makes every rank go on to the next one.
            dist.all_gather_object(problems, faults[0] if faults else problem, group=self.group)
            fault = next((p for p in problems if p), None)
        if fault is not None:
            return None, fault
        self.seconds = time.monotonic() - began
        self.engine.guard.recall(state.get("guard", {}))
        return RunState.of(state), ""

    def _look(self, directory: Path, expected: dict[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
        """Fault of a checkpoint as far as its small files show one, and its state; raises CheckpointError where it is another run's."""
        if faults := verify(directory, small_only=True):
            return faults[0], {}
        if fault := state_fault(directory, expected, self.engine.recipe if expected is not None else None):
            return fault, {}
        return None, read_state(directory)

    def _try_restore(self, directory: Path) -> str | None:
        """Reads a checkpoint; returns why it could not be read. An exception here would leave the other ranks waiting."""
        try:
            restore(directory, self.engine)
        except CheckpointError as e:
            return str(e)
        except Exception as e:  # a damaged file can raise anything in the library that reads it
            return f"{directory}: cannot be read ({type(e).__name__}: {e})."
        return None


def on_root(group: dist.ProcessGroup, work: Callable[[], Any]) -> Any:
    """Does some work on rank 0 and returns its result on every rank; an error is raised on every rank too."""
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [work()]
        except JadebertaError as e:
            outcome = [e]
        except OSError as e:
            outcome = [CheckpointError(f"{e.filename or 'checkpoints'}: {e.strerror or e}.")]
    # The error travels as a value: raised on rank 0 alone it would leave the other ranks in the broadcast.
    dist.broadcast_object_list(outcome, src=0, group=group)
    if isinstance(outcome[0], JadebertaError):
        raise outcome[0]
    return outcome[0]
