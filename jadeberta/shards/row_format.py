"""How a row lies in a tar: its token ids in one member, its document numbers in another, both little-endian.

Document numbers are uint16 at any length: a row of 8,192 tokens has at most as many documents, and bit 15 is free for word starts.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

TokenDtype = Literal["uint16", "uint32"]
NARROW_VOCABULARY = 2**16
"""Largest vocabulary whose ids are stored as uint16."""
SHORTEST_ROW, LONGEST_ROW = 128, 8192
"""Tokens of the rows that the program makes, trains on and is tested for."""
DOCUMENT_DTYPE = np.dtype("<u2")


def token_dtype_of(vocab_size: int) -> TokenDtype:
    """Returns the narrowest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= NARROW_VOCABULARY else "uint32"


@dataclass(frozen=True)
class RowFormat:
    """Length and types of the rows of a shard."""

    length: int
    """Tokens in a row."""
    token_dtype: TokenDtype = "uint16"
    """Type of a token id."""

    @cached_property
    def dtype(self) -> np.dtype:
        """Type of a token id as it is stored, little-endian."""
        return np.dtype("<u2" if self.token_dtype == "uint16" else "<u4")

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of a row's token ids."""
        return self.length * self.dtype.itemsize

    @cached_property
    def document_bytes(self) -> int:
        """Bytes of a row's document numbers."""
        return self.length * DOCUMENT_DTYPE.itemsize

    def split(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Views of the token ids and the document numbers, each [rows, length], of rows as their checksums have them.

        Args:
            raw: uint8 [rows, token_bytes + document_bytes], contiguous: the ids of a row, then its document numbers.
        """
        return raw[:, : self.token_bytes].view(self.dtype), raw[:, self.token_bytes :].view(DOCUMENT_DTYPE)
