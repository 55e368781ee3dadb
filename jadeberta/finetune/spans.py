"""Answer spans of JSQuAD: from characters to pieces, and from logits to characters.

Pure functions of numbers. All spans are characters of the original context, before normalisation and segmentation.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jadeberta.finetune.alignment import Span

BEST = 20
"""Best starts and ends of a window that are paired with each other."""
LONGEST = 30
"""Most pieces of an answer, as in SQuAD's scripts."""


@dataclass(frozen=True)
class Window:
    """The logits of one window of a context."""

    starts: np.ndarray
    """Logits of the answer's first piece, float32 [pieces] of the context in the window."""
    ends: np.ndarray
    """Logits of the answer's last piece, float32 [pieces]."""
    spans: np.ndarray
    """Characters of the pieces, int32 [pieces, 2]."""


def places_of(spans: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """Returns the first and last piece that share a character with [start, end), or None. `spans` as in `Pieces`."""
    first, last = spans.T
    # An empty span is a lone word mark, which holds nothing of the answer.
    shared = np.flatnonzero((first < end) & (start < last) & (first < last))
    return (int(shared[0]), int(shared[-1])) if len(shared) else None


def best_span(windows: Iterable[Window]) -> Span:
    """Returns the characters whose first and last piece have the highest sum of logits; an empty span if there is no candidate.

    The `BEST` starts and ends of each window are paired; an answer has at most `LONGEST` pieces. Of equal sums the first one counts.
    Pieces without characters (a lone word mark) begin and end no answer.
    """
    best, found = -np.inf, (0, 0)
    for window in windows:
        written = np.flatnonzero(window.spans[:, 0] < window.spans[:, 1]) if len(window.spans) else np.zeros(0, int)
        for first in _highest(window.starts, written):
            for last in _highest(window.ends, written):
                score = float(window.starts[first] + window.ends[last])
                if first <= last < first + LONGEST and score > best:
                    best, found = score, (int(window.spans[first, 0]), int(window.spans[last, 1]))
    return found


def _highest(logits: np.ndarray, places: np.ndarray) -> list[int]:
    # A stable sort: of equal logits the first one counts.
    highest: list[int] = places[np.argsort(-logits[places], kind="stable")[:BEST]].tolist()
    return highest
