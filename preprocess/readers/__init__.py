"""Readers, one module a format; each streams documents and counts the dropped ones by reason.

A reader has three functions: `splits(corpus, files, settings)` returns the input splits, `begins(line, before)` recognises the first line
of a document (for files that are split in one pass), and `documents(split, dropped, bad)` reads a split. A format that is no lines of text
has in place of `begins` either `records(split)`, the number of its records, or `split_file(task, settings, count)` and `head(split, size)`,
which split a file and look at its head. `library(corpus, format)` names a library that the documents depend on. `KEYS` names the keys of a
corpus in the recipe that the format takes (`ReaderSettings`); without it none. A reader with `COUNTS_DOCUMENTS` adds its documents to
`bad.documents` itself, many at once before the first of them: a loop here would take a tenth of the time of short ones. A new format is
one more module and its line in `READERS`.
"""

import glob
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from jadeberta.shards import ConfigError, InputError
from jadeberta.utils.paths import expand_user, require_encodable
from jadeberta.utils.remote_paths import refuse_remote
from preprocess.compressed import compression
from preprocess.config import CorpusConfig
from preprocess.readers import cc100, enterprise_html, jsonl, oscar, parquet, plain_text, warc, wikiextractor, wikipedia
from preprocess.readers.archives import members
from preprocess.readers.archives.entries import is_archive
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.html.page_reader import READER
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, natural_key, shown_folders
from preprocess.readers.rows.field_paths import check_path
from preprocess.readers.rows.where import parse_where
from preprocess.readers.split_file import Repeats, SplitTask
from preprocess.readers.split_file import split_file as split_lines

READERS: dict[str, ModuleType] = {
    "wikipedia": wikipedia,
    "cc100": cc100,
    "oscar": oscar,
    "jsonl": jsonl,
    "wikiextractor": wikiextractor,
    "text": plain_text,
    "parquet": parquet,
    "warc": warc,
    "enterprise_html": enterprise_html,
}

_FOREIGN = {
    # The byte behind the mark opens a header of Thrift: a text may begin with PAR1.
    b"PAR1\x15": ("a Parquet file", "set the corpus's format to parquet"),
    b"\x1f\x8b\x08": ("compressed by gzip, and its name does not say so", "let it end in .gz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd, and its name does not say so", "let it end in .zst"),
    b"\xfd7zXZ\0": ("compressed by xz, and its name does not say so", "let it end in .xz"),
    b"PK\3\4": ("a zip archive, and its name does not say so", "let it end in .zip"),
    b"version https://git-lfs": ("a pointer of Git LFS and not the file itself", "run 'git lfs pull' in its folder"),
}
"""First bytes of files that hold no lines: (what they are, what to do)."""

__all__ = ["READERS", "Document", "InputSplit", "check_corpus", "documents", "splits"]


def check_corpus(corpus: str, config: CorpusConfig) -> ReaderSettings:
    """Returns what the recipe says about the records of a corpus.

    Raises:
        ConfigError: the format is unknown, the path is no local one, or the format does not take a key that is set.
    """
    if config.format not in READERS:
        raise ConfigError(f"preprocess.corpora.{corpus}.format: {config.format} is unknown; it may be {', '.join(READERS)}.")
    refuse_remote(config.path, f"preprocess.corpora.{corpus}.path")
    settings = ReaderSettings(**{field.name: getattr(config, field.name) for field in fields(ReaderSettings)})
    for key in settings.given():
        takers = [name for name, reader in READERS.items() if key in _keys(reader)]
        if config.format not in takers:
            who = f"only {' and '.join(takers)}" if takers else "no format"
            raise ConfigError(
                f"preprocess.corpora.{corpus}.{key}: {config.format} does not take it, {who} would; take the line out, "
                "or correct the format."
            )
        if key.endswith("_key"):
            check_path(settings.given()[key], f"preprocess.corpora.{corpus}.{key}")
    if settings.where:
        parse_where(settings.where, f"preprocess.corpora.{corpus}.where")
    return settings


def _keys(reader: ModuleType) -> tuple[str, ...]:
    """Returns the keys of a corpus that a format takes."""
    return getattr(reader, "KEYS", ())


def splits(corpus: str, config: CorpusConfig) -> list[InputSplit]:
    """Returns the input splits of one corpus in the order of its documents.

    Raises:
        ConfigError: as for `check_corpus`.
        InputError: no file matches, or two files would have the same name in the output.
    """
    settings = check_corpus(corpus, config)
    library_of(corpus, config.format)
    files = _files(corpus, config.path)
    for path in filter(is_archive, files):
        _reading(config.format, path, settings)
    found: list[InputSplit] = READERS[config.format].splits(corpus, files, settings)
    found = [replace(split, settings=settings) for split in _with_folders(found)]
    # Parts are named after their split: two of the same name would overwrite each other.
    names: dict[str, Path] = {}
    for split in found:
        if split.name in names:
            raise InputError(
                f"{split.path}: has the same name as {names[split.name]} but for suffixes or folder; rename one of them."
            )
        names[split.name] = split.path
    return found


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords | None = None) -> Iterator[Document]:
    """Streams the documents of a split, {"id", "source", "title", "text"}.

    Args:
        split: the split.
        dropped: counts dropped documents by reason.
        bad: what happens to lines and pages that cannot be read; None: they are errors.

    Raises:
        InputError: the file is empty, damaged, or holds no document.
    """
    bad = BadRecords() if bad is None else bad
    bad.dropped = dropped
    reader, found = READERS[split.format], False
    # Of many text files some may be empty; an empty dump is damaged.
    if split.end == 0 and reader is not plain_text:
        raise InputError(f"{split.path}: byte 0: the file is empty; copy or download it again.")
    before = bad.documents
    for piece in _pieces(split, dropped):
        bad.file = piece.path.relative_to(split.path.parent).as_posix() if piece.source is not None else ""
        if hasattr(reader, "COUNTS_DOCUMENTS"):
            yield from reader.documents(piece, dropped, bad)
            found = bad.documents > before
            continue
        for document in reader.documents(piece, dropped, bad):
            found = True
            bad.documents += 1
            yield document
    # A whole file without any document is damaged or of another format; a split of one may be empty.
    if not found and not dropped and split.note is None:
        raise InputError(f"{split.path}: line 1: no document in the whole file; copy or download it again.")


def _pieces(split: InputSplit, dropped: Counter[str]) -> Iterator[InputSplit]:
    """Yields what the reader of a format reads one by one: a split, the files of a group, or the members of an archive."""
    for one in split.group or (split,):
        piece = replace(one, settings=split.settings)
        if piece.source is None and is_archive(piece.path):
            yield from members.pieces(piece, _reading(piece.format, piece.path, piece.settings), dropped)
        else:
            if piece.source is None and piece.start == 0 and hasattr(READERS[piece.format], "MEMBERS"):
                _refuse_foreign(piece.path)
            yield piece


def _refuse_foreign(path: Path) -> None:
    """Refuses a file that holds no lines and is named as if it did: where bad lines are excluded, all of it would be.

    Raises:
        InputError: it is one.
    """
    try:
        with open(path, "rb") as f:
            head = f.read(max(map(len, _FOREIGN)))
    except OSError:
        # Who reads it says what it is.
        return
    for mark, (what, remedy) in _FOREIGN.items():
        if head.startswith(mark) and not compression(path.name):
            raise InputError(f"{path}: byte 0: {what}; {remedy}.")


def _reading(format: str, path: Path, settings: ReaderSettings) -> members.Reading:
    return members.reading_of(format, READERS[format], path, settings.documents)


def head_of_archive(split: InputSplit, size: int, dropped: Counter[str]) -> tuple[int, list[Document]]:
    """Returns (bytes of the archive read, documents) of the members at the head of an archive, which take about `size` bytes of it.

    Other documents are counted in `dropped` by reason.
    """
    bad = BadRecords("exclude", dropped)
    reading, reached, found = _reading(split.format, split.path, split.settings), [0], list[Document]()
    for piece in members.pieces(replace(split, note=None), reading, dropped, reached):
        for document in READERS[split.format].documents(piece, dropped, bad):
            found.append(document)
            if reached[0] >= size:
                return reached[0], found
    return split.path.stat().st_size, found


def library_of(corpus: str, format: str) -> dict[str, str]:
    """Returns {"library": its name and version} of a format whose documents depend on one, {} for others.

    Raises:
        ConfigError: the library is not installed.
    """
    reader = READERS[format]
    return {"library": reader.library(corpus, format)} if hasattr(reader, "library") else {}


def split(task: SplitTask, settings: Callable[[InputSplit], dict[str, Any]], count: Callable[..., None]) -> None:
    """Writes text and note of every wanted split of a file, in one pass; see `split_file.split_file`."""
    first = task.splits[0]
    reader = READERS[first.format]
    if is_archive(task.path):
        members.split_archive(task, _reading(first.format, task.path, first.settings), settings, count)
    elif hasattr(reader, "split_file"):
        reader.split_file(task, settings, count)
    else:
        repeats = Repeats(reader.identity) if hasattr(reader, "identity") else None
        split_lines(task, reader.begins, settings, count, repeats)


def end_helpers() -> None:
    """Ends the process that parses HTML for this one, if there is one: it would take memory to the end of the job."""
    READER.close()


def _with_folders(splits: list[InputSplit]) -> list[InputSplit]:
    """Returns the splits with the folders in their names if two files in different folders have one name, as AA/wiki_00 and AB/wiki_00."""
    folders = shown_folders(split.path for split in splits)

    def renamed(split: InputSplit) -> InputSplit:
        inside = folders[split.path]
        return replace(split, name="-".join([*inside, split.name]), file="/".join([*inside, split.file or split.path.name]))

    return [renamed(split) for split in splits] if any(folders.values()) else splits


def _files(corpus: str, pattern: str) -> list[Path]:
    expanded = expand_user(pattern, f"preprocess.corpora.{corpus}.path")
    found = [Path(name) for name in glob.glob(expanded, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
    # A name with brackets in it is a file before it is a pattern.
    files = [path for path in ([Path(expanded)] if Path(expanded).is_file() else found) if path.is_file()]
    if not files:
        if Path(expanded).is_dir():
            inside = f"{pattern.rstrip('/')}/**/*"
            raise InputError(
                f"{pattern}: a folder and not a file; write {inside} into preprocess.corpora.{corpus}.path for all in it."
            )
        what = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise InputError(f"{pattern}: {what}; correct preprocess.corpora.{corpus}.path or put the corpus there.")
    for path in files:
        require_encodable(str(path), f"preprocess.corpora.{corpus}.path")
    # The order decides ids and shards: it must not depend on the file system.
    return sorted(files, key=lambda path: (natural_key(path.name), str(path)))
