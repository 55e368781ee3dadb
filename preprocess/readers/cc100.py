"""CC-100: a text file with a blank line between documents and one line a paragraph.

The only stable key of a document is its place in the file, counted from 1.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from preprocess.compressed import decode, lines
from preprocess.readers.piece import Document, Piece, whole_file


def pieces(corpus: str, files: list[Path]) -> list[Piece]:
    """One piece a file: xz cannot be entered in the middle. With several files the ids carry the file's number."""
    if len(files) == 1:
        return [whole_file(corpus, "cc100", files[0], corpus)]
    return [whole_file(corpus, "cc100", path, f"{corpus}-{number}") for number, path in enumerate(files, 1)]


def documents(piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
    ordinal = 0
    for ordinal, paragraphs in enumerate(_blocks(piece.path), 1):
        text = "\n".join(paragraphs).strip()
        if text:
            yield {"id": f"{piece.id_prefix}-{ordinal}", "source": piece.corpus, "title": "", "text": text}
        else:
            dropped["empty"] += 1


def _blocks(path: Path) -> Iterator[list[str]]:
    block: list[str] = []
    for number, line in lines(path):
        if line:
            block.append(decode(path, number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block
