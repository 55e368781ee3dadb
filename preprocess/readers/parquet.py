"""Reads Parquet: one row a document, its text in a column; only the columns that are needed are read, in small batches.

A split is a row group, or a run of small ones. The rules are those of JSON Lines (`jsonl.py`) but for null texts, which Parquet has by
design: they are dropped and counted. What a footer promises is checked: a row that is missing is never taken for one that was not there.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from preprocess.compressed import EXCLUDE, BadRecord
from preprocess.readers import input_split
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, shown_folders, stem

if TYPE_CHECKING:
    from preprocess.readers.rows.parquet_file import ParquetFile, Rows

KEYS = ("text_key", "id_key", "where")
COUNTS_DOCUMENTS = True


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file; ids of rows without an id of their own carry the file's name.

    Raises:
        InputError: a file is no Parquet file, is cut short or encrypted, has no row, or not the columns that are asked for.
    """
    folders = shown_folders(files)
    return [split for path in files for split in _file_splits(corpus, path, "/".join([*folders[path], stem(path)]), settings)]


def _file_splits(corpus: str, path: Path, shown: str, settings: ReaderSettings) -> list[InputSplit]:
    with _opened(path, corpus, settings) as file:
        file.require_readable()
        sizes, rows = file.group_bytes(), file.row_counts()
    # A row group takes as much of the file as it takes of the content: its own place there may be damaged.
    file_bytes, total = path.stat().st_size, sum(sizes)
    ends = [max(1, file_bytes * end // total) for end in accumulate(sizes)]
    runs: list[list[int]] = [[0, 0]]
    for number, end in enumerate(ends):
        first, behind = runs[-1]
        start = ends[first - 1] if first else 0
        if behind and end - start > input_split.SPLIT_BYTES and any(rows[first:behind]) and any(rows[number:]):
            runs.append([number, number])
        runs[-1][1] = number + 1
    bounds = [0, *(ends[behind - 1] for _, behind in runs)]
    return [
        InputSplit(
            corpus,
            "parquet",
            stem(path) if len(runs) == 1 else f"{stem(path)}-{number:05d}",
            path,
            f"{corpus}-{shown}",
            bounds[number],
            bounds[number + 1],
            row_groups=(first, behind),
        )
        for number, (first, behind) in enumerate(runs)
    ]


def records(split: InputSplit) -> int:
    """Returns the number of rows in a split."""
    with _opened(split.path, split.corpus, split.settings) as file:
        return max(1, sum(file.row_counts()[slice(*(split.row_groups or (0, None)))]))


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a split."""
    with _opened(split.path, split.corpus, split.settings) as file:
        for rows in file.rows(*(split.row_groups or (0, len(file.row_counts())))):
            dropped.update({"where": rows.unwanted} if rows.unwanted else {})
            yield from _with_bad_rows(split, rows, dropped, bad) if rows.broken else _documents(split, rows, dropped, bad)


def _documents(split: InputSplit, rows: "Rows", dropped: Counter[str], bad: BadRecords) -> list[Document]:
    """Returns the documents of a batch without bad rows; whole lists at once, as a step of a generator costs more than a dictionary."""
    corpus, texts, prefix = split.corpus, rows.texts, split.id_prefix
    if rows.ids is None:
        ids = [f"{prefix}-{number}" for number in rows.numbers]
    elif all(rows.ids):
        ids = [f"{corpus}-{key}" for key in rows.ids]
    else:
        keys = zip(rows.numbers, rows.ids, strict=True)
        ids = [f"{prefix}-{number}" if key is None or key == "" else f"{corpus}-{key}" for number, key in keys]
    titles = repeat("") if rows.titles is None else rows.titles
    found: list[Document] = [
        {"id": id_, "source": corpus, "title": title or "", "text": stripped}
        for id_, title, text in zip(ids, titles, texts, strict=False)
        if text and (stripped := text.strip())
    ]
    bad.documents += len(found)
    if len(found) < len(texts):
        nulls = texts.count(None)
        dropped.update({reason: n for reason, n in (("null", nulls), ("empty", len(texts) - len(found) - nulls)) if n})
    return found


def _with_bad_rows(split: InputSplit, rows: "Rows", dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a batch in which rows are bad, one by one: the bad ones are to be met in their order."""
    for place, number in enumerate(rows.numbers):
        if number in rows.broken:
            kind, problem = rows.broken[number]
            bad.add(BadRecord(split.path, f"row {number}", kind, problem, f"write the row again, take it out, or {EXCLUDE}"))
        else:
            yield from _documents(split, rows.only(place), dropped, bad)


def _opened(path: Path, corpus: str, settings: ReaderSettings) -> "ParquetFile":
    # Here and not at the top: pyarrow takes a part of a second, and other formats do not need it.
    from preprocess.readers.rows.parquet_file import ParquetFile

    return ParquetFile(path, corpus, settings)
