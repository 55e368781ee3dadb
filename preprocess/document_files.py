"""Files that appear whole or not at all, and the JSON Lines in which the stages hand documents on.

Every output of a stage is written under a temporary name beside its final one, flushed to the disk and renamed.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import zstandard

from jadeberta.shards import InputError
from jadeberta.utils.files import atomic_file
from preprocess.compressed import lines


class Names:
    """The names in a folder, listed anew when the list is older than so many seconds.

    To ask for each of thousands of files takes as many system calls, and each lets go of Python's lock and waits for it, which the work
    of another thread holds for 5 ms at a time.
    """

    def __init__(self, folder: Path, seconds: float = 0.1) -> None:
        self._folder, self._seconds = folder, seconds
        self._names, self._listed = frozenset[str](), float("-inf")

    def __contains__(self, name: str) -> bool:
        if time.monotonic() - self._listed >= self._seconds:
            self._names = frozenset(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else frozenset()
            self._listed = time.monotonic()
        return name in self._names


def write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as f:
        f.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_json(path: Path) -> Any:
    """Raises InputError where the file is not JSON."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as e:
        raise InputError(f"{path}: not readable as JSON ({e}). Delete it and run the stage again.") from e


@contextmanager
def jsonl_zst_writer(path: Path, scratch: bool = False) -> Iterator[Callable[[Any], object]]:
    """A function that adds a JSON object as a line, zstd level 3 with a checksum; the same rows give the same bytes.

    `scratch` is for a file that this process alone reads: it is there at once, and not flushed to the disk.
    """
    with (
        open(path, "wb") if scratch else atomic_file(path) as f,
        zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(f, closefd=False) as stream,
    ):
        yield lambda row: stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def write_jsonl_zst(path: Path, rows: Iterable[Any], scratch: bool = False) -> None:
    """One JSON object a line, as `jsonl_zst_writer` does."""
    with jsonl_zst_writer(path, scratch) as write:
        for row in rows:
            write(row)


def read_jsonl_zst(path: Path) -> Iterator[dict[str, Any]]:
    """Raises InputError with the line's number where the file is cut short or a line is not JSON."""
    remedy = "delete the file with the marker (.json) beside it that names it, and run the stage that wrote it again"
    # Not zstandard's stream_reader: it ends without an error where the file is cut short.
    for number, line in lines(path, remedy):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            raise InputError(f"{path}: line {number}: {e}; {remedy}.") from e
        yield row
