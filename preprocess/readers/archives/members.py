"""The members of an archive as files of a corpus.

A split of an archive gives the documents of all of them in order. Of a large archive it gives those of the parts of members that one pass
over the archive has put into the split.
"""

import logging
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import zstandard

from jadeberta.shards import InputError
from jadeberta.utils.files import atomic_file
from preprocess.compressed import DOWNLOAD_AGAIN, DamagedFile, compression, decompressed
from preprocess.document_files import read_json, write_json
from preprocess.readers.archives.entries import Entry, reason_against
from preprocess.readers.archives.tar_entries import tar_entries
from preprocess.readers.archives.zip_entries import zip_entries
from preprocess.readers.input_split import InputSplit, Source, printable
from preprocess.readers.split_file import LEVEL, Begins, Extent, Identity, Repeats, SplitTask, placed_lines

LEFT_OUT = "member: "
"""Begins the reasons under which members that are not read are counted as dropped."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How a format reads archives."""

    format: str
    wanted: re.Pattern[str]
    """Names of the members that are read."""
    begins: Begins | None
    """See `split_file.Begins`; None: a member is one document."""
    identity: Identity | None = None


def reading_of(format: str, reader: ModuleType, path: Path, documents: str) -> Reading:
    """Returns how a format reads archives; `documents` is the key of the recipe.

    Raises:
        InputError: it reads none.
    """
    if not hasattr(reader, "MEMBERS"):
        command = f"unzip {path.name}" if path.suffix.lower() == ".zip" else f"tar -xf {path.name}"
        raise InputError(f"{path}: format {format} reads no members of archives; unpack it with {command} and name the files.")
    is_whole = getattr(reader, "is_whole", None)
    begins = None if is_whole is not None and is_whole(documents) else reader.begins
    return Reading(format, reader.MEMBERS, begins, getattr(reader, "identity", None))


def pieces(split: InputSplit, reading: Reading, dropped: Counter[str], reached: list[int] | None = None) -> Iterator[InputSplit]:
    """Streams the parts of members that a split of an archive holds, each as a split of its own; each is to be read before the next.

    Args:
        split: a split of an archive.
        reading: see `reading_of`.
        dropped: counts the members that are not read, by reason.
        reached: its one number becomes that of the bytes of the archive read so far, where it is read itself.

    Raises:
        InputError: the archive is damaged, or none of its members is read.
    """
    if split.note is None:
        repeats = None if reading.identity is None else Repeats(reading.identity)
        for name, content in _members(split.path, reading, dropped):
            path = split.path / name
            source = Source(path, 0, 0, content=_watched(content, reached if reached is not None else [0]), seen=repeats)
            yield replace(split, path=path, id_prefix=f"{split.id_prefix}/{printable(name)}", source=source)
        return
    note = read_json(split.note)
    dropped.update(note["left_out"])
    text = split.note.with_name(note["text"])
    for piece in note["pieces"]:
        path, place = split.path / piece["name"], (piece["first_line"], piece["first_unit"])
        remedy = f"delete {split.note} and run the same command again"
        source = Source(text, piece["start"], piece["end"], *place, remedy=remedy, repeated=frozenset(piece["repeated"]))
        yield replace(split, path=path, id_prefix=f"{split.id_prefix}/{printable(piece['name'])}", source=source, note=None)


def _watched(content: Iterator[tuple[int, bytes]], reached: list[int]) -> Iterator[bytes]:
    for place, chunk in content:
        reached[0] = max(reached[0], place)
        yield chunk


def split_archive(
    task: SplitTask, reading: Reading, settings: Callable[[InputSplit], dict[str, Any]], count: Callable[..., None]
) -> None:
    """Writes text and note of every wanted split of an archive, in one pass: the text of each part of a member is a zstd frame of its own.

    Args:
        task: the archive and its splits.
        reading: see `reading_of`.
        settings: returns all that a split depends on; goes into its note.
        count: called with the bytes of the archive read since its last call, as `weight`.
    """
    repeats = None if reading.identity is None else Repeats(reading.identity)
    left_out: Counter[str] = Counter()
    starts = [split.start for split in task.splits]
    with _Writer(task, settings, left_out) as writer:
        for name, content in _members(task.path, reading, left_out, count):
            writer.begin_member(name)
            before, at = b"", -1
            for at, (read, lines, _) in enumerate(placed_lines(task.path / name, content)):
                flags = [False] * len(lines)
                if reading.begins is not None:
                    flags = list(map(reading.begins, lines, [before, *lines]))
                before = lines[-1]
                goes_to = bisect_left(starts, read, lo=writer.place + 1) - 1
                # A member begins with a document, whatever its first line is.
                cut = 0 if not at else flags.index(True) if True in flags else -1
                if goes_to > writer.place and cut >= 0:
                    writer.write(lines[:cut], 0, repeats)
                    writer.go_to(goes_to)
                    writer.write(lines[cut:], sum(flags), repeats)
                else:
                    writer.write(lines, sum(flags), repeats)
            if at < 0:
                writer.add_empty()
        writer.go_to(len(task.splits))


class _Writer:
    """Writes the splits of an archive, one after the other."""

    def __init__(self, task: SplitTask, settings: Callable[[InputSplit], dict[str, Any]], left_out: Counter[str]) -> None:
        self._task, self._settings, self._left_out = task, settings, left_out
        self.place = 0
        """Number of the current split."""
        self._line, self._unit = 1, 0  # of the archive
        self._extent = Extent(1, 0, 0, 0)
        self._pieces: list[dict[str, Any]] = []
        self._name, self._member_line, self._member_unit = "", 1, 0
        self._stack = ExitStack()
        self._file: Any = None
        self._frame: Any = None

    def __enter__(self) -> "_Writer":
        self._open()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        # An error removes the file that is being written; its note is not there.
        self._stack.__exit__(kind, error, trace)

    def begin_member(self, name: str) -> None:
        self._end_piece()
        self._name, self._member_line, self._member_unit = name, 1, 0

    def write(self, lines: list[bytes], units: int, repeats: Repeats | None) -> None:
        """Adds lines of the current member, in which so many documents begin, to the current split."""
        if not lines:
            return
        if not self._pieces or self._pieces[-1]["end"] is not None:
            self._begin_piece()
        piece = self._pieces[-1]
        if repeats is not None:
            piece["repeated"] += repeats.among(lines, self._member_line)
        self._member_line += len(lines)
        self._member_unit += units
        self._extent.lines += len(lines)
        self._extent.units += units
        if self._frame is not None:
            self._frame.write(b"\n".join([*lines, b""]))

    def add_empty(self) -> None:
        """Adds the current member without a line: where a member is a document, an empty one is counted."""
        self._begin_piece()

    def go_to(self, place: int) -> None:
        """Ends the splits before `place`."""
        while self.place < place:
            self._close()
            self.place += 1
            if self.place < len(self._task.splits):
                self._open()

    @property
    def _split(self) -> InputSplit:
        return self._task.splits[self.place]

    def _is_wanted(self) -> bool:
        return self._split.name in self._task.wanted and self._split.note is not None

    def _open(self) -> None:
        self._extent, self._pieces = Extent(self._line, 0, self._unit, 0), []
        self._file = None
        if self._is_wanted():
            assert self._split.note is not None
            self._file = self._stack.enter_context(atomic_file(self._split.note.with_suffix(".zst")))

    def _begin_piece(self) -> None:
        start = 0 if self._file is None else self._file.tell()
        place = {"name": self._name, "first_line": self._member_line, "first_unit": self._member_unit}
        self._pieces.append(place | {"start": start, "end": None, "repeated": []})
        if self._file is not None:
            compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
            self._frame = compressor.stream_writer(self._file, closefd=False)

    def _end_piece(self) -> None:
        if self._pieces and self._pieces[-1]["end"] is None:
            if self._frame is not None:
                self._frame.close()
                self._frame = None
            self._pieces[-1]["end"] = 0 if self._file is None else self._file.tell()

    def _close(self) -> None:
        self._end_piece()
        self._stack.close()
        self._line += self._extent.lines
        self._unit += self._extent.units
        left_out = dict(sorted(self._left_out.items()))
        self._left_out.clear()
        if self._is_wanted() and self._split.note is not None:
            text = self._split.note.with_suffix(".zst").name
            note = {"settings": self._settings(self._split), "text": text, "pieces": self._pieces, "left_out": left_out}
            # Last: the note says that the text is whole.
            write_json(self._split.note, asdict(self._extent) | note)


def member_names(path: Path) -> Iterator[str]:
    """Streams the names of the files in an archive, of which nothing is read.

    Raises:
        InputError: it cannot be read.
        DamagedFile: it is damaged.
    """
    with closing(_entries(path)) as entries:
        yield from (entry.name.removeprefix("./") for entry in entries if not entry.left_out)


def _entries(path: Path) -> Generator[Entry, None, None]:
    return zip_entries(path) if path.suffix.lower() == ".zip" else tar_entries(path)


def _members(
    path: Path, reading: Reading, dropped: Counter[str], count: Callable[..., None] | None = None
) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
    """Streams (name, content) of the members that are read; the others are counted.

    Raises:
        InputError: the archive is damaged, or none of its members is read.
    """
    names: set[str] = set()
    found: Counter[str] = Counter()
    reached = ""
    counted = 0

    def content_of(entry: Entry) -> Iterator[tuple[int, bytes]]:
        nonlocal counted
        for place, chunk in entry.content:
            if count is not None and place > counted:
                count(weight=place - counted)
                counted = place
            yield place, chunk

    try:
        with closing(_entries(path)) as entries:
            for entry in entries:
                name = entry.name.removeprefix("./")
                reason = entry.left_out or reason_against(name, reading.wanted)
                if not reason and name in names:
                    reason = "named twice"
                if reason:
                    if reason != "folder":
                        found[reason] += 1
                        dropped[f"{LEFT_OUT}{reason}"] += 1
                    continue
                names.add(name)
                reached = name
                yield name, decompressed(content_of(entry), compression(name))
    except DamagedFile as e:
        behind = f", after member {printable(reached)}" if reached else ""
        raise InputError(f"{path}: byte {e.byte}{behind}: {e}; {DOWNLOAD_AGAIN}.") from e
    said = ", ".join(f"{number:,} {reason}" for reason, number in sorted(found.items()))
    if not names:
        problem = f"no member that format {reading.format} reads" + (f" (left out: {said})" if said else "")
        raise InputError(f"{path}: byte 0: {problem}; correct the corpus's format or path.")
    if said:
        log.info("%s: members left out: %s", path, said)
