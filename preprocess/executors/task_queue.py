"""Decides which task of a call is handed out next; knows neither MPI nor files.

Promises that every task is handed out once, in the order given except for tasks that are not ready yet, and that nobody waits for a task
that nobody can make ready any more.
"""

import time
from collections import deque
from collections.abc import Callable

END, WAIT = -1, -2
"""Answers in place of a task's number: no task is left; no task is ready now, ask again."""
READY_CHECK_SECONDS = 0.2
"""Shortest time between two checks of the tasks that are not ready; a check asks once for each of them."""
STALL_SECONDS = 120.0
"""How long a file server may hide a new file from another host. A task that is not ready after that, with nobody at work, never will be."""


class TaskQueue:
    """The tasks of one call of `Executor.map`."""

    def __init__(self, count: int, is_ready: Callable[[int], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        count: number of tasks; they are numbered from 0.
        is_ready: says whether a task can be begun; asked again until it is true.
        clock: seconds.
        """
        self._is_ready, self._clock = is_ready, clock
        ready = [is_ready(number) for number in range(count)]
        self._open = deque(number for number in range(count) if ready[number])
        self._not_ready = [number for number in range(count) if not ready[number]]
        self._checked = self._active = clock()
        self._running, self._failed = 0, False

    def take(self) -> int:
        """Returns the number of the next task, `WAIT` or `END`; who takes a task calls `finish` for it."""
        self._check_ready()
        if self._failed or not (self._open or self._not_ready):
            return END
        if not self._open:
            stalled = not self._running and self._clock() - self._active > STALL_SECONDS
            return END if stalled else WAIT
        self._running += 1
        return self._open.popleft()

    def finish(self, failed: bool) -> None:
        """Notes that a task is done; after a failed one no more are handed out."""
        self._running -= 1
        self._failed |= failed
        # The task may have made others ready: check at once.
        self._active, self._checked = self._clock(), float("-inf")

    def _check_ready(self) -> None:
        now = self._clock()
        if self._not_ready and now - self._checked >= READY_CHECK_SECONDS:
            self._checked = now
            ready = {number for number in self._not_ready if self._is_ready(number)}
            if ready:
                self._active = now
                self._open.extend(sorted(ready))
                self._not_ready = [number for number in self._not_ready if number not in ready]
