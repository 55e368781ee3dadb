"""What a race shows: the share of the target's FLOPs that each contestant needs, with intervals by bootstrap over rows and seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from jadeberta.race.scores import RowScores

DRAWS = 2000
"""Bootstrap draws."""
INTERVAL = (2.5, 97.5)
"""Percentiles of a 95% interval."""


@dataclass
class Budget:
    """The runs of a contestant with one budget."""

    share: float
    """Of the target's FLOPs."""
    flops: float
    tokens: int
    seconds: float
    """In steps that stayed, mean of the seeds."""
    scores: list[RowScores]
    """Of each seed."""
    course: list[tuple[int, float]] = field(default_factory=list)
    """(step, masked accuracy on the tuning rows) during the run of the first seed."""
    accuracy: float = 0.0
    bits_per_character: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    """95% interval of the accuracy."""

    def __post_init__(self) -> None:
        self.accuracy = fmean(sum(each.correct) / sum(each.masked) for each in self.scores)
        self.bits_per_character = fmean(sum(each.nats) / math.log(2) / sum(each.characters) for each in self.scores)


@dataclass
class Result:
    """One contestant at one size."""

    size: str
    contestant: str
    settings: dict[str, Any]
    """Chosen from the grid."""
    budgets: list[Budget]
    """Smallest first."""
    share: float | None = None
    """Share of the target's FLOPs at which it has the target's accuracy; None: at none of its budgets."""
    interval: tuple[float | None, float | None] = (None, None)
    """95% interval of `share`; None where it is beyond the budgets."""
    is_bound: bool = False
    """Whether the smallest budget was enough already, so that `share` is an upper bound."""
    notes: list[str] = field(default_factory=list)


def judge(results: Sequence[Result], target: str, seed: int = 0) -> None:
    """Fills in accuracy intervals and shares of the contestants of one size.

    Args:
        results: of all contestants of the size, the target among them.
        target: name of the contestant to reach, which has one budget.
        seed: of the bootstrap.
    """
    goal_runs = next(result for result in results if result.contestant == target).budgets[-1].scores
    rows = len(goal_runs[0].masked)
    draw = np.random.default_rng(seed)
    # The same rows for all contestants in a draw: their differences matter, and rows differ more than contestants.
    weights = draw.multinomial(rows, np.full(rows, 1 / rows), size=DRAWS).astype(np.float64)
    goal = fmean(sum(each.correct) / sum(each.masked) for each in goal_runs)
    goals = _drawn(goal_runs, weights, draw)
    for result in results:
        drawn = np.stack([_drawn(budget.scores, weights, draw) for budget in result.budgets])
        for budget, accuracies in zip(result.budgets, drawn, strict=True):
            low, high = np.percentile(accuracies, INTERVAL)
            budget.interval = (float(low), float(high))
        if result.contestant == target:
            result.share, result.interval = 1.0, (1.0, 1.0)
            continue
        shares = [budget.share for budget in result.budgets]
        result.share = share_to_reach(shares, [budget.accuracy for budget in result.budgets], goal)
        result.is_bound = result.budgets[0].accuracy >= goal
        found = np.array([share_to_reach(shares, column, one) or math.inf for column, one in zip(drawn.T, goals, strict=True)])
        # By rank and not by interpolation, which infinity does not allow.
        low, high = np.percentile(found, INTERVAL, method="nearest")
        result.interval = (float(low) if math.isfinite(low) else None, float(high) if math.isfinite(high) else None)


def share_to_reach(shares: Sequence[float], accuracies: Sequence[float] | np.ndarray, goal: float) -> float | None:
    """Returns the share at which the accuracy is `goal`, on a straight line in the logarithm of the share between two budgets.

    Args:
        shares: budgets, smallest first.
        accuracies: at each of them.
        goal: accuracy to reach.

    Returns:
        The smallest budget where that is enough; None where no budget is.
    """
    if accuracies[0] >= goal:
        return shares[0]
    for place in range(1, len(shares)):
        low, high = accuracies[place - 1], accuracies[place]
        if high >= goal:
            part = (goal - low) / (high - low)
            return math.exp(math.log(shares[place - 1]) + part * math.log(shares[place] / shares[place - 1]))
    return None


def _drawn(scores: Sequence[RowScores], weights: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Accuracies of bootstrap draws: rows by `weights`, seeds with replacement."""
    each = np.stack(
        [(weights @ np.asarray(s.correct, np.float64)) / (weights @ np.asarray(s.masked, np.float64)) for s in scores]
    )
    chosen = draw.integers(len(scores), size=(len(scores), len(weights)))
    return np.take_along_axis(each, chosen, axis=0).mean(axis=0)
