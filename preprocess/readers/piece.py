"""A piece of a corpus: what one rank reads by itself, from the first byte to the last.

Pieces follow from the files alone, never from the number of ranks, so that every run cuts a corpus in the same way.
"""

import re
from dataclasses import dataclass
from pathlib import Path

Document = dict[str, str]


@dataclass(frozen=True)
class Piece:
    """Bytes [start, end) of one file of a corpus."""

    corpus: str
    format: str
    name: str
    """Unique in the corpus; the parts written from the piece carry it."""
    path: Path
    id_prefix: str
    """What stands before the page id, ordinal or line in the documents' ids."""
    start: int
    end: int


def natural_key(name: str) -> list[tuple[str, int]]:
    """Sorts 'part_2' before 'part_10'."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def stem(path: Path) -> str:
    """The file's name without the suffixes of formats and compressions."""
    return re.sub(r"(\.(jsonl|json|txt|xml|bz2|gz|xz|zst))+$", "", path.name)


def whole_file(corpus: str, format: str, path: Path, id_prefix: str) -> Piece:
    return Piece(corpus, format, stem(path), path, id_prefix, 0, path.stat().st_size)
