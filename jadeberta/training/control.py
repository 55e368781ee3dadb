"""What a run is asked from outside: signals, the files STOP and SAVE, and its own time limit.

A rank only notes what it was asked; all ranks act on the sum of their notes, which travels with the step's own all-reduce, so that
they agree without a message of their own.
"""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

FILES_EVERY_SECONDS = 1.0
"""A network file system is not asked more often than that."""


@dataclass
class Asks:
    """Numbers of ranks that were asked; summed over ranks, above 0 means that it is to be done."""

    requeue: int = 0
    """Save and end with the status that asks for another life: USR1 (time limit near), TERM (preempted), or run.max_hours."""
    stop: int = 0
    """Save and end for good: the file STOP."""
    save: int = 0
    """Save and go on: the file SAVE."""
    written: int = 0
    """Ranks that have done their part of the pending checkpoint."""
    damaged: int = 0
    """Ranks that found a damaged shard and may not go on."""


class Control:
    """Collects what this rank is asked."""

    def __init__(self, run_dir: Path, is_root: bool, max_hours: float) -> None:
        self.run_dir, self.is_root = run_dir, is_root
        self.deadline = time.monotonic() + max_hours * 3600 if max_hours > 0 else None
        self.reason = ""
        """What asked for a requeue, for the ledger."""
        self._signal: str | None = None
        self._looked = 0.0
        self._stop = self._save = False

    def listen(self) -> None:
        """Takes USR1 and TERM from now on; the handler only makes a note, as nothing else is safe in one."""
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._signal = signal.Signals(number).name

    def poll(self) -> Asks:
        """What this rank has been asked up to now."""
        if self.is_root and time.monotonic() - self._looked > FILES_EVERY_SECONDS:
            self._looked = time.monotonic()
            self._stop = (self.run_dir / "STOP").exists()
            self._save = (self.run_dir / "SAVE").exists()
        overdue = self.is_root and self.deadline is not None and time.monotonic() > self.deadline
        self.reason = self._signal or ("run.max_hours" if overdue else "")
        return Asks(requeue=int(bool(self.reason)), stop=int(self._stop), save=int(self._save))

    def done(self, name: str) -> None:
        """Takes back the file that asked."""
        if self.is_root:
            (self.run_dir / name).unlink(missing_ok=True)
            self._stop, self._save = self._stop and name != "STOP", self._save and name != "SAVE"
