"""A Parquet file as batches of rows of the columns that are needed; every fault of the file is one sentence with row group and column.

pyarrow reads without threads, so that the ranks of a node do not compete, and with a buffer of its own for each column, so that a row
group is never in memory as a whole. Page checksums are verified where the file has them.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jadeberta.shards import InputError
from preprocess.compressed import DOWNLOAD_AGAIN
from preprocess.readers.input_split import ReaderSettings
from preprocess.readers.rows.parquet_columns import Broken, Columns, find_columns

BATCH_BYTES = 2**22
"""Bytes that the rows of a batch have, by the average of their row groups."""
BATCH_ROWS = 256
"""Most rows of a batch. Each can be as large as a dictionary page, usually 1 MiB; more rows are hardly faster (measured)."""
BUFFER_BYTES = 2**20
"""Bytes read at once of each column."""
_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK")
_LFS_POINTER = b"version https://git-lfs"
_FAULTS = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


@dataclass
class Rows:
    """Rows of one batch that `where` keeps; lists of the same length, None where the file has no such column."""

    numbers: Sequence[int]
    """Of the rows in the file, from 1."""
    texts: list[str | None]
    titles: list[str | None] | None
    ids: list[Any] | None
    unwanted: int = 0
    """Number of rows of the batch that `where` drops."""
    broken: Broken = field(default_factory=dict)
    """By the number of the row in the file."""

    def only(self, place: int) -> "Rows":
        """Returns one of the rows."""
        one = slice(place, place + 1)
        return Rows(self.numbers[one], self.texts[one], self.titles and self.titles[one], self.ids and self.ids[one])


class ParquetFile:
    """An open file."""

    def __init__(self, path: Path, corpus: str, settings: ReaderSettings) -> None:
        """Opens a file and finds the columns of a corpus in it.

        Raises:
            InputError: it is no whole Parquet file, has no row, or not the columns that are asked for.
        """
        self._path = path
        _require_parquet(path)
        try:
            self._file = pq.ParquetFile(
                path, buffer_size=BUFFER_BYTES, pre_buffer=False, memory_map=False, page_checksum_verification=True
            )
            self._metadata, schema = self._file.metadata, self._file.schema_arrow
        except _FAULTS as e:
            raise self._error("its footer cannot be read", e) from e
        try:
            self._columns: Columns = find_columns(path, schema, corpus, settings)
            # Only these two of a row group: pyarrow ends the process where it is asked for a column's metadata and they are damaged.
            groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
            self._rows = [group.num_rows for group in groups]
            self._bytes = [max(1, group.total_byte_size) for group in groups]
            self._check_footer()
        except _FAULTS as e:
            self._file.close()
            raise self._error("its footer cannot be read", e) from e
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> "ParquetFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()

    def row_counts(self) -> list[int]:
        """Returns the number of rows in each row group, as the footer says."""
        return self._rows

    def group_bytes(self) -> list[int]:
        """Returns the bytes of all columns of each row group, before compression, at least 1."""
        return self._bytes

    def require_readable(self) -> None:
        """Reads the first row: codecs, encrypted columns and files whose middle is missing are found before the work begins.

        Raises:
            InputError: it cannot be read.
        """
        first = next(number for number, rows in enumerate(self._rows) if rows)
        try:
            next(self._batches(1, [first], self._columns.selection), None)
        except _FAULTS as e:
            raise self._fault_in([first], e) from e

    def rows(self, first: int, behind: int) -> Iterator[Rows]:
        """Streams the rows of the row groups [first, behind).

        Raises:
            InputError: one is damaged, or does not hold the rows that the footer promises; names row group and column.
        """
        promised = sum(self._rows[first:behind])
        average = sum(self._bytes[first:behind]) // max(1, promised)
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, average)))
        number = before = sum(self._rows[:first])
        try:
            for batch in self._batches(size, range(first, behind), self._columns.selection):
                yield self._rows_of(batch, number)
                number += batch.num_rows
        except _FAULTS as e:
            raise self._fault_in(range(first, behind), e) from e
        if number - before != promised:
            raise self._fault_in(range(first, behind), None)

    def _batches(self, size: int, groups: Iterable[int], names: list[str]) -> Iterator[pa.RecordBatch]:
        return self._file.iter_batches(batch_size=size, row_groups=list(groups), columns=names, use_threads=False)

    def _rows_of(self, batch: pa.RecordBatch, before: int) -> Rows:
        columns, count, broken = self._columns, batch.num_rows, Broken()
        numbers: Sequence[int] = range(before + 1, before + count + 1)
        kept = [True] * count
        if columns.where is not None:
            values = [column.values(batch, broken) for column in columns.fields]
            # A row whose fields cannot be read is a bad record, and not one that the filter drops.
            kept = [number in broken or columns.where.keeps(row) for number, row in enumerate(zip(*values, strict=True))]
            if not all(kept):
                batch = batch.filter(pa.array(kept))
                places = {old: new for new, old in enumerate(compress(range(count), kept))}
                broken = {places[number]: problem for number, problem in broken.items()}
                numbers = list(compress(numbers, kept))
        texts = columns.text.values(batch, broken)
        if texts and isinstance(next((text for text in texts if text is not None), ""), list):
            texts = [_joined(text, number, columns, broken) for number, text in enumerate(texts)]
        titles = None if columns.title is None else columns.title.values(batch, broken)
        ids = None if columns.id is None else columns.id.values(batch, broken)
        if broken:
            broken = {numbers[number]: problem for number, problem in broken.items()}
        return Rows(numbers, texts, titles, ids, count - sum(kept), broken)

    def _check_footer(self) -> None:
        if not sum(self._rows):
            raise InputError(f"{self._path}: the file has no row; take it out, or {DOWNLOAD_AGAIN}.")
        if min(self._rows) < 0 or sum(self._rows) != self._metadata.num_rows:
            raise InputError(
                f"{self._path}: its footer says {self._metadata.num_rows:,} rows, and its row groups {sum(self._rows):,}; {DOWNLOAD_AGAIN}."
            )

    def _fault_in(self, groups: Iterable[int], error: BaseException | None) -> InputError:
        """Returns the error that names the first row group and column at fault: each is read by itself to find them."""
        for group in groups:
            for name in self._columns.selection:
                try:
                    found = sum(batch.num_rows for batch in self._batches(BATCH_ROWS, [group], [name]))
                except _FAULTS as e:
                    return self._error(f"row group {group}, column {name}", e)
                if found != self._rows[group]:
                    promised = f"{found:,} rows where the footer says {self._rows[group]:,}"
                    return InputError(f"{self._path}: row group {group}, column {name}: {promised}; {DOWNLOAD_AGAIN}.")
        return self._error(f"row groups {min(groups)} to {max(groups)}", error)  # type: ignore[call-overload]

    def _error(self, place: str, error: BaseException | None) -> InputError:
        """Returns the error about a fault that pyarrow has met."""
        if isinstance(error, InputError):
            return error
        if isinstance(error, PermissionError):
            return InputError(f"{self._path}: {error.strerror}; give this user the right to read it.")
        # Trouble of this process or of the system, such as no descriptor left; pyarrow gives the file's faults without a number.
        if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
            raise error
        said = " ".join(str(error).split())[:200].rstrip(".")
        remedy = DOWNLOAD_AGAIN
        if "crypt" in said.lower():
            return InputError(
                f"{self._path}: {place}: it is encrypted, and no key is known here; write it again without encryption."
            )
        if "codec" in said.lower() or "compression" in said.lower():
            remedy = "write the file again with zstd"
        elif isinstance(error, pa.ArrowNotImplementedError):
            remedy = "write the file again with pyarrow"
        if isinstance(error, MemoryError):
            said = f"more memory is needed than there is ({said})"
            remedy = f"{DOWNLOAD_AGAIN}, or write it again with smaller pages"
        return InputError(f"{self._path}: {place}: {said}; {remedy}.")


def _require_parquet(path: Path) -> None:
    """Checks the first and last bytes: pyarrow's own words for all that is no Parquet file are the same.

    Raises:
        InputError: they are not those of a Parquet file.
    """
    try:
        with open(path, "rb") as f:
            head = f.read(len(_LFS_POINTER))
            size = f.seek(0, 2)
            f.seek(max(0, size - 4))
            tail = f.read(4)
    except PermissionError as e:
        raise InputError(f"{path}: {e.strerror}; give this user the right to read it.") from e
    if not size:
        raise InputError(f"{path}: byte 0: the file is empty; {DOWNLOAD_AGAIN}.")
    if head == _LFS_POINTER:
        raise InputError(f"{path}: a pointer of Git LFS and not the file itself; run 'git lfs pull' in its folder.")
    if head[:4] == _ENCRYPTED_MAGIC or tail == _ENCRYPTED_MAGIC:
        raise InputError(f"{path}: its footer is encrypted, and no key is known here; write it again without encryption.")
    if head.startswith(_COMPRESSED):
        raise InputError(
            f"{path}: byte 0: the whole file is compressed, and Parquet compresses its columns itself; decompress it."
        )
    if head[:4] != _MAGIC:
        raise InputError(
            f"{path}: byte 0: not a Parquet file; correct the corpus's format or path in the recipe, or {DOWNLOAD_AGAIN}."
        )
    if tail != _MAGIC or size < 12:
        raise InputError(f"{path}: byte {size}: the file is cut short: it has no footer; {DOWNLOAD_AGAIN}.")


def _joined(lines: list[str | None] | None, number: int, columns: Columns, broken: Broken) -> str | None:
    if lines is None:
        return None
    if None in lines:
        broken[number] = ("wrong type", f"column {columns.text.selection} has a null in a list")
        return None
    return "\n".join(line for line in lines if line is not None)
