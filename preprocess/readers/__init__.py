"""Readers, one module a format; each streams documents and counts the dropped ones by reason.

A reader has three functions: `splits(corpus, files)` returns the input splits, `begins(line, before)` recognises the first line of a
document (for files that are split in one pass), and `documents(split, dropped, bad)` reads a split. A new format is one more module.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from jadeberta.shards import ConfigError, InputError
from jadeberta.utils.paths import expand_user
from preprocess.config import CorpusConfig
from preprocess.readers import cc100, jsonl, oscar, wikiextractor, wikipedia
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, natural_key, stem

READERS: dict[str, ModuleType] = {
    "wikipedia": wikipedia,
    "cc100": cc100,
    "oscar": oscar,
    "jsonl": jsonl,
    "wikiextractor": wikiextractor,
}

__all__ = ["READERS", "Document", "InputSplit", "documents", "splits"]


def splits(corpus: str, config: CorpusConfig) -> list[InputSplit]:
    """Returns the input splits of one corpus in the order of its documents.

    Raises:
        ConfigError: the format is unknown.
        InputError: no file matches, or two files would have the same name in the output.
    """
    if config.format not in READERS:
        raise ConfigError(f"preprocess.corpora.{corpus}.format: {config.format} is unknown; it may be {', '.join(READERS)}.")
    found: list[InputSplit] = READERS[config.format].splits(corpus, _files(corpus, config.path))
    found = _with_folders(found)
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
    if split.end == 0:
        raise InputError(f"{split.path}: byte 0: the file is empty; copy or download it again.")
    found = False
    for document in READERS[split.format].documents(split, dropped, bad):
        found = True
        bad.documents += 1
        yield document
    # A whole file without any document is damaged or of another format; a split of one may be empty.
    if not found and not dropped and split.note is None:
        raise InputError(f"{split.path}: line 1: no document in the whole file; copy or download it again.")


def _with_folders(splits: list[InputSplit]) -> list[InputSplit]:
    """Returns the splits with the folders in their names if two files in different folders have one name, as AA/wiki_00 and AB/wiki_00."""
    paths = {split.path for split in splits}
    if len({stem(path) for path in paths}) == len(paths):
        return splits
    top = Path(os.path.commonpath([path.parent for path in paths]))

    def renamed(split: InputSplit) -> InputSplit:
        inside = split.path.relative_to(top)
        folders = "".join(f"{part}-" for part in inside.parts[:-1])
        return replace(split, name=f"{folders}{split.name}", file=inside.as_posix())

    return [renamed(split) for split in splits]


def _files(corpus: str, pattern: str) -> list[Path]:
    expanded = expand_user(pattern, f"preprocess.corpora.{corpus}.path")
    found = [Path(name) for name in glob.glob(expanded, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
    # A name with brackets in it is a file before it is a pattern.
    files = [path for path in ([Path(expanded)] if Path(expanded).is_file() else found) if path.is_file()]
    if not files:
        what = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise InputError(f"{pattern}: {what}; correct preprocess.corpora.{corpus}.path or put the corpus there.")
    # The order decides ids and shards: it must not depend on the file system.
    return sorted(files, key=lambda path: (natural_key(path.name), str(path)))
