"""Splits large files that can only be read from the start (.gz, .xz, .zst, one stream of .bz2): one rank splits, others extract meanwhile.

The number of input splits follows from the file's size alone, before anybody has read it: split n holds the documents whose first byte
comes out of the n-th span of the compressed file. The rank that splits the file writes the text of each split, compressed lightly, and last
a note about its content; extraction of a split can begin as soon as its note exists. For an uncompressed file there is only the note, with
the bounds in the file.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from jadeberta.shards import ConfigError, InputError
from jadeberta.utils.files import atomic_file
from preprocess.compressed import DOWNLOAD_AGAIN, MAX_LINE_BYTES, DamagedFile, chunks_ahead, compression
from preprocess.document_files import read_json, write_json
from preprocess.readers.input_split import InputSplit

LEVEL = 1
"""Level of zstd for text that is kept for some minutes."""

Placed = Iterator[tuple[int, bytes]]
"""Chunks of content, each with the bytes of the file read so far."""
Identity = Callable[[bytes], int | None]
"""Function of a format whose files may hold a document twice: the number in a line by which it is known; None: there is none."""
Begins = Callable[[bytes, bytes], bool]
"""Function of a format: does a document begin with this line, given the line before it?"""


@dataclass
class Extent:
    """Lines and documents of a file that an input split holds."""

    first_line: int
    """Number of the first line, from 1."""
    lines: int
    first_unit: int
    """Number of documents of the file before the split."""
    units: int


@dataclass(frozen=True)
class SplitTask:
    """The task of splitting one file."""

    path: Path
    splits: tuple[InputSplit, ...]
    """All input splits of the file."""
    wanted: frozenset[str]
    """Names of the splits that have to be written."""

    @property
    def corpus(self) -> str:
        """Name of the file's corpus."""
        return self.splits[0].corpus

    @property
    def name(self) -> str:
        """Name of the task in progress lines."""
        return f"splitting {self.path.name}"


class Repeats:
    """The documents of a file so far, by number: of two of one number the first stays."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._seen: set[int] = set()

    def among(self, lines: list[bytes], first: int) -> list[int]:
        """Returns the numbers of the lines that hold a document again; `first` is that of the first line."""
        return [number for number, line in enumerate(lines, first) if self.is_repeated(self._identity(line))]

    def is_repeated(self, identity: int | None) -> bool:
        """Returns whether a document of this number was there before, and notes it."""
        if identity is None:
            return False
        known = identity in self._seen
        self._seen.add(identity)
        return known


def is_written(split: InputSplit, settings: dict[str, Any]) -> bool:
    """Returns whether the text of a split was written under these settings."""
    if split.note is None or not split.note.is_file():
        return False
    note = read_json(split.note)
    return note["settings"] == settings and (note["text"] is None or split.note.with_name(note["text"]).is_file())


def extent_of(split: InputSplit) -> Extent | None:
    """Returns the extent in the note of a split; None where the split is a span of the file itself and has no note."""
    if split.note is None:
        return None
    note = read_json(split.note)
    return Extent(**{key: note[key] for key in Extent.__dataclass_fields__})


def remove_text(split: InputSplit) -> None:
    """Removes note and text of a split that is extracted."""
    if split.note is not None:
        split.note.unlink(missing_ok=True)
        _text_of(split).unlink(missing_ok=True)


def require_whole(path: Path, extents: list[Extent]) -> None:
    """Checks that the splits of a file hold each of its lines and documents once: if it was split in two passes they might not.

    Raises:
        ConfigError: they do not.
    """
    line, unit = 1, 0
    for extent in extents:
        if (extent.first_line, extent.first_unit) != (line, unit):
            raise ConfigError(
                f"{path}: its splits do not fit together (line {extent.first_line} comes after line {line - 1}), as if it had changed "
                "or been decompressed by another version of a library. Delete its folder under work/documents and run extract again."
            )
        line, unit = line + extent.lines, unit + extent.units


def split_file(
    task: SplitTask,
    begins: Begins,
    settings: Callable[[InputSplit], dict[str, Any]],
    count: Callable[..., None],
    repeats: "Repeats | None" = None,
) -> None:
    """Writes text and note of every wanted split of a file, in one pass.

    Args:
        task: the file and its splits.
        begins: the function of the file's format.
        settings: returns all that a split depends on; goes into its note.
        count: called with the bytes of the file read since its last call, as `weight`.
        repeats: finds the lines that hold a document again; None: there is no such line.

    Raises:
        InputError: the file is damaged; splits written until then are right.
    """
    # Batches come in the order of their splits; a split inside which no document begins has none.
    groups = groupby(_assign(task, begins, count), key=lambda batch: batch.place)
    place, batches = next(groups, (-1, iter(())))
    line, unit, byte = 1, 0, 0
    for number, split in enumerate(task.splits):
        extent, start = Extent(line, 0, unit, 0), byte
        repeated: list[int] = []
        with _writer(split, split.name in task.wanted) as write:
            for batch in batches if place == number else ():
                if repeats is not None:
                    repeated += repeats.among(batch.lines, line + extent.lines)
                extent.lines, extent.units = extent.lines + len(batch.lines), extent.units + batch.units
                byte += batch.bytes
                write(batch.lines)
        # The reader checks the file's own end only in the split that holds the last lines.
        ends_file = False
        if place == number:
            place, batches = next(groups, (-1, iter(())))
            ends_file = place < 0
        line, unit = line + extent.lines, unit + extent.units
        if split.name in task.wanted and split.note is not None:
            text = _text_of(split).name if _is_packed(split) else None
            note: dict[str, Any] = {
                "settings": settings(split),
                "text": text,
                "start": start,
                "end": byte,
                "ends_file": ends_file,
            }
            note |= {"repeated": repeated} if repeated else {}
            # Last: the note says that the text is whole, and makes the split ready for extraction.
            write_json(split.note, asdict(extent) | note)


def head_lines(path: Path, begins: Begins, size: int) -> tuple[int, list[bytes]]:
    """Returns the documents at the head of a file as (about how many bytes of the file they take, their lines).

    Args:
        path: the file.
        begins: the function of its format.
        size: bytes of the file to read at least.
    """
    lines: list[bytes] = []
    read = 0
    for place, batch, _ in placed_lines(path, chunks_ahead(path)):
        if read >= size:
            flags = map(begins, batch, [lines[-1], *batch])
            # Stop at the first line of a document, so that the last one is whole.
            if (cut := next((n for n, begun in enumerate(flags) if begun), None)) is not None:
                return read, lines + batch[:cut]
        lines, read = lines + batch, place
    return path.stat().st_size, lines


class _Batch(NamedTuple):
    """Lines that belong to the same split."""

    place: int
    """Number of the split."""
    lines: list[bytes]
    """Without their ends."""
    bytes: int
    """With them."""
    units: int
    """Documents that begin in them."""


def _assign(task: SplitTask, begins: Begins, count: Callable[..., None]) -> Iterator[_Batch]:
    """Yields all lines of a file in order with their split: a line belongs to its document, a document to the span of its first byte."""
    starts = [split.start for split in task.splits]
    place, before = 0, b""
    for read, lines, size in placed_lines(task.path, counted(chunks_ahead(task.path), count)):
        flags = list(map(begins, lines, [before, *lines]))
        before = lines[-1]
        # The current split at the earliest: a document never goes to a split before that of its predecessor.
        goes_to = bisect_left(starts, read, lo=place + 1) - 1
        # The lines up to the next document still belong to the document before, and so to its split.
        if goes_to > place and True in flags:
            cut = flags.index(True)
            head = sum(map(len, lines[:cut])) + cut
            if cut:
                yield _Batch(place, lines[:cut], head, 0)
            place = goes_to
            yield _Batch(place, lines[cut:], size - head, sum(flags))
        else:
            yield _Batch(place, lines, size, sum(flags))


def counted(chunks: Placed, count: Callable[..., None]) -> Placed:
    """Streams chunks, and calls `count` with the bytes of the file read since its last call, as `weight`."""
    before = 0
    for read, chunk in chunks:
        count(weight=read - before)
        before = read
        yield read, chunk


def placed_lines(path: Path, chunks: Placed) -> Iterator[tuple[int, list[bytes], int]]:
    """Yields (end of the chunk of the file that the lines' first bytes came out of, whole lines, their bytes)."""
    pending: list[bytes] = []
    began = number = 0
    try:
        for read, chunk in chunks:
            first, *rest = chunk.split(b"\n")
            # A line belongs where its first byte came out, however many chunks it spans.
            began = began if pending else read
            pending.append(first)
            if sum(map(len, pending)) > MAX_LINE_BYTES:
                raise InputError(f"{path}: line {number + 1}: longer than 1 GiB, so this is not a text file; {DOWNLOAD_AGAIN}.")
            if not rest:
                continue
            line, last = b"".join(pending), rest.pop()
            # The first line of a chunk may have begun in an earlier chunk; the others began in this one.
            yield began, [line], len(line) + 1
            if rest:
                yield read, rest, sum(map(len, rest)) + len(rest)
            number += 1 + len(rest)
            pending, began = ([last] if last else []), read
    except DamagedFile as e:
        raise InputError(f"{path}: line {number + 1}, byte {e.byte}: {e}; {DOWNLOAD_AGAIN}.") from e
    if pending:
        line = b"".join(pending)
        yield began, [line], len(line)


def _is_packed(split: InputSplit) -> bool:
    return bool(compression(split.path.name))


def _text_of(split: InputSplit) -> Path:
    """Returns where the text of a split of a compressed file is."""
    assert split.note is not None
    return split.note.with_suffix(".zst")


@contextmanager
def _writer(split: InputSplit, wanted: bool) -> Iterator[Callable[[list[bytes]], object]]:
    """Gives a function that writes lines of a split; it does nothing where there is nothing to write."""
    if not (wanted and _is_packed(split)):
        yield lambda lines: None
        return
    with (
        atomic_file(_text_of(split)) as f,
        zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(f, closefd=False) as stream,
    ):
        yield lambda lines: stream.write(b"\n".join([*lines, b""]))
