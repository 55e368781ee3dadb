"""Whether two ways to train differ by more than another draw of the dropout does: plain numbers in, a judgement out.

For each seed there are three runs on the same batches from the same weights: eager, eager with other dropout, sdpa. Where both compute
the same function, the three are draws of one random curve; the first two say how far such draws lie apart, and the third is held
against their mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LIMIT = 4.0
"""Standard errors that the mean difference of a window may have."""
SIGNIFICANCE = 0.01
"""Least two-sided probability that the mean difference of the whole run may have."""


@dataclass(frozen=True)
class Comparison:
    """What was found; losses in nats."""

    ends: list[int]
    """Last step of each window."""
    differences: list[list[float]]
    """[seeds][windows]: mean loss of sdpa less that of the two eager runs."""
    redrawn: list[list[float]]
    """[seeds][windows]: mean loss of eager less that of eager with other dropout."""
    window_error: float
    """Standard error of a window's difference, mean over seeds, as the eager runs have it."""
    largest: float
    """The window's difference, mean over seeds, that is furthest from zero."""
    mean: float
    """Difference over all windows and seeds."""
    mean_error: float
    """Its standard error."""
    probability: float
    """Two-sided, of a mean difference as far from zero where the two are the same."""
    seeds_spread: float | None
    """Standard deviation between seeds of a window's loss, eager; None for one seed."""

    @property
    def within_noise(self) -> bool:
        """Whether no window and not the whole run speak against the same function."""
        return abs(self.largest) <= LIMIT * self.window_error and self.probability >= SIGNIFICANCE


def compare(
    eager: Sequence[Sequence[float]], redrawn: Sequence[Sequence[float]], sdpa: Sequence[Sequence[float]], window: int
) -> Comparison:
    """Compares losses [seeds][steps] of three runs a seed, over windows of so many steps; steps beyond the last whole one are left out.

    The mean of a run's differences is tested by Student's t: with the variance of one draw s^2, eager - redrawn has 2 s^2 and
    sdpa - (eager + redrawn) / 2 has 3/2 s^2, and the two are uncorrelated, so that both give an estimate.
    """
    first, second, other = (_window_means(losses, window) for losses in (eager, redrawn, sdpa))
    seeds, windows = first.shape
    differences, draws = other - (first + second) / 2, first - second
    error = math.sqrt(1.5 / seeds * float(np.mean(draws**2)) / 2)
    by_window, by_seed, draws_by_seed = differences.mean(0), differences.mean(1), draws.mean(1)
    freedom = 2 * seeds - 1
    variance = float(np.sum((by_seed - by_seed.mean()) ** 2) / 1.5 + np.sum(draws_by_seed**2) / 2) / freedom
    mean, mean_error = float(by_seed.mean()), math.sqrt(1.5 * variance / seeds)
    return Comparison(
        ends=[window * (i + 1) for i in range(windows)],
        differences=differences.tolist(),
        redrawn=draws.tolist(),
        window_error=error,
        largest=float(by_window[np.abs(by_window).argmax()]),
        mean=mean,
        mean_error=mean_error,
        probability=two_sided(mean / mean_error, freedom) if mean_error else float(mean == 0),
        seeds_spread=float(np.sqrt(first.var(0, ddof=1).mean())) if seeds > 1 else None,
    )


def two_sided(t: float, freedom: int) -> float:
    """Probability that Student's t with an odd number of degrees of freedom is as far from zero (Abramowitz and Stegun 26.7.3)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    total, term = 0.0, math.sin(angle) * math.cos(angle)
    for k in range(1, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    return 1 - 2 / math.pi * (angle + total)


def largest_relative(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference of two curves, relative to the first."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.abs(a)))


def _window_means(losses: Sequence[Sequence[float]], window: int) -> np.ndarray:
    """[seeds][steps] -> [seeds, windows]."""
    table = np.asarray(losses, dtype=np.float64)
    windows = table.shape[1] // window
    return table[:, : windows * window].reshape(len(table), windows, window).mean(2)
