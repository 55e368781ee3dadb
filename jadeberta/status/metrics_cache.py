"""Reads metrics.jsonl of a run fast: the rows read before lie beside it as columns, and only those that came since are parsed.

`metrics.columns` is made by whoever may write to the run directory, holds nothing of its own, and can be removed at any time. It counts
only where it fits: the line that it ends with must end at the same byte of metrics.jsonl and be the same.
"""

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from jadeberta.status.step_table import ROW, StepTable, encode_rows, to_table
from jadeberta.utils.json_lines import JsonRow

CACHE_NAME = "metrics.columns"
MAGIC = b"jadeberta-steps2"
_HEADER = struct.Struct("<16sQQQI")
"""Magic, which changes with the columns; number of rows; byte of metrics.jsonl behind the last of them; length of that line in bytes; its
CRC-32."""
CACHE_FROM_ROWS = 5000
"""Fewer new rows are parsed at each call: that takes less than the write is worth."""
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class _Cached:
    rows: npt.NDArray[np.void]
    end: int
    """Byte of metrics.jsonl behind the last row."""


NOTHING = _Cached(np.zeros(0, dtype=ROW), 0)


def read_steps(run: Path) -> tuple[StepTable, float | None]:
    """Returns the steps of a run directory's metrics.jsonl, and the unix time of its last row; a line truncated by a kill is skipped.

    Raises:
        OSError: the file is there and cannot be read.
    """
    path = run / "metrics.jsonl"
    if not path.exists():
        return to_table(NOTHING.rows), None
    with open(path, "rb") as file:
        cached = _read_cache(run / CACHE_NAME, file.fileno())
        parts, end, line = [cached.rows], cached.end, b""
        attempt = int(cached.rows["attempt"][-1]) if len(cached.rows) else 0
        for lines, complete in _chunks(file.fileno(), cached.end):
            new = encode_rows(_parsed(lines), attempt)
            attempt = int(new["attempt"][-1]) if len(new) else attempt
            parts.append(new)
            if complete:
                end, line = end + sum(len(one) + 1 for one in lines), lines[-1]
                whole = len(parts)
    if end > cached.end and sum(map(len, parts[1:whole])) >= CACHE_FROM_ROWS:
        # Whoever may only read the run directory reads without.
        with contextlib.suppress(OSError):
            _append(run / CACHE_NAME, cached, np.concatenate(parts[1:whole]), end, line)
    rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
    last = float(rows["time"][-1]) if len(rows) else np.nan
    return to_table(rows), None if np.isnan(last) else last


def _chunks(descriptor: int, start: int) -> Iterator[tuple[list[bytes], bool]]:
    """Yields whole lines in groups, then what is behind the last newline, which may be a line in the making."""
    rest = b""
    while block := os.pread(descriptor, CHUNK_BYTES, start):
        start += len(block)
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            yield lines, True
    if rest:
        yield [rest], False


def _parsed(lines: list[bytes]) -> Iterator[JsonRow]:
    for line in lines:
        with contextlib.suppress(orjson.JSONDecodeError):
            row = orjson.loads(line)
            if isinstance(row, dict):
                yield row


def _read_cache(path: Path, metrics: int) -> _Cached:
    """Returns the rows of the cache; none where it is not there or does not fit.

    Args:
        path: of the cache.
        metrics: descriptor of metrics.jsonl.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            magic, count, end, length, checksum = _HEADER.unpack(file.read(_HEADER.size))
            if magic != MAGIC or not 0 <= length < end or end > os.fstat(metrics).st_size:
                return NOTHING
            if count * ROW.itemsize > os.fstat(file.fileno()).st_size - _HEADER.size:
                return NOTHING
            last = os.pread(metrics, length + 1, end - length - 1)
            if zlib.crc32(last) != checksum or not last.endswith(b"\n"):
                return NOTHING
            return _Cached(np.fromfile(file, dtype=ROW, count=count), end)
    except (OSError, struct.error, ValueError):
        return NOTHING


def _append(path: Path, cached: _Cached, new: npt.NDArray[np.void], end: int, line: bytes) -> None:
    """Adds rows to the cache, first the rows and then the header that counts them: a kill in between leaves the old cache.

    Args:
        path: of the cache.
        cached: what it held, which may be nothing; then it is made again.
        new: rows behind those.
        end: byte of metrics.jsonl behind the last new row.
        line: the last line.
    """
    with open(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another reader that writes the same does it for both
        before = file.read(_HEADER.size)
        known = _HEADER.unpack(before)[1:3] if len(before) == _HEADER.size else (0, 0)
        if len(cached.rows) and known != (len(cached.rows), cached.end):
            return  # another reader was faster
        if not len(cached.rows):
            os.pwrite(file.fileno(), bytes(_HEADER.size), 0)
        place = _HEADER.size + len(cached.rows) * ROW.itemsize
        file.truncate(place)
        content = new.tobytes()
        if os.pwrite(file.fileno(), content, place) == len(content):
            os.pwrite(
                file.fileno(),
                _HEADER.pack(MAGIC, len(cached.rows) + len(new), end, len(line), zlib.crc32(line + b"\n")),
                0,
            )
