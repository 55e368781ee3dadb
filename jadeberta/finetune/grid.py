"""The grid of settings, the fold to choose on, and the choice of a setting: pure functions of plain values."""

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.tasks import EPOCHS, LEARNING_RATES, Task

FOLD_SHARE = 0.1
"""Share of the training rows that --choose-on fold splits off."""
FOLD_RULE = "components of shared images and sentences"
"""How rows are grouped; part of an experiment's identity, because scores on folds of another rule are no basis for one choice."""


@dataclass(frozen=True, order=True)
class Trial:
    """One training: a setting (learning rate and epochs) and a seed. Files and options call it a point."""

    lr: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the trial and of its files."""
        return f"lr-{self.lr!r}-epochs-{self.epochs}-seed-{self.seed}"


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings that all trials of an experiment share, so that their scores can be compared. Written as `conduct` in files."""

    batch_size: int
    max_length: int
    schedule: str = "linear"
    """linear or cosine, after the warm-up."""
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    choose_on: str = "valid"
    """The split that settings are compared on: valid, or fold (training rows that are split off)."""
    attention: str = "eager"
    """sdpa, fused (`jadeberta.fast`), or eager, transformers' own; points that older versions left say nothing and are eager."""


@dataclass(frozen=True)
class Result:
    """The result of a trial."""

    trial: Trial
    scores: dict[str, dict[str, float]]
    """Metrics by split; empty if the loss was not finite."""
    seconds: float
    notes: dict[str, Any] = field(default_factory=dict)
    """Rows, steps, loss, device and versions."""

    @property
    def diverged(self) -> bool:
        """Whether the loss or a logit was not finite."""
        return not self.scores


@dataclass(frozen=True)
class SettingSummary:
    """Mean and deviation of the trials of one setting."""

    lr: float
    epochs: int
    seeds: tuple[int, ...]
    diverged: int
    """Number of seeds without scores."""
    mean: dict[str, dict[str, float]]
    """Mean over the seeds with scores, by split and metric."""
    deviation: dict[str, dict[str, float]]
    """Sample standard deviation; empty with fewer than two scores."""


def trials_of(settings: Sequence[tuple[float, int]], seeds: Sequence[int]) -> list[Trial]:
    """Returns all trials in the order of their numbers: each setting with all seeds, then the next setting."""
    return [Trial(lr, epochs, seed) for lr, epochs in dict.fromkeys(settings) for seed in dict.fromkeys(seeds)]


def full_grid() -> list[tuple[float, int]]:
    """Returns the settings of JGLUE's authors."""
    return [(lr, epochs) for lr in LEARNING_RATES for epochs in EPOCHS]


def split_fold(rows: Sequence[JglueRow], share: float = FOLD_SHARE) -> tuple[list[JglueRow], list[JglueRow]]:
    """Splits rows into rows to train on and a fold: groups in the order of a hash, until the fold has the share of all rows.

    A group is a connected component of rows that share a key, so no image and no sentence is on both sides. A group that
    would make the fold twice as large as wanted stays in training. The fold does not depend on the seed or on the order of the file.
    """
    groups = groups_of(rows)
    sizes = Counter(groups)
    # Not Python's own hash, which differs between processes.
    order = sorted(sizes, key=lambda group: hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest())
    out: set[str] = set()
    wanted, count = math.ceil(len(rows) * share), 0
    for group in order[:-1]:  # the last group always stays in training
        if count >= wanted:
            break
        if count + sizes[group] <= 2 * wanted:
            out.add(group)
            count += sizes[group]
    paired = list(zip(rows, groups, strict=True))
    return [row for row, group in paired if group not in out], [row for row, group in paired if group in out]


def groups_of(rows: Sequence[JglueRow]) -> list[str]:
    """Returns for each row the name of its connected component: the smallest of the keys in it."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while (up := parent.setdefault(key, key)) != key:
            # Paths are halved on the way, so that long chains stay cheap.
            parent[key] = key = parent[up]
        return key

    for row in rows:
        first = find(row.keys[0])
        for other in map(find, row.keys[1:]):
            # The smaller name wins, so that the order of the rows does not matter.
            first, above = min(first, other), max(first, other)
            parent[above] = first
    return [find(row.keys[0]) for row in rows]


def summarise(results: Sequence[Result]) -> list[SettingSummary]:
    """Returns a summary per setting, in the order of their first trials."""
    summaries = []
    # A point of an older version may lack a metric that was added since.
    for lr, epochs in dict.fromkeys((r.trial.lr, r.trial.epochs) for r in results):
        own = [r for r in results if (r.trial.lr, r.trial.epochs) == (lr, epochs)]
        scored = [r for r in own if not r.diverged]
        values = {
            split: {
                metric: [r.scores[split][metric] for r in scored]
                for metric in scored[0].scores[split]
                if all(metric in r.scores[split] for r in scored)
            }
            for split in (scored[0].scores if scored else ())
        }
        mean = {split: {metric: statistics.fmean(v) for metric, v in metrics.items()} for split, metrics in values.items()}
        spread = {s: {m: statistics.stdev(v) for m, v in metrics.items() if len(v) > 1} for s, metrics in values.items()}
        summaries.append(
            SettingSummary(lr, epochs, tuple(sorted(r.trial.seed for r in own)), len(own) - len(scored), mean, spread)
        )
    return summaries


def choose(summaries: Sequence[SettingSummary], task: Task, split: str) -> SettingSummary | None:
    """Chooses the setting with the highest mean of the task's metric on a split; of equal ones fewer epochs, then the lower learning rate.

    Only settings that have all the seeds of any setting, none of them diverged, are compared; None if there are none.
    """
    seeds = {seed for summary in summaries for seed in summary.seeds}
    complete = [s for s in summaries if set(s.seeds) == seeds and not s.diverged]
    return max(complete, key=lambda s: (s.mean[split][task.chosen_by], -s.epochs, -s.lr), default=None)
