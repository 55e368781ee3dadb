"""Reads the records of a WARC file (WARC 1.0 and 1.1, ISO 28500), one after the other, wherever in the file records begin.

Promises that no record is passed over in silence: one whose length does not fit what follows is a record with a fault, reading goes on
at the next one, and a file that ends inside a record is refused. A record with a fault never takes others with it, as far as that can be
known: a stream of a compressed file (as a rule there is one for each record) holds whole records. FastWARC, three times as fast, ends in
silence where a file is cut; what the pages take is a hundred times either.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jadeberta.shards import InputError
from preprocess.compressed import DOWNLOAD_AGAIN, EXCLUDE, BadRecord, DamagedFile, compression, placed_chunks

MAX_CONTENT_BYTES = 2**26
"""Content of a record that is longer is passed over: it is no page to read."""
MAX_HEADER_BYTES = 2**16
_VERSION = re.compile(rb"WARC/\d")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_NEXT = re.compile(rb"\r?\n\r?\n(?=WARC/\d)")
_BLANKS = b"\r\n"


@dataclass(frozen=True)
class Record:
    """A record of a file."""

    number: int
    """Of the record in its file, from 1."""
    start: int | None
    """Byte of the file at which it can be read without what is before it; None: there is none."""
    headers: dict[str, str] = field(default_factory=dict)
    """By name in small letters."""
    content: bytes = b""
    """Empty where it is longer than `MAX_CONTENT_BYTES`."""
    length: int = 0
    """Bytes of the content as the record states them."""
    fault: BadRecord | None = None
    """Why it cannot be read."""


def records(path: Path, start: int = 0, end: int | None = None, number: int = 1) -> Iterator[Record]:
    """Streams the records in the bytes [start, end) of a file.

    Args:
        path: the file.
        start: first byte; a record, and in a compressed file a stream, begins there.
        end: byte behind the last.
        number: of the first record.

    Raises:
        InputError: the file is no WARC file, or damaged or cut short.
    """
    stream = _Stream(path, start, end)
    reached = number
    try:
        while stream.skip_blanks():
            yield (record := _record(path, stream, reached))
            reached = record.number + 1
    except DamagedFile as e:
        raise InputError(f"{path}: byte {e.byte}, record {reached}: {e}; {DOWNLOAD_AGAIN}.") from e


def _record(path: Path, stream: "_Stream", number: int) -> Record:
    start = stream.start()

    def faulty(kind: str, problem: str) -> Record:
        place = f"record {number}" + ("" if start is None else f", byte {start}")
        return Record(number, start, fault=BadRecord(path, place, kind, problem, f"{DOWNLOAD_AGAIN}, or {EXCLUDE}"))

    begin = stream.peek(8)
    if number > 1 and len(begin) < 7 and b"WARC/1.".startswith(begin):
        raise DamagedFile("the file is cut short in the header of a record", stream.place())
    if not _VERSION.match(begin):
        if number == 1 and not stream.passed:
            raise InputError(
                f"{path}: byte 0: not a WARC file, as it does not begin with WARC/; correct the corpus's format or path."
            )
        stream.skip_to_next()
        return faulty("not a record", "no record begins here")
    head = stream.header()
    if head is None:
        stream.skip_to_next()
        return faulty("not a record", f"the header has no end within {MAX_HEADER_BYTES:,} bytes")
    headers = _headers(head)
    stated = headers.get("content-length", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 15):
        stream.skip_to_next()
        return faulty("Content-Length", "no Content-Length" if not stated else f"Content-Length is {stated[:40]!r}")
    length = int(stated)
    content, is_whole = stream.content(length)
    if is_whole and stream.at_record_end():
        return Record(number, start, headers, content, length)
    # What was read may hold other records.
    stream.unread(content)
    if length <= MAX_CONTENT_BYTES:
        stream.skip_to_next()
    elif not stream.is_at_stream():
        raise DamagedFile(f"Content-Length is {length:,}, which does not fit what follows", start or stream.place())
    return faulty("Content-Length", f"Content-Length is {length:,}, which does not fit what follows")


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


class _Stream:
    """The content of a file, with the places where its streams begin."""

    def __init__(self, path: Path, start: int, end: int | None) -> None:
        self._chunks = placed_chunks(path, start, end, ends=True)
        self._is_packed = bool(compression(path.name))
        self._buffer = bytearray()
        self._first = start
        self.passed = 0
        """Bytes of content that are behind us."""
        # Places in the content where streams begin, and those in the file.
        self._starts: deque[tuple[int, int]] = deque([(0, start)])
        self._ended = False

    def start(self) -> int | None:
        """Returns the byte of the file that stands here, where reading can begin."""
        if not self._is_packed:
            return self._first + self.passed
        while self._starts and self._starts[0][0] < self.passed:
            self._starts.popleft()
        return self._starts[0][1] if self._starts and self._starts[0][0] == self.passed else None

    def is_at_stream(self) -> bool:
        """Returns whether a stream of a compressed file begins here."""
        return self._is_packed and self.start() is not None

    def _end_of_stream(self) -> int | None:
        """Returns where in the buffer the current stream ends; None: it is not known yet, or there is none."""
        return next((at - self.passed for at, _ in self._starts if at > self.passed), None)

    def _fill(self, size: int) -> bool:
        """Reads on until the buffer holds `size` bytes, or the stream or the file ends. Returns whether it does."""
        while len(self._buffer) < size and not self._ended:
            found = next(self._chunks, None)
            if found is None:
                self._ended = True
            elif found[1]:
                self._buffer += found[1]
            elif self._is_packed:
                begins = self.passed + len(self._buffer)
                # Of streams without content the last one: a file may hold millions.
                if self._starts and self._starts[-1][0] == begins:
                    self._starts.pop()
                self._starts.append((begins, found[0]))
        return len(self._buffer) >= size

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.passed += len(taken)
        return taken

    def skip_blanks(self) -> bool:
        """Passes over line ends; returns whether anything follows."""
        while self._fill(1):
            here = self._buffer[:4096]
            blanks = len(here) - len(here.lstrip(_BLANKS))
            # A stream that holds line ends alone is no record either.
            self._take(blanks)
            if blanks < len(here):
                return True
        return False

    def peek(self, size: int) -> bytes:
        self._fill(size)
        return bytes(self._buffer[:size])

    def header(self) -> bytes | None:
        """Passes over a header with the empty line behind it and returns it; None, and nothing is passed over, where it has no end."""
        size = 1024
        while True:
            whole = self._fill(size)
            end = self._end_of_stream()
            match = _HEADER_END.search(self._buffer, 0, MAX_HEADER_BYTES if end is None else min(end, MAX_HEADER_BYTES))
            if match is not None:
                return self._take(match.end())[: match.start()]
            if size >= MAX_HEADER_BYTES or (end is not None and end <= size):
                return None
            if not whole:
                raise DamagedFile("the file is cut short in the header of a record", self.place())
            size *= 4

    def content(self, length: int) -> tuple[bytes, bool]:
        """Passes over so many bytes and returns (them, whether the stream holds as many); no bytes where they are too many to keep."""
        kept = length <= MAX_CONTENT_BYTES
        left, parts = length, list[bytes]()
        while left:
            filled = self._fill(min(left, 2**16))
            if left < length and self.is_at_stream():
                return b"".join(parts), False
            end = self._end_of_stream()
            size = min(left, len(self._buffer) if end is None else min(end, len(self._buffer)))
            part = self._take(size)
            left -= size
            if kept:
                parts.append(part)
            if left and not filled and not self._buffer:
                raise DamagedFile("the file ends inside a record, or the record's Content-Length is wrong", self.place())
        return b"".join(parts), True

    def unread(self, content: bytes) -> None:
        """Goes back over content that was passed."""
        self.passed -= len(content)
        self._buffer[:0] = content

    def at_record_end(self) -> bool:
        """Returns whether a record may end here: with its stream or the file, or before line ends and the next record."""
        self._fill(16)
        if self.is_at_stream():
            return True
        end = self._end_of_stream()
        behind = bytes(self._buffer[: 16 if end is None else min(16, end)])
        if behind.startswith(b"\r\n\r\n"):
            return True
        rest = behind.lstrip(_BLANKS)
        return (rest != behind or not behind) and (not rest or _VERSION.match(rest) is not None or rest in b"WARC/")

    def skip_to_next(self) -> None:
        """Passes over what stands before the next record: at most up to the end of the stream."""
        self._take(1)
        while True:
            filled = self._fill(2**16)
            if self.is_at_stream():
                return
            end = self._end_of_stream()
            match = _NEXT.search(self._buffer, 0, len(self._buffer) if end is None else end)
            if match is not None:
                self._take(match.end())
                return
            if end is not None and end <= len(self._buffer):
                self._take(end)
                return
            if not filled:
                self._take(len(self._buffer))
                return
            self._take(max(1, len(self._buffer) - 16))

    def place(self) -> int:
        """Returns about which byte of the file stands here."""
        return self._first + self.passed if not self._is_packed else (self._starts[-1][1] if self._starts else self._first)
