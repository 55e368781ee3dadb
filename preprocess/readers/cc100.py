"""Reads CC-100: a text file with one paragraph a line and a blank line between documents.

A document's id is its number in the file, from 1: CC-100 has no other stable key.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from preprocess.compressed import decode
from preprocess.readers.input_split import Document, InputSplit, file_splits, source_of


def splits(corpus: str, files: list[Path]) -> list[InputSplit]:
    """Returns the splits of each file. With several files the ids carry the file's number."""
    prefixes = [corpus] if len(files) == 1 else [f"{corpus}-{number}" for number, _ in enumerate(files, 1)]
    return [
        split for path, prefix in zip(files, prefixes, strict=True) for split in file_splits(corpus, "cc100", path, prefix, files)
    ]


def begins(line: bytes, before: bytes) -> bool:
    """Returns whether a document begins with this line; `before` is the line before it, empty at the file's start. Both may end in \\r."""
    return line not in (b"", b"\r") and before in (b"", b"\r")


def documents(split: InputSplit, dropped: Counter[str]) -> Iterator[Document]:
    """Streams the documents of a split."""
    source = source_of(split)
    for ordinal, paragraphs in enumerate(_blocks(split.path, source.lines()), source.first_unit + 1):
        text = "\n".join(paragraphs).strip()
        if text:
            yield {"id": f"{split.id_prefix}-{ordinal}", "source": split.corpus, "title": "", "text": text}
        else:
            dropped["empty"] += 1


def _blocks(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[list[str]]:
    block: list[str] = []
    for number, line in lines:
        if line:
            block.append(decode(path, number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
