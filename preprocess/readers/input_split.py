"""An input split: the span of a corpus's file that one task reads.

Input splits follow from the files alone, never from the number of ranks, so that every run splits a corpus in the same way.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from preprocess.compressed import DOWNLOAD_AGAIN, chunks, lines, lines_of
from preprocess.document_files import read_json

Document = dict[str, str]
"""A document of a corpus: {"id", "source", "title", "text"}."""
SPLIT_BYTES = 32 * 2**20
"""Span of a file, as stored, that makes one split where the file is split in one pass: some 150 MB of text from xz, seconds of work."""
LARGE_SHARE = 64
"""A file smaller than this fraction of its corpus is not split: there are enough other files to keep all ranks at work."""


@dataclass(frozen=True)
class ReaderSettings:
    """What the recipe says about the records of a corpus; an empty value leaves it to the format. See `CorpusConfig`."""

    text_key: str = ""
    id_key: str = ""
    where: str = ""
    documents: str = ""

    def given(self) -> dict[str, str]:
        """Returns the settings that have a value."""
        return {key: value for key, value in asdict(self).items() if value}


@dataclass(frozen=True)
class InputSplit:
    """Bytes [start, end) of one file of a corpus."""

    corpus: str
    format: str
    name: str
    """Unique in the corpus; the parts written from the split carry it."""
    path: Path
    id_prefix: str
    """Prefix of the documents' ids, before the page id, ordinal or line number."""
    start: int
    end: int
    note: Path | None = None
    """File with the note about the split's content, if its file is split in one pass (`split_file.py`); else None."""
    file: str = ""
    """Name of the file in markers and reports: with folders where two files of the corpus have one name; empty: the path's last part."""
    settings: ReaderSettings = field(default_factory=ReaderSettings)
    group: tuple["InputSplit", ...] = ()
    """The splits of several small files that are read together; empty: `path` alone."""
    source: "Source | None" = None
    """What is read instead of bytes of `path`: a member of an archive."""
    row_groups: tuple[int, int] | None = None
    """Numbers of the first row group of a Parquet file and of the one behind the last."""

    @property
    def files(self) -> list[Path]:
        """The files that the split reads, or reads from."""
        return [split.path for split in self.group] or [self.path]


@dataclass(frozen=True)
class Source:
    """Location of a split's text, and how many lines and documents of its file come before it."""

    path: Path
    start: int
    end: int
    first_line: int = 1
    first_unit: int = 0
    """Number of documents of the file before it."""
    ends_file: bool = True
    remedy: str = DOWNLOAD_AGAIN
    repeated: frozenset[int] = frozenset()
    """Numbers of the lines whose documents stood in the file before, as the pass that split it has found."""
    seen: Any = None
    """A `split_file.Repeats` that goes on from another part of the same archive; None: there is none."""
    content: Iterator[bytes] | None = None
    """The content, if it comes from inside of another file; `path` is then a name for errors. It can be read once."""

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yields (number of the line in the corpus's file, line without its end)."""
        if self.content is not None:
            return lines_of(self.path, self.content, self.remedy, self.first_line)
        return lines(self.path, self.remedy, self.start, self.end, self.first_line)

    def chunks(self) -> Iterator[bytes]:
        """Yields the decompressed content."""
        return self.content if self.content is not None else chunks(self.path, self.start, self.end)


def source_of(split: InputSplit) -> Source:
    """Returns what the reader of a split reads."""
    if split.source is not None:
        return split.source
    if split.note is None:
        return Source(split.path, split.start, split.end, ends_file=split.end == split.path.stat().st_size)
    note = read_json(split.note)
    place = (note["first_line"], note["first_unit"], note["ends_file"])
    repeated = frozenset(note.get("repeated", ()))
    if note["text"] is None:
        return Source(split.path, note["start"], note["end"], *place, repeated=repeated)
    path = split.note.with_name(note["text"])
    return Source(path, 0, path.stat().st_size, *place, f"delete {split.note} and run the same command again", repeated)


def printable(name: str) -> str:
    """Returns a file's name for an id: bytes that are no UTF-8 are written as \\xNN, so that different names stay different."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def natural_key(name: str) -> list[tuple[str, int]]:
    """Sort key that puts 'part_2' before 'part_10'."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def stem(path: Path) -> str:
    """Returns the file's name without the suffixes of formats and compressions."""
    return re.sub(r"(\.(jsonl|ndjson|json|txt|xml|parquet|warc|wet|tar|tgz|zip|bz2|gz|xz|zst))+$", "", path.name)


def shown_folders(paths: Iterable[Path]) -> dict[Path, tuple[str, ...]]:
    """Returns the folders that tell the files of a corpus apart: none where all names differ, else those below their common one."""
    known = dict.fromkeys(paths)
    if len({stem(path) for path in known}) == len(known):
        return dict.fromkeys(known, ())
    top = Path(os.path.commonpath([path.parent for path in known]))
    return {path: path.relative_to(top).parts[:-1] for path in known}


def file_splits(corpus: str, format: str, path: Path, id_prefix: str, files: list[Path]) -> list[InputSplit]:
    """Returns the splits of a file that can only be read from the start: one, or spans of it where it is a large part of its corpus.

    Args:
        corpus: name of the corpus.
        format: name of its reader.
        path: the file.
        id_prefix: see `InputSplit`.
        files: all files of the corpus.
    """
    size, name = path.stat().st_size, stem(path)
    # Splitting costs a second pass over the text; it pays only for files that would keep one rank busy at the end.
    if size <= max(2 * SPLIT_BYTES, sum(file.stat().st_size for file in files) // LARGE_SHARE):
        return [InputSplit(corpus, format, name, path, id_prefix, 0, size)]
    spans = [(start, min(size, start + SPLIT_BYTES)) for start in range(0, size, SPLIT_BYTES)]
    # Which documents begin in a span is known only when the file has been read; the note's path is set when the output directory is known.
    return [InputSplit(corpus, format, f"{name}-{n:05d}", path, id_prefix, *span, note=Path()) for n, span in enumerate(spans)]
