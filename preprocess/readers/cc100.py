"""Reads CC-100: a text file with one paragraph a line and a blank line between documents.

A document's id is its number in the file, from 1: CC-100 has no other stable key.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from preprocess.compressed import BadRecord, decode
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits, source_of

MEMBERS = re.compile(r"\.txt(\.(gz|zst|xz|bz2))?$")
"""Names of the members of an archive that are read."""


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file. With several files the ids carry the file's number."""
    prefixes = [corpus] if len(files) == 1 else [f"{corpus}-{number}" for number, _ in enumerate(files, 1)]
    return [
        split for path, prefix in zip(files, prefixes, strict=True) for split in file_splits(corpus, "cc100", path, prefix, files)
    ]


def begins(line: bytes, before: bytes) -> bool:
    """Returns whether a document begins with this line; `before` is the line before it, empty at the file's start. Both may end in \\r."""
    return line not in (b"", b"\r") and before in (b"", b"\r")


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a split. A document of which a line is excluded keeps its other lines, and its number."""
    source = source_of(split)
    for ordinal, paragraphs in enumerate(_blocks(split.path, source.lines(), bad), source.first_unit + 1):
        text = "\n".join(paragraphs).strip()
        if text:
            yield {"id": f"{split.id_prefix}-{ordinal}", "source": split.corpus, "title": "", "text": text}
        elif paragraphs:
            dropped["empty"] += 1


def _blocks(path: Path, lines: Iterator[tuple[int, bytes]], bad: BadRecords) -> Iterator[list[str]]:
    """Yields the lines of each document; none where all of them are excluded."""
    block: list[str] | None = None
    for number, line in lines:
        if not line:
            if block is not None:
                yield block
            block = None
            continue
        block = [] if block is None else block
        try:
            block.append(decode(path, number, line))
        except BadRecord as e:
            bad.add(e)
    if block is not None:
        yield block
