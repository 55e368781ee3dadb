"""The order of the samples of a run with phases: a pure function of the training step.

Each phase draws from an order. Phases that draw the same (rows of one length, the same corpora, repeats or weights) share one, and each
goes on where the one before it ended; so no sample comes again before an epoch is over. A roll-back skips samples of these orders and
moves no border: the steps of a phase stay the same training steps.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from jadeberta.config.phases import Phase, phase_at
from jadeberta.data.sample_order import Ranges, SampleOrder, derive_key
from jadeberta.data.weighted_order import WeightedOrder

SkippedSamples = tuple[tuple[int, int, int], ...]
"""Positions that no step reads: (number of the first phase that draws from the order, first, end), ascending and disjoint."""


class Draw(Protocol):
    """An endless order of samples."""

    @property
    def epoch_size(self) -> int:
        """Samples until all have come once."""

    @property
    def seed(self) -> int:
        """Root of its permutations, and of the masks of its samples."""

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns epochs and sample indices at some positions, int64."""

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Returns the row of the shard directory that each sample is a copy of, int64."""


def draw_of(
    seed: int,
    length: int,
    corpora: Mapping[str, range],
    repeats: Mapping[str, int],
    weights: Mapping[str, float],
    is_published: bool,
) -> Draw:
    """Makes the order that a phase draws from.

    Args:
        seed: of the run.
        length: tokens in a row.
        corpora: rows of each corpus in the shard directory.
        repeats: how often an epoch sees each corpus; without meaning where there are weights.
        weights: share of the rows from each corpus; empty: mixed by repeats.
        is_published: whether the order is that of a run without phases, whose key is the seed alone.
    """
    mixed = [[name, len(rows), float(weights.get(name, 0.0)) if weights else repeats[name]] for name, rows in corpora.items()]
    if not is_published:
        # Two orders must not be alike: a sample would be masked in one as another sample is in the other.
        text = json.dumps([length, "weights" if weights else "repeats", mixed])
        seed = int(derive_key(seed, 5, int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")) >> 1)
    if weights:
        return WeightedOrder(seed, tuple((n, r.start, len(r), float(weights.get(n, 0.0))) for n, r in corpora.items()))
    return SampleOrder(seed, 1, tuple((r.start, len(r), repeats[n]) for n, r in corpora.items()))


@dataclass(frozen=True)
class PhasedOrder:
    """The samples of every step of a run with phases."""

    phases: tuple[Phase, ...]
    draws: tuple[Draw, ...]
    """Order of each phase; equal where they draw the same."""
    skipped_samples: SkippedSamples = ()

    def skipping(self, skipped_samples: SkippedSamples, skipped_ranges: Ranges = ()) -> "PhasedOrder":
        """Returns this order with some samples skipped.

        Args:
            skipped_samples: as the field.
            skipped_ranges: data steps that were skipped while the run had no phases; its batches were those of the first phase.
        """
        size = self.phases[0].global_batch_size
        before = tuple((1, first * size, end * size) for first, end in skipped_ranges)
        return replace(self, skipped_samples=tuple(sorted([*before, *skipped_samples])))

    def undoing(self, first_step: int, end_step: int) -> "PhasedOrder":
        """Returns this order with the samples of training steps [first_step, end_step) skipped too, in every phase they lie in."""
        skipped = list(self.skipped_samples)
        for number in sorted({self._first_of(phase_at(self.phases, step)) for step in range(first_step, end_step)}):
            begin, end = self._read_before(number, first_step), self._read_before(number, end_step)
            first, last = self._skip(number, np.asarray([begin, end - 1])).tolist()
            # An older range may lie within the new one: the run went back further than the last time.
            skipped = [r for r in skipped if r[0] != number or not first <= r[1] <= last]
            skipped.append((number, first, last + 1))
        return replace(self, skipped_samples=tuple(sorted(skipped)))

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns epochs and sample indices of the global batch of a training step (from 0), each int64 [sequences]."""
        return self.draws[phase_at(self.phases, step).number - 1].at(self._positions(step))

    def place(self, step: int) -> dict[str, Any]:
        """Where the batch of a training step (from 0) lies: phase, and position in the order that it draws from."""
        return {"phase": phase_at(self.phases, step).number, "position": int(self._positions(step)[0])}

    def progress(self, step: int) -> tuple[int, float]:
        """Position that training step `step` (from 0) reads first, and the epoch as a number with a fraction."""
        phase = phase_at(self.phases, step)
        number = self._first_of(phase)
        position = int(self._skip(number, np.asarray([self._read_before(number, step)]))[0])
        return position, position / max(1, self.draws[phase.number - 1].epoch_size)

    def _first_of(self, phase: Phase) -> int:
        """Number of the first phase that draws from the order of a phase."""
        return self.draws.index(self.draws[phase.number - 1]) + 1

    def _read_before(self, number: int, step: int) -> int:
        """Samples that the training steps before `step` read from the order that phase `number` draws from first."""
        return sum(
            phase.global_batch_size * min(phase.steps, max(0, step - phase.first_step))
            for phase, draw in zip(self.phases, self.draws, strict=True)
            if draw == self.draws[number - 1]
        )

    def _positions(self, step: int) -> np.ndarray:
        phase = phase_at(self.phases, step)
        number = self._first_of(phase)
        begin = self._read_before(number, step)
        return self._skip(number, np.arange(begin, begin + phase.global_batch_size, dtype=np.int64))

    def _skip(self, number: int, positions: np.ndarray) -> np.ndarray:
        """Returns where the samples stand that are read at some places, as if none were skipped."""
        found = np.asarray(positions, np.int64).copy()
        for of, first, end in self.skipped_samples:
            if of == number:
                found[found >= first] += end - first
        return found


@dataclass(frozen=True)
class OrderOfPhase:
    """The steps of one phase, in the form of an order of their own."""

    whole: PhasedOrder
    phase: Phase

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """As `PhasedOrder.step`."""
        return self.whole.step(step)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """As `Draw.rows`."""
        return self.whole.draws[self.phase.number - 1].rows(samples)
