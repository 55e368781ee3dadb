"""Which settings are tried, what is kept out to choose by, and which setting is chosen: pure functions of plain values."""

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jadeberta.finetune.jglue_files import Row
from jadeberta.finetune.tasks import EPOCHS, LEARNING_RATES, Task

FOLD_SHARE = 0.1
"""Share of the training rows that --choose-on fold keeps out."""


@dataclass(frozen=True, order=True)
class Point:
    """One training: a setting and a seed."""

    lr: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        return f"lr-{self.lr!r}-epochs-{self.epochs}-seed-{self.seed}"


@dataclass(frozen=True)
class Conduct:
    """What all points of a test share; with other values their scores cannot be compared."""

    batch_size: int
    max_length: int
    schedule: str = "linear"
    """linear or cosine, after the warm-up."""
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    choose_on: str = "valid"
    """valid, or fold: training rows that are kept out."""


@dataclass(frozen=True)
class Result:
    """What came of a point."""

    point: Point
    scores: dict[str, dict[str, float]]
    """Metrics by split; empty where the loss was not finite."""
    seconds: float
    notes: dict[str, Any] = field(default_factory=dict)
    """Rows, steps, loss, device and versions, for the record."""

    @property
    def diverged(self) -> bool:
        return not self.scores


@dataclass(frozen=True)
class Summary:
    """The points of one setting together."""

    lr: float
    epochs: int
    seeds: tuple[int, ...]
    diverged: int
    """How many of the seeds gave no scores."""
    mean: dict[str, dict[str, float]]
    """Of the seeds with scores, by split and metric."""
    deviation: dict[str, dict[str, float]]
    """Sample standard deviation; empty with fewer than two scores."""


def points_of(settings: Sequence[tuple[float, int]], seeds: Sequence[int]) -> list[Point]:
    """All points in the order of their numbers: each setting with all seeds, then the next."""
    return [Point(lr, epochs, seed) for lr, epochs in dict.fromkeys(settings) for seed in dict.fromkeys(seeds)]


def whole_grid() -> list[tuple[float, int]]:
    """The settings of JGLUE's authors."""
    return [(lr, epochs) for lr in LEARNING_RATES for epochs in EPOCHS]


def keep_out(rows: Sequence[Row], share: float = FOLD_SHARE) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows kept out: whole groups, in the order of a hash, until they are the share of all.

    The same rows are kept out whatever the seed and the order of the file.
    """
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.group] = sizes.get(row.group, 0) + 1
    groups = sorted(sizes, key=lambda group: hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest())
    out: set[str] = set()
    wanted, count = math.ceil(len(rows) * share), 0
    for group in groups[:-1]:  # the last one stays, whatever the share
        if count >= wanted:
            break
        out.add(group)
        count += sizes[group]
    return [row for row in rows if row.group not in out], [row for row in rows if row.group in out]


def summarise(results: Sequence[Result]) -> list[Summary]:
    """One line a setting, in the order of their first points."""
    summaries = []
    for lr, epochs in dict.fromkeys((r.point.lr, r.point.epochs) for r in results):
        own = [r for r in results if (r.point.lr, r.point.epochs) == (lr, epochs)]
        whole = [r for r in own if not r.diverged]
        values = {
            split: {metric: [r.scores[split][metric] for r in whole] for metric in whole[0].scores[split]}
            for split in (whole[0].scores if whole else ())
        }
        mean = {split: {metric: statistics.fmean(v) for metric, v in metrics.items()} for split, metrics in values.items()}
        spread = {s: {m: statistics.stdev(v) for m, v in metrics.items() if len(v) > 1} for s, metrics in values.items()}
        summaries.append(Summary(lr, epochs, tuple(sorted(r.point.seed for r in own)), len(own) - len(whole), mean, spread))
    return summaries


def choose(summaries: Sequence[Summary], task: Task, split: str) -> Summary | None:
    """The setting with the highest mean of the task's metric on a split; of equal ones fewer epochs, then the lower rate.

    Only settings with all the seeds that any setting has, and none diverged, are compared; None where there are none.
    """
    seeds = {seed for summary in summaries for seed in summary.seeds}
    whole = [s for s in summaries if set(s.seeds) == seeds and not s.diverged]
    return max(whole, key=lambda s: (s.mean[split][task.chosen_by], -s.epochs, -s.lr), default=None)
