"""Streams .bz2, .gz, .xz, .zst and plain files as chunks or lines.

Promises that a truncated or damaged file is found, also where Python's own readers end silently (a zstd frame without its end).
"""

import bz2
import errno
import hashlib
import lzma
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import zstandard

from jadeberta.shards import InputError

CHUNK_BYTES = 256 * 1024
"""Bytes of the file read at once."""
MOST_BYTES = 2**20
"""Bytes of content that are decompressed at once: a few kilobytes of a file can hold gigabytes."""
CHUNKS_AHEAD = 4
"""Number of chunks that `chunks_ahead` decompresses in advance."""
MAX_LINE_BYTES = 2**30
DOWNLOAD_AGAIN = "copy or download it again"
EXCLUDE = "set preprocess.bad_input: exclude"
# zstd --long=31 is what archives of web text use; the library refuses such a window unless it is allowed by name.
_ZSTD_WINDOW = 2**31
# zstandard has no limit on what it returns. A block of 4 bytes can hold 128 KiB, so this many bytes hold at most 32 MiB; measured, such
# slices are as fast as whole chunks.
_ZSTD_SLICE = 1024
_FED_BYTES = 16 * 1024
DECOMPRESSORS: dict[str, Callable[[], Callable[[], Any]]] = {
    ".bz2": lambda: bz2.BZ2Decompressor,
    ".gz": lambda: partial(zlib.decompressobj, wbits=31),
    ".xz": lambda: lzma.LZMADecompressor,
    ".zst": lambda: partial(_Zstd, zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)),
}
"""For each suffix a function that is called for a file; it returns one that is called for each stream of the file, one after the other."""
_SHORT = {".tgz": ".gz", ".tbz": ".bz2", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}
""".tar.gz and the like in one suffix."""


def compression(name: str) -> str:
    """Returns the suffix in `DECOMPRESSORS` that a file's name says, in letters of either case; empty: it says no compression."""
    suffix = PurePath(name).suffix.lower()
    suffix = _SHORT.get(suffix, suffix)
    return suffix if suffix in DECOMPRESSORS else ""


class DamagedFile(Exception):
    """A file is damaged at byte `byte`. Callers know the line or page and turn it into an InputError."""

    def __init__(self, problem: str, byte: int) -> None:
        super().__init__(problem)
        self.byte = byte


class BadRecord(InputError):
    """One line or page of a file cannot be read; the rest of the file can."""

    def __init__(self, path: Path, place: str, kind: str, reason: str, remedy: str) -> None:
        """Args:
        path: the file.
        place: where in it, e.g. "line 3".
        kind: one of a few short names for what is wrong, for counts.
        reason: what is wrong.
        remedy: what the user can do.
        """
        super().__init__(f"{path}: {place}: {reason}; {remedy}.")
        self.path, self.place, self.kind, self.reason = path, place, kind, reason


def chunks(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Streams the decompressed content of the bytes [start, end) of `path`, which must hold whole streams; the suffix names the format.

    Raises:
        DamagedFile: with the compressed byte near which reading stopped.
    """
    return (content for _, content in placed_chunks(path, start, end))


def placed_chunks(path: Path, start: int = 0, end: int | None = None, ends: bool = False) -> Iterator[tuple[int, bytes]]:
    """Streams the chunks that `chunks` gives, as (bytes of the file read so far, content); raises DamagedFile as it does.

    With `ends` (place of its end in the file, no bytes) follows each stream of a compressed file.
    """
    return decompressed(_blocks(path, start, end), compression(path.name), start, ends)


def decompressed(
    blocks: Iterator[tuple[int, bytes]], suffix: str, start: int = 0, ends: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Streams the content of blocks of whole streams, as (place, content).

    Args:
        blocks: (place behind the block, block); the places come back with the content and stand in errors.
        suffix: names the format; one that is no compression gives the blocks as they are.
        start: place of the first block's first byte.
        ends: say where streams end: (place behind the stream, no bytes) follows the content of each.

    Raises:
        DamagedFile: the streams are damaged or cut short, or `blocks` raises it.
    """
    if suffix not in DECOMPRESSORS:
        yield from blocks
        return
    new = DECOMPRESSORS[suffix]()
    decompressor = None
    position = before = start
    try:
        for position, block in blocks:
            place, before = position - len(block), max(start, position - CHUNK_BYTES)
            # In pieces: what is left behind the end of a stream is copied, and a block may hold thousands of streams.
            for data in (block[at : at + _FED_BYTES] for at in range(0, len(block), _FED_BYTES)):
                place += len(data)
                while data:
                    if decompressor is None:
                        # Zero bytes between streams are padding that gzip and xz allow.
                        data = data.lstrip(b"\0") if place - len(data) > start else data
                        if not data:
                            break
                        decompressor = new()
                    for content in _contents(decompressor, data):
                        yield position, content
                    data = decompressor.unused_data if decompressor.eof else b""
                    if ends and decompressor.eof:
                        yield place - len(data), b""
                    decompressor = None if decompressor.eof else decompressor
    except OSError as e:
        # bz2 gives its errors without a number; others are trouble of this process or of the system, such as no descriptor left.
        if e.errno is not None:
            raise
        raise DamagedFile(f"not {suffix[1:]} data ({e})", before) from e
    except (EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as e:
        raise DamagedFile(f"not {suffix[1:]} data ({e})", before) from e
    if position == start:
        raise DamagedFile("the file is empty", position)
    # The file ends inside a stream.
    if decompressor is not None:
        raise DamagedFile(f"the file is cut short: its {suffix[1:]} stream has no end", position)


_whole_files: dict[Path, tuple[int, str]] | None = None


@contextmanager
def hashing_whole_files() -> Iterator[dict[Path, tuple[int, str]]]:
    """Gives a dictionary that gets size and sha256 of every file that this process reads from its first byte to its last meanwhile.

    The bytes are hashed as they are read, so that no file is read for its hash alone.
    """
    global _whole_files
    found: dict[Path, tuple[int, str]] = {}
    _whole_files = found
    try:
        yield found
    finally:
        _whole_files = None


def _blocks(path: Path, start: int, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Streams the bytes [start, end) of a file, as (bytes of the file read so far, block)."""
    position, whole = start, _whole_files
    try:
        with open(path, "rb") as f:
            is_whole = whole is not None and start == 0 and (end is None or end == os.fstat(f.fileno()).st_size)
            digest = hashlib.sha256() if is_whole else None
            f.seek(start)
            while block := f.read(CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - position)):
                position += len(block)
                if digest is not None:
                    digest.update(block)
                yield position, block
        if digest is not None and whole is not None:
            whole[path] = position, digest.hexdigest()
    # Not a damaged file: a download would not help.
    except PermissionError as e:
        raise InputError(f"{path}: {e.strerror}; give this user the right to read it.") from e
    except OSError as e:
        if e.errno != errno.EIO:
            raise
        raise DamagedFile(f"not readable ({e})", max(start, position - CHUNK_BYTES)) from e


class _Zstd:
    """A stream of zstd with the interface of `bz2.BZ2Decompressor`, except that `decompress` takes no limit: see `_ZSTD_SLICE`."""

    def __init__(self, context: zstandard.ZstdDecompressor) -> None:
        self._stream = context.decompressobj()
        self.unused_data, self.eof = b"", False

    def slices(self, data: bytes) -> Iterator[bytes]:
        """Streams the content of more data."""
        for start in range(0, len(data), _ZSTD_SLICE):
            content = self._stream.decompress(data[start : start + _ZSTD_SLICE])
            # Before the content is yielded: whoever takes it may look whether the stream has ended.
            if self._stream.eof:
                self.unused_data, self.eof = self._stream.unused_data + data[start + _ZSTD_SLICE :], True
            if content:
                yield content
            if self.eof:
                return


def _contents(decompressor: Any, data: bytes) -> Iterator[bytes]:
    """Streams the content of more data of a stream, not empty and about MOST_BYTES at most at once, up to the data's or stream's end."""
    if isinstance(decompressor, _Zstd):
        yield from decompressor.slices(data)
        return
    while True:
        content = decompressor.decompress(data, MOST_BYTES)
        if content:
            yield content
        # zlib hands back what it has not read; bz2 and lzma keep it.
        data = getattr(decompressor, "unconsumed_tail", b"")
        if decompressor.eof or (len(content) < MOST_BYTES and not data):
            return


def chunks_ahead(path: Path) -> Iterator[tuple[int, bytes]]:
    """Streams what `placed_chunks` gives, decompressed in another thread: decompressors release Python's lock."""
    chunks = placed_chunks(path)
    with ThreadPoolExecutor(1) as thread:
        begun = deque(thread.submit(next, chunks, None) for _ in range(CHUNKS_AHEAD))
        while (chunk := begun.popleft().result()) is not None:
            begun.append(thread.submit(next, chunks, None))
            yield chunk


def lines(
    path: Path, remedy: str = DOWNLOAD_AGAIN, start: int = 0, end: int | None = None, first_line: int = 1
) -> Iterator[tuple[int, bytes]]:
    """Streams the lines in the bytes [start, end) of a plain or compressed file, as (number, line without its end).

    Args:
        path: the file.
        remedy: what the user can do if it is damaged; ends the error's sentence.
        start: first byte; a line begins there.
        end: byte behind the last; None: the file's end.
        first_line: number of the first line.

    Raises:
        InputError: the file is truncated or damaged, or has a line of more than 1 GiB; names line and byte.
    """
    return lines_of(path, chunks(path, start, end), remedy, first_line)


def lines_of(path: Path, content: Iterator[bytes], remedy: str, first_line: int = 1) -> Iterator[tuple[int, bytes]]:
    """Streams the lines of `content` as `lines` does; `path` names it in errors."""
    number, pending, pending_bytes = first_line - 1, [b""], 0
    try:
        for chunk in content:
            first, *rest = chunk.split(b"\n")
            pending.append(first)
            pending_bytes += len(first)
            if pending_bytes > MAX_LINE_BYTES:
                raise InputError(f"{path}: line {number + 1}: longer than 1 GiB, so this is not a text file; {remedy}.")
            for part in rest:
                number += 1
                yield number, b"".join(pending).removesuffix(b"\r")
                pending, pending_bytes = [part], len(part)
    except DamagedFile as e:
        raise InputError(f"{path}: line {number + 1}, byte {e.byte}: {e}; {remedy}.") from e
    last = b"".join(pending)
    if last:
        yield number + 1, last


def decode(path: Path, number: int, line: bytes) -> str:
    """Decodes line `number` of `path`; drops a byte order mark at the start of the file.

    Raises:
        BadRecord: the line is not UTF-8.
    """
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        problem = f"byte {e.start + 1} of the line is not valid UTF-8"
        remedy = f"convert the file to UTF-8, download it again, or {EXCLUDE}"
        raise BadRecord(path, f"line {number}", "not UTF-8", problem, remedy) from e
