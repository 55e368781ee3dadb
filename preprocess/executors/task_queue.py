"""Which pieces of a call are open, and who gets the next one: decided here, without MPI and without files.

Promises that every piece is handed out once, in the order given, but for those that are not ready yet; and that nobody waits for a piece
which nobody can make ready any more.
"""

import time
from collections import deque
from collections.abc import Callable

END, WAIT = -1, -2
"""What is said in place of a piece's number: nothing is left; nothing is ready now, ask again."""
LOOK_SECONDS = 0.2
"""Between two looks at the pieces that are not ready; each look asks once for each."""
STALL_SECONDS = 120.0
"""So long a file server may hide a new file from another machine. What is not ready then, with nobody at work, never will be."""


class Deck:
    """The pieces of one call."""

    def __init__(self, count: int, is_ready: Callable[[int], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        count: pieces are numbered from 0.
        is_ready: whether a piece can be begun; asked again until it is so.
        clock: seconds.
        """
        self._is_ready, self._clock = is_ready, clock
        ready = [is_ready(number) for number in range(count)]
        self._open = deque(number for number in range(count) if ready[number])
        self._gated = [number for number in range(count) if not ready[number]]
        self._looked = self._alive = clock()
        self._held, self._failed = 0, False

    def take(self) -> int:
        """The number of the next piece, `WAIT` or `END`; who takes a piece gives it back with `finish`."""
        self._look()
        if self._failed or not (self._open or self._gated):
            return END
        if not self._open:
            stalled = not self._held and self._clock() - self._alive > STALL_SECONDS
            return END if stalled else WAIT
        self._held += 1
        return self._open.popleft()

    def finish(self, failed: bool) -> None:
        """A piece that was taken is done; after a failed one no more are handed out."""
        self._held -= 1
        self._failed |= failed
        self._alive, self._looked = self._clock(), float("-inf")

    def _look(self) -> None:
        now = self._clock()
        if self._gated and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            ready = {number for number in self._gated if self._is_ready(number)}
            if ready:
                self._alive = now
                self._open.extend(sorted(ready))
                self._gated = [number for number in self._gated if number not in ready]
