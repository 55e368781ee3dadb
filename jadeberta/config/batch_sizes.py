"""How many sequences each optimizer step takes: a pure function of the step, with or without a batch-size warm-up."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """The global batch size of every step.

    Steps are data steps: after a roll-back the sizes go on with the data, so that no sample is lost or read twice.
    """

    last: int
    """Sequences of a step after the warm-up."""
    warmup: tuple[tuple[int, int], ...] = ()
    """First steps as (sequences, steps), in order."""

    def of_step(self, step: int) -> int:
        """Sequences of a step, counted from 0."""
        for size, steps in self.warmup:
            if step < steps:
                return size
            step -= steps
        return self.last

    def before(self, step: int) -> int:
        """Sequences of all steps before this one: the position in the sample order at which its batch begins."""
        position = 0
        for size, steps in self.warmup:
            position += size * min(step, steps)
            step -= min(step, steps)
        return position + self.last * step

    @property
    def common(self) -> int:
        """Greatest common divisor of all sizes; a number that divides it divides every batch."""
        return math.gcd(self.last, *(size for size, _ in self.warmup))

    @property
    def warmup_in_words(self) -> str:
        """The warm-up as text, such as "256 for 2,000 steps, 512 for 1,000 steps"."""
        return ", ".join(f"{size} for {steps:,} steps" for size, steps in self.warmup)


ALIKE = BatchSizes(1)
"""Batches of one size, for callers that only compare sizes."""
