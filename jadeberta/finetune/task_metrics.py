"""Scores as JGLUE's authors compute them. Pure functions of predictions and answers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def pearson(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side is constant, which explains nothing."""
    x, y = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (predicted, wanted))
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else 0.0


def spearman(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, equal values sharing the mean of theirs."""
    return pearson(ranks(predicted), ranks(wanted))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: list[float] = (last - (counts - 1) / 2)[place].tolist()
    return means


def accuracy(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Share of equal pairs."""
    return sum(p == w for p, w in zip(predicted, wanted, strict=True)) / len(wanted)


def exact_match(predicted: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Share of predictions that are one of their answers."""
    hits = (any(plain(p) == plain(a) for a in answers) for p, answers in zip(predicted, wanted, strict=True))
    return sum(hits) / len(wanted)


def f1(predicted: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Mean over the questions of the best character F1 with one of the answers."""
    scores = (max(character_f1(p, a) for a in answers) for p, answers in zip(predicted, wanted, strict=True))
    return sum(scores) / len(wanted)


def character_f1(predicted: str, answer: str) -> float:
    """Harmonic mean of precision and recall of characters, in any order; for an empty side 1 where both are, else 0."""
    found, wanted = Counter(plain(predicted)), Counter(plain(answer))
    if not found or not wanted:
        return float(found == wanted)
    same = (found & wanted).total()
    return 2 * same / (found.total() + wanted.total())


def plain(text: str) -> str:
    """An answer as it is compared: lower case, no 。 at the end, runs of space one space and none at the ends.

    What the patch of JGLUE's repository makes of SQuAD's normalize_answer; punctuation and articles stay.
    """
    return " ".join(text.lower().rstrip("。").split())
