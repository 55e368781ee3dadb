"""One interface of all tokenizers: text becomes ids, and each id may say whether a word starts there.

Promises the ids that the tokenizer's own library gives, except where a text spells a special token: that stays text.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jadeberta.shards.tokenizer_format import SpecialTokens


class Encoded(NamedTuple):
    """Texts as tokens, one text after the other."""

    ids: np.ndarray
    """int64 [tokens]"""
    lengths: np.ndarray
    """int64 [texts]: tokens of each text"""


class Placed(NamedTuple):
    """Texts as tokens with their places."""

    ids: np.ndarray
    """int64 [tokens]"""
    lengths: np.ndarray
    """int64 [texts]: tokens of each text"""
    spans: np.ndarray
    """int64 [tokens, 2]: the characters [start, end) of its text that a token stands for"""


class Encoder(ABC):
    """An open tokenizer."""

    vocab_size: int
    """Largest id and one, padding included."""
    special: SpecialTokens
    description: str
    """What it is, for a person."""
    hard_texts: Sequence[str] = ()
    """Texts that a `tokenizer.json` made of it gets wrong most easily."""

    @abstractmethod
    def name_of(self, number: int) -> str | None:
        """Text of a token; None for an id without one."""

    @abstractmethod
    def encode(self, texts: list[str]) -> Encoded:
        """Encodes texts without special tokens; many at once cost less."""

    @abstractmethod
    def encode_placed(self, texts: list[str]) -> Placed:
        """Encodes texts, and says which characters each token stands for."""

    @abstractmethod
    def encode_words(self, texts: list[str]) -> tuple[Encoded, np.ndarray]:
        """Encodes texts, and says where a word starts by the tokenizer's own rules, bool [tokens]."""
