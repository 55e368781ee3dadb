"""Large files that cannot be entered in the middle (.gz, .xz, .zst, one stream of .bz2), cut in one pass: one rank cuts, others work.

Which pieces there are follows from the file's size alone, before anybody has read it: piece n holds the documents whose first byte comes
out of the n-th span of the compressed file. The rank that cuts writes the text of each piece, packed lightly, and last a note of what it
holds; a piece can be begun as soon as its note is there. Of a file that is not compressed there is only the note, with bytes of the file.
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
from preprocess.compressed import DECOMPRESSORS, DOWNLOAD_AGAIN, MAX_LINE_BYTES, DamagedFile, chunks_ahead
from preprocess.document_files import read_json, write_json
from preprocess.readers.input_split import Piece

LEVEL = 1
"""Of zstd: the text lies there for some minutes."""

Begins = Callable[[bytes, bytes], bool]
"""Whether a document begins with a line, given the line before it."""


@dataclass
class Extent:
    """What a piece of a file holds."""

    first_line: int
    """Number of its first line, from 1."""
    lines: int
    first_unit: int
    """Documents before it in the file."""
    units: int


@dataclass(frozen=True)
class Cutting:
    """The work of cutting one file."""

    path: Path
    pieces: tuple[Piece, ...]
    """All of the file."""
    wanted: frozenset[str]
    """Names of those that have to be written."""

    @property
    def corpus(self) -> str:
        return self.pieces[0].corpus

    @property
    def name(self) -> str:
        """For those who look on."""
        return f"cutting {self.path.name}"


def is_cut(piece: Piece, settings: dict[str, Any]) -> bool:
    """Whether the text of a piece lies there, cut under these settings."""
    if piece.cut is None or not piece.cut.is_file():
        return False
    note = read_json(piece.cut)
    return note["settings"] == settings and (note["text"] is None or piece.cut.with_name(note["text"]).is_file())


def extent_of(piece: Piece) -> Extent | None:
    """What the note of a cut piece says that it holds; None of a piece that was not cut."""
    if piece.cut is None:
        return None
    note = read_json(piece.cut)
    return Extent(**{key: note[key] for key in Extent.__dataclass_fields__})


def remove(piece: Piece) -> None:
    """Takes away what was cut for a piece that is done."""
    if piece.cut is not None:
        piece.cut.unlink(missing_ok=True)
        _text_of(piece).unlink(missing_ok=True)


def require_whole(path: Path, extents: list[Extent]) -> None:
    """Raises ConfigError unless the pieces of a file hold each line and document of it once: cut in two passes they might not."""
    line, unit = 1, 0
    for extent in extents:
        if (extent.first_line, extent.first_unit) != (line, unit):
            raise ConfigError(
                f"{path}: its pieces do not fit together (line {extent.first_line} comes after line {line - 1}), as if it had changed "
                "or been decompressed by another version of a library. Delete its folder under work/documents and run extract again."
            )
        line, unit = line + extent.lines, unit + extent.units


def cut_file(cutting: Cutting, begins: Begins, settings: Callable[[Piece], dict[str, Any]], count: Callable[..., None]) -> None:
    """Writes text and note of every wanted piece of a file.

    Args:
        cutting: the file and its pieces.
        begins: of the file's format.
        settings: all that a piece depends on; goes into its note.
        count: told what was read since it was called last, as `weight`: bytes of the file.

    Raises:
        InputError: the file is damaged; what was written until then is right.
    """
    groups = groupby(_dealt(cutting, begins, count), key=lambda batch: batch.place)
    place, batches = next(groups, (-1, iter(())))
    line, unit, byte = 1, 0, 0
    for number, piece in enumerate(cutting.pieces):
        extent, start = Extent(line, 0, unit, 0), byte
        with _writer(piece, piece.name in cutting.wanted) as write:
            for batch in batches if place == number else ():
                extent.lines, extent.units = extent.lines + len(batch.lines), extent.units + batch.units
                byte += batch.bytes
                write(batch.lines)
        ends_file = False
        if place == number:
            place, batches = next(groups, (-1, iter(())))
            ends_file = place < 0
        line, unit = line + extent.lines, unit + extent.units
        if piece.name in cutting.wanted and piece.cut is not None:
            text = _text_of(piece).name if _is_packed(piece) else None
            note = {"settings": settings(piece), "text": text, "start": start, "end": byte, "ends_file": ends_file}
            write_json(piece.cut, asdict(extent) | note)


def head_lines(path: Path, begins: Begins, size: int) -> tuple[int, list[bytes]]:
    """About how many bytes of a file are the whole documents at its head that take `size` of them at least, and their lines."""
    lines: list[bytes] = []
    read = 0
    for place, batch, _ in _placed_lines(path, lambda weight: None):
        if read >= size:
            flags = map(begins, batch, [lines[-1], *batch])
            if (cut := next((n for n, begun in enumerate(flags) if begun), None)) is not None:
                return read, lines + batch[:cut]
        lines, read = lines + batch, place
    return path.stat().st_size, lines


class _Batch(NamedTuple):
    """Lines that belong to the same piece."""

    place: int
    """Number of the piece."""
    lines: list[bytes]
    """Without their ends."""
    bytes: int
    """With them."""
    units: int
    """Documents that begin in them."""


def _dealt(cutting: Cutting, begins: Begins, count: Callable[..., None]) -> Iterator[_Batch]:
    """All lines of a file in order, each with its piece: a document goes where its first byte comes out, a line to its document."""
    starts = [piece.start for piece in cutting.pieces]
    place, before = 0, b""
    for read, lines, size in _placed_lines(cutting.path, count):
        flags = list(map(begins, lines, [before, *lines]))
        before = lines[-1]
        goes_to = bisect_left(starts, read, lo=place + 1) - 1
        if goes_to > place and True in flags:
            cut = flags.index(True)
            head = sum(map(len, lines[:cut])) + cut
            if cut:
                yield _Batch(place, lines[:cut], head, 0)
            place = goes_to
            yield _Batch(place, lines[cut:], size - head, sum(flags))
        else:
            yield _Batch(place, lines, size, sum(flags))


def _placed_lines(path: Path, count: Callable[..., None]) -> Iterator[tuple[int, list[bytes], int]]:
    """(byte of the file behind what the lines' first bytes came out of, whole lines, their bytes) of a file."""
    pending: list[bytes] = []
    began = number = counted = 0
    try:
        for read, chunk in chunks_ahead(path):
            count(weight=read - counted)
            counted = read
            first, *rest = chunk.split(b"\n")
            began = began if pending else read
            pending.append(first)
            if sum(map(len, pending)) > MAX_LINE_BYTES:
                raise InputError(f"{path}: line {number + 1}: longer than 1 GiB, so this is not a text file; {DOWNLOAD_AGAIN}.")
            if not rest:
                continue
            line, last = b"".join(pending), rest.pop()
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


def _is_packed(piece: Piece) -> bool:
    return piece.path.suffix in DECOMPRESSORS


def _text_of(piece: Piece) -> Path:
    """Where the text of a piece of a compressed file lies once it is cut."""
    assert piece.cut is not None
    return piece.cut.with_suffix(".zst")


@contextmanager
def _writer(piece: Piece, wanted: bool) -> Iterator[Callable[[list[bytes]], object]]:
    """A function that writes lines of a piece; one that does nothing where there is nothing to write."""
    if not (wanted and _is_packed(piece)):
        yield lambda lines: None
        return
    with (
        atomic_file(_text_of(piece)) as f,
        zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(f, closefd=False) as stream,
    ):
        yield lambda lines: stream.write(b"\n".join([*lines, b""]))
