"""Time limits for what may hang: one check, or the whole command.

A call into a dead file system or driver does not come back, and no signal brings it back; it is left in a thread of its own.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
IMPORTS_S = 15.0
"""Of the time before the first line so much counts: where a shared disk is cold, all ranks import slowly and none is to blame."""
LAST_WORDS_S = 3.0


class TimedOut(Exception):
    """It did not answer in time."""


class Later(Generic[T]):
    """A call that runs beside this thread."""

    stuck = 0
    """Calls of this process that were given up; its end must not wait for them."""

    def __init__(self, function: Callable[..., T], *arguments: Any) -> None:
        self._value: list[T] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        try:
            self._value.append(function(*arguments))
        except BaseException as e:
            self._error.append(e)

    def wait(self, seconds: float) -> None:
        """Until it is done, or some seconds have passed."""
        self._thread.join(max(0.0, seconds))

    def result(self, seconds: float) -> T:
        """What the call returned or raised. Raises TimedOut where it has done neither within some seconds."""
        self.wait(seconds)
        if self._thread.is_alive():
            Later.stuck += 1
            raise TimedOut(f"no answer within {seconds:.0f} s")
        if self._error:
            raise self._error[0]
        return self._value[0]


def bounded(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function. Raises what it raises, and TimedOut where it is not back within some seconds."""
    return Later(function, *arguments).result(seconds)


def process_age() -> float:
    """Seconds since this process was started, imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


class Watch:
    """Ends this process at a time, whatever it hangs in."""

    def __init__(self, limit: float, last_words: Callable[[str], None]) -> None:
        """Starts counting.

        Args:
            limit: seconds from the start of the process, of whose imports no more than IMPORTS_S count.
            last_words: called with a sentence before the end.
        """
        self.at = "starts"
        """What the process does."""
        self._limit, self._last_words = limit, last_words
        self._deadline = time.monotonic() + limit - min(process_age(), IMPORTS_S)
        self._over = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    @property
    def left(self) -> float:
        """Seconds."""
        return self._deadline - time.monotonic()

    def cancel(self) -> None:
        self._over.set()

    def _wait(self) -> None:
        if self._over.wait(max(0.0, self.left)):
            return
        sentence = f"the preflight was not done after {self._limit:.0f} s; this rank was at: {self.at}"
        with contextlib.suppress(Exception):  # the end comes in any case
            bounded(LAST_WORDS_S, self._last_words, sentence)
        os._exit(1)
