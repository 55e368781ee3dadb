"""Requests to a run from outside: signals, the files STOP, SAVE and PROFILE, and the run's own time limit.

A rank only notes requests as flags. All ranks act on the sum of their flags, which travels in the all-reduce that every step makes
anyway, so that they act at the same step without a message of their own.
"""

import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from jadeberta.training.watchdog.heartbeat import write_stderr
from jadeberta.utils.interrupts import INTERRUPTED
from jadeberta.utils.locks import DirectoryLock

logger = logging.getLogger(__name__)

REQUESTS = ("STOP", "SAVE", "PROFILE")
"""Files in the run directory that ask for something."""
FILE_CHECK_S = 1.0
"""Shortest time between two looks for the files of `REQUESTS`, seconds; a network file system is not asked more often."""

LOCK_CHECK_S = 10.0
"""Time between two looks at the lock of the run directory, seconds."""

ONE_PRESS_S = 0.5
"""SIGINTs within this time are one Ctrl-C: the terminal sends it to the rank and to its launcher, which forwards it."""


@dataclass
class RankFlags:
    """Flags of one rank, each 0 or 1, or their sum over all ranks; a sum above 0 means that every rank acts."""

    requeue: int = 0
    """Save, and end with the status that asks for another attempt: USR1 (time limit near), TERM (preempted), or run.max_hours."""
    stop: int = 0
    """Save, and end for good: the file STOP, or Ctrl-C."""
    save: int = 0
    """Save, and go on: the file SAVE."""
    written: int = 0
    """The rank has written its part of the pending checkpoint."""
    damaged: int = 0
    """The rank found a damaged shard; the ranks decide together whether they go on."""
    profile: int = 0
    """Profile the next steps: the file PROFILE."""


class RunControl:
    """Collects the requests that reach this rank."""

    def __init__(self, run_dir: Path, is_root: bool, max_hours: float, lock: DirectoryLock | None = None) -> None:
        """Starts the clock of the time limit.

        Args:
            run_dir: where the files STOP, SAVE and PROFILE are looked for.
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
        self._interrupted = False
        self._asked: set[str] = set()  # names of files that ask for something now
        self._done: set[str] = set()  # names of files whose request was carried out but which could not be removed

    def listen(self) -> None:
        """Answers USR1, TERM and Ctrl-C from now on; call it in the main thread."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)
        # Python's own handlers wait while the main thread is in a collective; this pipe is written to at once.
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._wakeup = theirs
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._end_at_second_interrupt, args=(ours,), name="interrupts", daemon=True).start()

    def _note_signal(self, number: int, frame: object) -> None:
        # Nothing else is safe here: a handler may run between any two instructions, in the middle of a collective too.
        if number == signal.SIGINT:
            self._interrupted = True
        else:
            self._signal = signal.Signals(number).name

    def _end_at_second_interrupt(self, signals: socket.socket) -> None:
        """Ends the process at the second Ctrl-C, whatever the main thread does; the body of a thread."""
        first = None
        while received := signals.recv(1):
            if received[0] != signal.SIGINT:
                continue
            if first is None:
                first = time.monotonic()
                self._say("interrupted: it saves after this step and ends; Ctrl-C again ends it at once, without a save")
            elif time.monotonic() - first > ONE_PRESS_S:
                self._say("interrupted again: ended at once")
                os._exit(INTERRUPTED)

    def _say(self, what: str) -> None:
        if self.is_root:
            write_stderr(what)

    def flags(self) -> RankFlags:
        """The flags of this rank now; `written` and `damaged` are the caller's to fill in.

        Raises:
            ConfigError: the lock of the run directory was removed or replaced.
        """
        if self.is_root and time.monotonic() - self._checked > FILE_CHECK_S:
            self._checked = time.monotonic()
            self._asked = {name for name in REQUESTS if self._is_asked(name)}
        if self._lock is not None and time.monotonic() - self._lock_checked > LOCK_CHECK_S:
            self._lock_checked = time.monotonic()
            self._lock.require_held()
        # Rank 0 alone looks at the clock: clocks of hosts differ, and one flag is enough.
        overdue = self.is_root and self.deadline is not None and time.monotonic() > self.deadline
        self.reason = self._signal or ("run.max_hours" if overdue else "")
        return RankFlags(
            requeue=int(bool(self.reason)),
            stop=int("STOP" in self._asked or self._interrupted),
            save=int("SAVE" in self._asked),
            profile=int("PROFILE" in self._asked),
        )

    def _is_asked(self, name: str) -> bool:
        """Whether the file is there; not one that is left of a request which was carried out."""
        try:
            (self.run_dir / name).lstat()  # a link without a target is a request too
        except FileNotFoundError:
            self._done.discard(name)
            return False
        except OSError:
            return False  # a file system that does not answer asks for nothing
        return name not in self._done

    @property
    def stopped_by(self) -> str:
        """What asked to end for good, in words."""
        if "STOP" in self._asked:
            return f"{self.run_dir}/STOP was found"
        return "Ctrl-C (SIGINT) came" if self._interrupted else "Ctrl-C (SIGINT) came to another rank"

    def clear(self, name: str) -> None:
        """Removes a file of `REQUESTS` once the run has done what it asks; one that cannot be removed is reported and left alone."""
        if self.is_root:
            try:
                (self.run_dir / name).unlink(missing_ok=True)
            except OSError as e:
                self._done.add(name)
                logger.warning(
                    "%s: cannot be removed (%s). It was done what it asks, once; remove it yourself.",
                    self.run_dir / name,
                    e.strerror,
                )
            # The next look at the file is up to a second away, the next step may be sooner.
            self._asked.discard(name)
