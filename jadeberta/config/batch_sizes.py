"""How many sequences each optimizer step takes: a pure function of the step, also where the batch grows in a warm-up of its own."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """The global batch size of every step.

    Steps here are data steps: after a roll-back the sizes go on with the data, so that no sample is lost or read twice.
    """

    last: int
    """Sequences in a step after the warm-up."""
    warmup: tuple[tuple[int, int], ...] = ()
    """(sequences, steps) of the first steps, in order."""

    def of_step(self, step: int) -> int:
        """Sequences in a step, from 0."""
        for size, steps in self.warmup:
            if step < steps:
                return size
            step -= steps
        return self.last

    def before(self, step: int) -> int:
        """Sequences in all steps before one: where in the order its batch begins."""
        position = 0
        for size, steps in self.warmup:
            position += size * min(step, steps)
            step -= min(step, steps)
        return position + self.last * step

    @property
    def common(self) -> int:
        """Greatest common divisor of all sizes: what divides it divides every batch."""
        return math.gcd(self.last, *(size for size, _ in self.warmup))

    @property
    def warmup_in_words(self) -> str:
        """Like "256 for 2,000 steps, 512 for 1,000 steps"."""
        return ", ".join(f"{size} for {steps:,} steps" for size, steps in self.warmup)


ALIKE = BatchSizes(1)
"""Steps that are all of one size, whichever."""
