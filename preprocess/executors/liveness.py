"""Liveness over a shared file system: each process has a small helper process that renews a file; others watch whether it changes.

Promises that a process which ends, however it ends, is known to be dead at once, and one whose host is gone after `silence` seconds. No
clock is compared with another host's, and no file time is read: a watcher counts by its own clock while the file does not change.
The helper is a process and not a thread: a library that holds Python's lock for an hour (the tokenizer's trainer) must not look like a
dead host.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jadeberta.utils.processes import helper_signals_blocked

CHECK_SECONDS = 5.0
"""A check of an unchanged file counts as no more silence than this: the watcher itself may have stood still in between."""


class LivenessWriter:
    """Renews this process's file, from here to `stop` or to the end of the process."""

    def __init__(self, path: Path, silence: float) -> None:
        """Returns once the file exists. If the helper process is killed, this process ends with status 1.

        Args:
            path: file to renew, in a directory that exists.
            silence: seconds without a renewal after which others take this process for dead; see `renew`.

        Raises:
            OSError: the file cannot be written.
        """
        # Found from any working directory, of which nothing is imported.
        command = [sys.executable, "-P", "-m", "preprocess.executors.liveness", str(path), str(silence)]
        roots = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots))}
        self._stopping = False
        # Slurm and mpirun send their signals to every process of the job; only the end of this process may end the helper.
        with helper_signals_blocked():
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        if self._process.stdout is None or not self._process.stdout.readline():
            raise OSError(None, "the liveness file cannot be written", str(path))
        threading.Thread(target=self._end_with_helper, daemon=True).start()

    def _end_with_helper(self) -> None:
        self._process.wait()
        if not self._stopping:
            # Others take this process for dead from now on: one of them does its task, and two must not write the same files.
            os._exit(1)

    def stop(self) -> None:
        """Removes the file: the others know that this process is gone."""
        self._stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


class LivenessMonitor:
    """Finds out which processes are dead, from their files."""

    def __init__(self, silence: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        silence: seconds without a change after which a process is dead.
        clock: seconds of this process.
        """
        self._silence, self._clock = silence, clock
        self._seen: dict[Path, tuple[bytes, float, float]] = {}

    def is_dead(self, path: Path) -> bool:
        """Returns whether the file is gone, or was the same at every check for `silence` seconds; call it again and again."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return True
        now = self._clock()
        before, silent, checked = self._seen.get(path, (b"", 0.0, now))
        silent = silent + min(now - checked, CHECK_SECONDS) if content == before else 0.0
        self._seen[path] = (content, silent, now)
        return silent > self._silence


def renew(path: Path, silence: float) -> None:
    """Renews a file until the pipe on standard input ends, then removes it. The helper process runs this.

    If a renewal comes so late that others may have taken the parent for dead (the host or the file server stood still), the parent is
    killed: it must not write beside the process that does its task now.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the end of a login must not end it; the job's signals are blocked
    parent, interval, count = os.getppid(), silence / 12, 0
    last = _boot_clock()
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    while True:
        os.pwrite(file, b"%012d\n" % count, 0)
        os.fsync(file)
        late, last = _boot_clock() - last, _boot_clock()
        if late > silence * 0.75:
            text = f"the liveness file could not be renewed for {late:.0f} s: the host or the file server stood still."
            print(f"{text} Others may have taken over this process's task, so process {parent} is ended.", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.kill(parent, signal.SIGKILL)
            break
        if count == 0:
            print("alive", flush=True)
        count += 1
        # A wait that ends at once when the parent closes the pipe, or dies.
        if select.select([0], [], [], interval)[0]:
            break
    path.unlink(missing_ok=True)


def _boot_clock() -> float:
    """Seconds since boot; unlike the monotonic clock it goes on while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    renew(Path(sys.argv[1]), float(sys.argv[2]))
