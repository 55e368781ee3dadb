"""A piece of a corpus: what one rank reads by itself, from the first byte to the last.

Pieces follow from the files alone, never from the number of ranks, so that every run cuts a corpus in the same way.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocess.compressed import DOWNLOAD_AGAIN, chunks, lines
from preprocess.document_files import read_json

Document = dict[str, str]
CUT_BYTES = 32 * 2**20
"""Of a file as it lies on the disk: a piece of one that is cut in one pass. Some 150 MB of text from xz, some seconds of work."""
LARGE_SHARE = 64
"""A file of less than this part of its corpus is not cut: there are enough others beside it to keep all ranks at work."""


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
    cut: Path | None = None
    """Where it is noted what the piece holds, of a file that is read once by one rank and cut (`cutting.py`)."""


@dataclass(frozen=True)
class Source:
    """Where the text of a piece lies, and what came before it in its file."""

    path: Path
    start: int
    end: int
    first_line: int = 1
    first_unit: int = 0
    """Documents before it."""
    ends_file: bool = True
    remedy: str = DOWNLOAD_AGAIN

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number in the corpus's file, line without its end)."""
        return lines(self.path, self.remedy, self.start, self.end, self.first_line)

    def chunks(self) -> Iterator[bytes]:
        """The decompressed content."""
        return chunks(self.path, self.start, self.end)


def source_of(piece: Piece) -> Source:
    """What a reader of a piece reads."""
    if piece.cut is None:
        return Source(piece.path, piece.start, piece.end, ends_file=piece.end == piece.path.stat().st_size)
    note = read_json(piece.cut)
    place = (note["first_line"], note["first_unit"], note["ends_file"])
    if note["text"] is None:
        return Source(piece.path, note["start"], note["end"], *place)
    path = piece.cut.with_name(note["text"])
    return Source(path, 0, path.stat().st_size, *place, remedy=f"delete {piece.cut} and run the same command again")


def natural_key(name: str) -> list[tuple[str, int]]:
    """Sorts 'part_2' before 'part_10'."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def stem(path: Path) -> str:
    """The file's name without the suffixes of formats and compressions."""
    return re.sub(r"(\.(jsonl|json|txt|xml|bz2|gz|xz|zst))+$", "", path.name)


def file_pieces(corpus: str, format: str, path: Path, id_prefix: str, files: list[Path]) -> list[Piece]:
    """A file that cannot be entered in the middle: one piece, or spans of it where it is a large part of its corpus.

    Args:
        corpus: its name.
        format: its reader.
        path: the file.
        id_prefix: see `Piece`.
        files: all of the corpus.
    """
    size, name = path.stat().st_size, stem(path)
    if size <= max(2 * CUT_BYTES, sum(file.stat().st_size for file in files) // LARGE_SHARE):
        return [Piece(corpus, format, name, path, id_prefix, 0, size)]
    spans = [(start, min(size, start + CUT_BYTES)) for start in range(0, size, CUT_BYTES)]
    # Until the file is cut nobody knows which documents begin in a span; the name of the note follows with the output directory.
    return [Piece(corpus, format, f"{name}-{n:05d}", path, id_prefix, *span, cut=Path()) for n, span in enumerate(spans)]
