"""Answers of JSQuAD between characters and pieces: where an answer lies, and which one the logits name.

Pure functions of numbers. All spans are characters of the original context, whatever normalisation and segmentation made of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jadeberta.finetune.alignment import Span

BEST = 20
"""Starts and ends of a window that are paired with each other."""
LONGEST = 30
"""Pieces of an answer, as in SQuAD's scripts."""


@dataclass(frozen=True)
class Window:
    """What the model said of one stretch of a context."""

    starts: np.ndarray
    """Logits for each piece of the context in the window, float32 [pieces]."""
    ends: np.ndarray
    spans: np.ndarray
    """Characters of each of them, int32 [pieces, 2]."""


def places_of(spans: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last piece that share a character with [start, end); None where none does. `spans` as in `Pieces`."""
    first, last = spans.T
    shared = np.flatnonzero((first < end) & (start < last) & (first < last))
    return (int(shared[0]), int(shared[-1])) if len(shared) else None


def best_span(windows: Iterable[Window]) -> Span:
    """The characters whose first and last piece have the highest sum of logits; an empty span where there is nothing to choose from.

    Of each window the `BEST` starts and ends are paired; an answer has at most `LONGEST` pieces. Of equal sums the first counts.
    """
    best, found = -np.inf, (0, 0)
    for window in windows:
        for first in _highest(window.starts):
            for last in _highest(window.ends):
                score = float(window.starts[first] + window.ends[last])
                if first <= last < first + LONGEST and score > best:
                    best, found = score, (int(window.spans[first, 0]), int(window.spans[last, 1]))
    return found if found[0] < found[1] else (0, 0)


def _highest(logits: np.ndarray) -> list[int]:
    places: list[int] = np.argsort(-logits, kind="stable")[:BEST].tolist()
    return places
