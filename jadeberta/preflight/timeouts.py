"""Time limits for one call and for the whole command.

A call into a dead file system or driver never returns, and no signal interrupts it, so it runs in a thread that is abandoned.
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
"""Most seconds of import time that count against the deadline: on a cold shared disk all ranks import slowly, and none is to blame."""
ON_DEADLINE_S = 3.0
"""Time limit of the callback at the deadline, seconds."""


class TimedOut(Exception):
    """A call did not return in time."""


class BackgroundCall(Generic[T]):
    """A function call in a thread of its own."""

    stuck = 0
    """Abandoned calls of this process; its exit must not wait for them."""

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
        """Waits until the call has ended, or the seconds have passed."""
        self._thread.join(max(0.0, seconds))

    def result(self, seconds: float) -> T:
        """Returns what the call returned, or raises what it raised. Raises TimedOut if it has not ended within the seconds."""
        self.wait(seconds)
        if self._thread.is_alive():
            BackgroundCall.stuck += 1
            raise TimedOut(f"no answer within {seconds:.0f} s")
        if self._error:
            raise self._error[0]
        return self._value[0]


def call_with_timeout(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function with a time limit. Raises what the function raises, and TimedOut if it does not return within the seconds."""
    return BackgroundCall(function, *arguments).result(seconds)


def process_age() -> float:
    """Returns the seconds since this process started, imports included."""
    # From the right: the name stands in brackets and may itself hold spaces and brackets.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


class Deadline:
    """Ends this process at a deadline, even if it hangs in a system call."""

    def __init__(self, limit: float, on_deadline: Callable[[str], None]) -> None:
        """Starts the timer.

        Args:
            limit: seconds from the start of the process; at most IMPORTS_S of the imports count.
            on_deadline: called with a sentence before the process ends.
        """
        self.section = "start"
        """What the process is doing, for the message."""
        self._limit, self._on_deadline = limit, on_deadline
        self._deadline = time.monotonic() + limit - min(process_age(), IMPORTS_S)
        self._over = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    @property
    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def extend(self, seconds: float) -> None:
        """Moves the deadline back."""
        self._limit += seconds
        self._deadline += seconds

    def cancel(self) -> None:
        """Stops the timer."""
        self._over.set()

    def _wait(self) -> None:
        while (remaining := self.remaining) > 0:
            if self._over.wait(remaining):
                return
        if self._over.is_set():
            return
        sentence = f"the preflight was not done after {self._limit:.0f} s; this rank was at: {self.section}"
        with contextlib.suppress(Exception):  # the process ends in any case
            call_with_timeout(ON_DEADLINE_S, self._on_deadline, sentence)
        # sys.exit would end this thread only, and the main thread may hang in a system call.
        os._exit(1)
