"""Metrics as JGLUE's authors compute them (Kurihara et al. 2022). Pure functions of predictions and answers.

Exact match and F1 have two published definitions: that of JGLUE's repository, and that of the JGLUE-evaluation-scripts, by which the
rows of Japanese DeBERTa were measured.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np


def pearson(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Pearson's correlation; 0 if one side is constant (SciPy gives NaN there), NaN if a value is not finite."""
    if not (np.isfinite(predicted).all() and np.isfinite(wanted).all()):
        return float("nan")
    # Compared and not left to the deviations: the mean of equal values may differ from them by a rounding.
    if np.ptp(predicted) == 0 or np.ptp(wanted) == 0:
        return 0.0
    x, y = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (predicted, wanted))
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else 0.0


def spearman(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, equal values sharing the mean of theirs."""
    if not (np.isfinite(predicted).all() and np.isfinite(wanted).all()):
        return float("nan")
    return pearson(ranks(predicted), ranks(wanted))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: list[float] = (last - (counts - 1) / 2)[place].tolist()
    return means


def accuracy(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Share of predictions that equal their label."""
    return sum(p == w for p, w in zip(predicted, wanted, strict=True)) / len(wanted)


def exact_match(predicted: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Share of predictions that equal one of their answers."""
    hits = (any(plain(p) == plain(a) for a in _counted(answers)) for p, answers in zip(predicted, wanted, strict=True))
    return sum(hits) / len(wanted)


def f1(predicted: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Mean over the questions of the highest character F1 with one of the answers."""
    scores = (max(character_f1(p, a) for a in _counted(answers)) for p, answers in zip(predicted, wanted, strict=True))
    return sum(scores) / len(wanted)


def _counted(answers: Sequence[str]) -> Sequence[str]:
    """The answers that count: those of which something is left, or an empty one where nothing is left of any."""
    return [answer for answer in answers if plain(answer)] or [""]


def character_f1(predicted: str, answer: str) -> float:
    """Harmonic mean of precision and recall of characters in any order; with an empty side 1 if both are empty, else 0."""
    return _overlap(Counter(plain(predicted)), Counter(plain(answer)))


def _overlap(found: Counter[str], wanted: Counter[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    same = (found & wanted).total()
    return 2 * same / (found.total() + wanted.total())


def scripts_exact_match(predicted: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Share of predictions that equal one of their answers, as JGLUE-evaluation-scripts compute it."""
    hits = (any(script_characters(p) == script_characters(a) for a in own) for p, own in zip(predicted, wanted, strict=True))
    return sum(hits) / len(wanted)


def scripts_f1(predicted: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Mean of the highest character F1 with one of the answers, as JGLUE-evaluation-scripts compute it."""
    scores = (
        max(_overlap(Counter(script_characters(p)), Counter(script_characters(a))) for a in own)
        for p, own in zip(predicted, wanted, strict=True)
    )
    return sum(scores) / len(wanted)


def script_characters(text: str) -> list[str]:
    """The characters that JGLUE-evaluation-scripts compare: lower case, no ASCII punctuation, no 'a' alone, no space, no 。 at the end.

    They put a space between all characters and call torchmetrics' SQuAD, which drops English articles; so every letter a is one.
    """
    spaced = " ".join(text.replace(" ", "").rstrip("。")).lower()
    return re.sub(r"\b(a|an|the)\b", " ", spaced.translate(_PUNCTUATION)).split()


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def matthews(predicted: Sequence[float], wanted: Sequence[float]) -> float:
    """Matthews' correlation of two classes, 0 and 1; 0 if one side is constant, as in scikit-learn."""
    return pearson(predicted, wanted)


def plain(text: str) -> str:
    """Normalises an answer for comparison: lower case, no 。 at the end, single spaces, no space at the ends.

    SQuAD's normalize_answer as patched by JGLUE's repository; punctuation and articles stay.
    """
    return " ".join(text.lower().rstrip("。").split())
