"""One reader a format; each streams documents and counts what it drops by reason.

A reader has three functions: `pieces(corpus, files)` cuts, `begins(line, before)` tells the first line of a document, for files that are
cut in one pass, and `documents(piece, dropped)` reads. A new format is one file more.
"""

import glob
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from jadeberta.shards import ConfigError, InputError
from preprocess.config import CorpusConfig
from preprocess.readers import cc100, jsonl, oscar, wikipedia
from preprocess.readers.input_split import Document, Piece, natural_key

READERS: dict[str, ModuleType] = {"wikipedia": wikipedia, "cc100": cc100, "oscar": oscar, "jsonl": jsonl}

__all__ = ["READERS", "Document", "Piece", "documents", "pieces"]


def pieces(corpus: str, config: CorpusConfig) -> list[Piece]:
    """The pieces of one corpus in the order of its documents."""
    if config.format not in READERS:
        raise ConfigError(f"preprocess.corpora.{corpus}.format: {config.format} is unknown; it may be {', '.join(READERS)}.")
    found: list[Piece] = READERS[config.format].pieces(corpus, _files(corpus, config.path))
    names: dict[str, Path] = {}
    for piece in found:
        if piece.name in names:
            raise InputError(
                f"{piece.path}: has the same name as {names[piece.name]} but for suffixes or folder; rename one of them."
            )
        names[piece.name] = piece.path
    return found


def documents(piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
    """Streams {"id", "source", "title", "text"}; `dropped` counts by reason what is left out."""
    if piece.end == 0:
        raise InputError(f"{piece.path}: byte 0: the file is empty; copy or download it again.")
    found = False
    for document in READERS[piece.format].documents(piece, dropped):
        found = True
        yield document
    if not found and not dropped and piece.cut is None:
        raise InputError(f"{piece.path}: line 1: no document in the whole file; copy or download it again.")


def _files(corpus: str, pattern: str) -> list[Path]:
    expanded = str(Path(pattern).expanduser())
    found = [Path(name) for name in glob.glob(expanded, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
    # A name with brackets in it is a file before it is a pattern.
    files = [path for path in ([Path(expanded)] if Path(expanded).is_file() else found) if path.is_file()]
    if not files:
        what = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise InputError(f"{pattern}: {what}; correct preprocess.corpora.{corpus}.path or put the corpus there.")
    return sorted(files, key=lambda path: (natural_key(path.name), str(path)))
