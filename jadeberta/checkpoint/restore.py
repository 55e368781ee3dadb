"""Finds the checkpoint to go on from and reads it into the engine; all ranks take part and come to the same end."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from jadeberta.checkpoint.compatibility import refuse_foreign, refuse_inconsistent
from jadeberta.checkpoint.manifest import passed_over, verify
from jadeberta.checkpoint.state_dict import read_state, restore
from jadeberta.errors import CheckpointError, JadebertaError
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.run_state import RunState


class Restorer:
    """Reads checkpoints of one run."""

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
            engine: what is read into.
            expected: what a checkpoint of this run says of its data and settings (`identity.expected_of`).
            group: of all ranks, for Python objects.
            report: told of every checkpoint that is passed over.
        """
        self.root, self.engine, self.expected, self.group, self.report = root, engine, expected, group, report
        self.seconds = 0.0
        """What the last restoring took, hashing included."""

    def first_trusted(self, found: list[Path]) -> RunState | None:
        """Restores the first checkpoint of a list that can be trusted; None where none can.

        Its bytes are hashed while they are read into the engine; where the hash then says no, the next one is read over it.
        """
        for directory in found:
            began = time.monotonic()
            fault, state = on_root(self.group, partial(self._look, directory))
            if fault is None:
                with ThreadPoolExecutor(1) as beside:
                    hashed = beside.submit(verify, directory) if self.engine.process.is_root else None
                    problem = self._try_restore(directory)
                    faults = hashed.result() if hashed is not None else []
                problems: list[Any] = [None] * self.engine.process.world_size
                dist.all_gather_object(problems, faults[0] if faults else problem, group=self.group)
                fault = next((p for p in problems if p), None)
            if fault is None:
                self.seconds = time.monotonic() - began
                self.engine.guard.recall(state.get("guard", {}))
                return RunState.of(state)
            self.report(directory, passed_over(directory, fault))
        return None

    def _look(self, directory: Path) -> tuple[str | None, dict[str, Any]]:
        """What is wrong with a checkpoint as far as its small files tell, and its state. Raises CheckpointError where it is foreign."""
        if faults := verify(directory, small_only=True):
            return faults[0], {}
        state = read_state(directory)
        refuse_foreign(directory, state, self.expected)
        refuse_inconsistent(directory, state)
        return None, state

    def _try_restore(self, directory: Path) -> str | None:
        """The reason why a checkpoint could not be read; raised here it would leave the other ranks waiting."""
        try:
            restore(directory, self.engine)
        except CheckpointError as e:
            return str(e)
        except Exception as e:  # whatever a damaged file does to its reader
            return f"{directory}: cannot be read ({type(e).__name__}: {e})."
        return None


def on_root(group: dist.ProcessGroup, work: Callable[[], Any]) -> Any:
    """Rank 0's result on every rank; its error too."""
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [work()]
        except JadebertaError as e:
            outcome = [e]
        except OSError as e:
            outcome = [CheckpointError(f"{e.filename or 'checkpoints'}: {e.strerror or e}.")]
    dist.broadcast_object_list(outcome, src=0, group=group)
    if isinstance(outcome[0], JadebertaError):
        raise outcome[0]
    return outcome[0]
