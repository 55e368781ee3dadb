"""Signs of life over a shared file system: each process has a small one beside it that renews a file; others watch the file change.

Promises that a process which ends, however it ends, is known to be gone at once, and one whose machine is gone after `silence`
seconds. No clock is compared with another machine's, and no file's time: a watcher counts by its own clock while nothing changes.
Beside, not within: a library that holds Python's lock for an hour (the tokenizer's trainer) must not look like a dead machine.
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

LOOK_SECONDS = 5.0
"""One look at an unchanged file counts as no more silence than this: the watcher itself may have stood still in between."""


class Heartbeat:
    """This process's sign of life, from here to `stop` or to the end of the process."""

    def __init__(self, path: Path, silence: float) -> None:
        """Returns once the file is there; the process ends with status 1 where its heartbeat is ended from outside.

        Args:
            path: file to renew, in a directory that exists.
            silence: seconds of standstill after which others take this process for dead; see `beat`.
        """
        command = [sys.executable, "-m", "preprocess.executors.liveness", str(path), str(silence)]
        self._stopping = False
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._process.stdout is None or not self._process.stdout.readline():
            raise OSError(None, "no sign of life can be written", str(path))
        threading.Thread(target=self._end_with_it, daemon=True).start()

    def _end_with_it(self) -> None:
        self._process.wait()
        if not self._stopping:
            # Others take this process for dead from now on: what it would still write, one of them writes too.
            os._exit(1)

    def stop(self) -> None:
        """Tells the others that this process is gone."""
        self._stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


class Watch:
    """Tells which processes are dead, from their files."""

    def __init__(self, silence: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        silence: seconds without a change after which a process is dead.
        clock: seconds of this process.
        """
        self._silence, self._clock = silence, clock
        self._seen: dict[Path, tuple[bytes, float, float]] = {}

    def is_dead(self, path: Path) -> bool:
        """Whether the file is gone, or was the same at every look for `silence` seconds; to be asked again and again."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return True
        now = self._clock()
        before, silent, looked = self._seen.get(path, (b"", 0.0, now))
        silent = silent + min(now - looked, LOOK_SECONDS) if content == before else 0.0
        self._seen[path] = (content, silent, now)
        return silent > self._silence


def beat(path: Path, silence: float) -> None:
    """Renews a file until the pipe on standard input ends, then removes it.

    Where a renewal comes so late that others may have taken the parent for dead (the machine or the file server stood still), the
    parent is killed: it must not write beside the one that does its work now.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Slurm sends these to all of a job; the parent's end is what counts
    parent, interval, count = os.getppid(), silence / 12, 0
    last = _clock_through_sleep()
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    while True:
        os.pwrite(file, b"%012d\n" % count, 0)
        os.fsync(file)
        late, last = _clock_through_sleep() - last, _clock_through_sleep()
        if late > silence * 0.75:
            text = f"no sign of life could be given for {late:.0f} s: the machine or the file server stood still."
            print(f"{text} Others may have taken over this process's piece, so process {parent} is ended.", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.kill(parent, signal.SIGKILL)
            break
        if count == 0:
            print("alive", flush=True)
        count += 1
        if select.select([0], [], [], interval)[0]:
            break
    path.unlink(missing_ok=True)


def _clock_through_sleep() -> float:
    """Seconds that pass while the machine is suspended, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    beat(Path(sys.argv[1]), float(sys.argv[2]))
