"""Intervals of figures that are ratios of sums over documents, by resampling whole documents (Efron and Tibshirani, 1993, chapter 13).

Tokens of one document are not independent of each other, so that an interval by tokens would be too narrow.
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
"""Share of the resampled figures that lie within an interval."""
SEED = 19937


def resampled_sums(strata: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Sums over documents drawn with replacement, each stratum as many as it has; float64 [resamples, columns].

    Args:
        strata: sums of each document, [documents, columns]; a corpus is a stratum. If one of them has a single document, all are drawn
            as one.
        resamples: how often all is drawn.
        seed: of the draws. Figures drawn with one seed from the same documents are paired.
    """
    generator = np.random.default_rng(seed)
    columns = strata[0].shape[1]
    found = np.zeros((resamples, columns))
    # A single document would be drawn every time, so that its part of the figures would be called certain.
    if any(len(sums) == 1 for sums in strata):
        strata = [np.concatenate(strata)]
    for sums in strata:
        count = len(sums)
        for number in range(resamples if count else 0):
            drawn = np.bincount(generator.integers(count, size=count), minlength=count)
            found[number] += drawn @ sums
    return found


def interval_of(figures: np.ndarray) -> list[float] | None:
    """Returns the ends of the interval that holds `LEVEL` of the resampled figures; None where one of them is no number."""
    if not np.isfinite(figures).all():
        return None
    return [float(end) for end in np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def ratio_intervals(strata: Sequence[np.ndarray], numerators: dict[str, int], denominator: int) -> dict[str, list[float] | None]:
    """Intervals of ratios of sums, by name.

    Args:
        strata: as in `resampled_sums`.
        numerators: the column of each ratio's numerator.
        denominator: column of the denominator of all.

    Returns:
        [low, high] for each ratio; None where fewer than two documents have anything to count.
    """
    counted = [sums[sums[:, denominator] > 0] for sums in strata]
    if sum(map(len, counted)) < 2:
        return dict.fromkeys(numerators)
    drawn = resampled_sums(counted)
    return {name: interval_of(drawn[:, column] / drawn[:, denominator]) for name, column in numerators.items()}
