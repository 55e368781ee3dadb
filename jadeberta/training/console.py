"""What a run prints: a live line on a terminal, plain lines in a log. Only rank 0 speaks."""

import sys
import time

from jadeberta.config.batch_sizes import ALIKE, BatchSizes


def duration(seconds: float) -> str:
    """Seconds as 36d 04h, 2h 05m, 3m 20s or 12s."""
    s = int(seconds)
    if s >= 86400:
        return f"{s // 86400}d {s % 86400 // 3600:02d}h"
    if s >= 3600:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 60}m {s % 60:02d}s" if s >= 60 else f"{s}s"


class Progress:
    """Lines about the steps, with the rate and the time left."""

    def __init__(self, active: bool, max_steps: int, every: int, may_be_live: bool = True, sizes: BatchSizes = ALIKE) -> None:
        """`sizes` of the steps tell the time left: a step of half the sequences takes half the time."""
        self.active, self.max_steps, self.every, self.sizes = active, max_steps, every, sizes
        self.live = active and may_be_live and sys.stdout.isatty()
        self.began = time.monotonic()
        self.first_step: int | None = None

    def say(self, line: str) -> None:
        if self.active:
            print(f"\r\033[K{line}" if self.live else line, flush=True)

    def step(self, step: int, loss: float, accuracy: float, lr: float, tokens_per_second: float) -> None:
        """One step is done; `step` counts from 1."""
        if not self.active:
            return
        if self.first_step is None:
            self.first_step, self.began = step, time.monotonic()
        due = step % self.every == 0 or step == self.max_steps
        if not due and not self.live:
            return
        done, of_all = (self.sizes.before(s) - self.sizes.before(self.first_step) for s in (step, self.max_steps))
        left = duration((time.monotonic() - self.began) / done * (of_all - done)) if done else "?"
        rate = f"{tokens_per_second:,.0f} tokens/s"
        line = f"step {step}/{self.max_steps}  loss {loss:.4f}  acc {accuracy:.3f}  lr {lr:.2e}  {rate}  {left} left"
        if self.live and not due:
            print(f"\r\033[K{line}", end="", flush=True)
        else:
            self.say(line)
