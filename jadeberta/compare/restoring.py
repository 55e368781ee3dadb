"""What a model need not predict because its text was normalised first, in bits: the cost of getting the raw text back.

A model that reads only small letters, or no full-width ones, has an easier text. A two-part code makes the figures comparable: for each
character whether it was changed, at the rate of these texts, and for a changed one which of Unicode's characters it was, all alike.
"""

import math
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

UNKNOWN_BITS = math.log2(sys.maxunicode + 1)
"""Bits of a character that a model cannot spell: one of all code points, 20.09."""
Fold = Callable[[str], str]
"""What a model's normalisation makes of a text."""


class Restorer:
    """Counts what normalisation changed."""

    def __init__(self, fold: Fold) -> None:
        self._fold = cache(lambda character: "".join(fold(character).split()).replace("▁", ""))
        self._alternatives: Counter[str] | None = None

    def changed(self, text: str) -> list[str]:
        """Returns the characters of a text that normalisation changes by themselves, in order; spaces do not count.

        か and a U+3099 behind it, which become が together, do not change by themselves.
        """
        return [c for c in text if not c.isspace() and self._fold(c) != c]

    def identity_bits(self, changed: Sequence[str]) -> float:
        """Bits that say which characters the changed ones were."""
        if not changed:
            return 0.0
        if self._alternatives is None:
            every = (chr(code) for code in range(sys.maxunicode + 1))
            named = [c for c in every if unicodedata.category(c) not in ("Cn", "Co", "Cs") and not c.isspace()]
            self._alternatives = Counter(folded for c in named if (folded := self._fold(c)) != c)
        return sum(math.log2(max(1, self._alternatives[self._fold(c)])) for c in changed)


def flag_bits(changed: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """Bits of each text that say which of its characters were changed, at the rate of all texts; float64.

    Args:
        changed: changed characters of each text.
        characters: characters of each text.
    """
    total, every = float(changed.sum()), float(characters.sum())
    if total <= 0:
        return np.zeros(len(changed))
    rate = total / every
    unchanged = characters - changed
    return -changed * math.log2(rate) - (unchanged * math.log2(1 - rate) if rate < 1 else 0.0)
