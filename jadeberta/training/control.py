"""Requests to a run from outside: signals, the files STOP and SAVE, and the run's own time limit.

A rank only notes requests as flags. All ranks act on the sum of their flags, which travels in the all-reduce that every step makes
anyway, so that they act at the same step without a message of their own.
"""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

from jadeberta.utils.locks import DirectoryLock

FILE_CHECK_S = 1.0
"""Shortest time between two looks for STOP and SAVE, seconds; a network file system is not asked more often."""

LOCK_CHECK_S = 10.0
"""Time between two looks at the lock of the run directory, seconds."""


@dataclass
class RankFlags:
    """Flags of one rank, each 0 or 1, or their sum over all ranks; a sum above 0 means that every rank acts."""

    requeue: int = 0
    """Save, and end with the status that asks for another attempt: USR1 (time limit near), TERM (preempted), or run.max_hours."""
    stop: int = 0
    """Save, and end for good: the file STOP."""
    save: int = 0
    """Save, and go on: the file SAVE."""
    written: int = 0
    """The rank has written its part of the pending checkpoint."""
    damaged: int = 0
    """The rank found a damaged shard; the ranks decide together whether they go on."""


class RunControl:
    """Collects the requests that reach this rank."""

    def __init__(self, run_dir: Path, is_root: bool, max_hours: float, lock: DirectoryLock | None = None) -> None:
        """Starts the clock of the time limit.

        Args:
            run_dir: where the files STOP and SAVE are looked for.
            is_root: whether this is rank 0; the other ranks answer signals only.
            max_hours: time limit from now on, hours; 0: none.
            lock: of the run directory, on rank 0; a run that has lost it ends.
        """
        self.run_dir, self.is_root = run_dir, is_root
        self.deadline = time.monotonic() + max_hours * 3600 if max_hours > 0 else None
        self.reason = ""
        """What asked this rank for a requeue, for the ledger: a signal's name or run.max_hours."""
        self._signal: str | None = None
        self._checked = 0.0
        self._lock, self._lock_checked = lock, time.monotonic()
        self._stop = self._save = False

    def listen(self) -> None:
        """Answers USR1 and TERM from now on."""
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: object) -> None:
        # Nothing else is safe here: a handler may run between any two instructions, in the middle of a collective too.
        self._signal = signal.Signals(number).name

    def flags(self) -> RankFlags:
        """The flags of this rank now; `written` and `damaged` are the caller's to fill in.

        Raises:
            ConfigError: the lock of the run directory was removed or replaced.
        """
        if self.is_root and time.monotonic() - self._checked > FILE_CHECK_S:
            self._checked = time.monotonic()
            self._stop = (self.run_dir / "STOP").exists()
            self._save = (self.run_dir / "SAVE").exists()
        if self._lock is not None and time.monotonic() - self._lock_checked > LOCK_CHECK_S:
            self._lock_checked = time.monotonic()
            self._lock.require_held()
        # Rank 0 alone looks at the clock: clocks of hosts differ, and one flag is enough.
        overdue = self.is_root and self.deadline is not None and time.monotonic() > self.deadline
        self.reason = self._signal or ("run.max_hours" if overdue else "")
        return RankFlags(requeue=int(bool(self.reason)), stop=int(self._stop), save=int(self._save))

    def clear(self, name: str) -> None:
        """Removes the file STOP or SAVE once the run has done what it asks."""
        if self.is_root:
            (self.run_dir / name).unlink(missing_ok=True)
            # The next look at the file is up to a second away, the next step may be sooner.
            self._stop, self._save = self._stop and name != "STOP", self._save and name != "SAVE"
