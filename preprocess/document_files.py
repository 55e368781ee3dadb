"""JSON files, and the compressed JSON Lines that carry documents from stage to stage. Every file appears whole or not at all."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import orjson
import zstandard

from jadeberta.shards import InputError
from jadeberta.utils.files import atomic_file, naming
from preprocess.compressed import lines


class FolderListing:
    """The names in a folder, listed again when the list is older than `seconds`.

    A check of each of thousands of files takes as many system calls; each releases Python's lock and waits to get it back from a working
    thread, which holds it for 5 ms at a time.
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
    """Writes a value as indented JSON, atomically."""
    with atomic_file(path) as f:
        f.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
        OSError: it cannot be read.
    """
    try:
        return orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError) as e:
        raise InputError(f"{path}: not readable as JSON ({e}). Delete it and run the stage again.") from e


class _Hashed:
    """A binary file whose bytes are hashed as they are written."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file, self._digest = file, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def jsonl_zst_writer(path: Path, scratch: bool = False, digest: Any = None) -> Iterator[Callable[[Any], object]]:
    """Gives a function that writes a JSON object as a line, compressed with zstd level 3 and a checksum; the same rows give the same bytes.

    With `scratch` the file exists at once and is not flushed to the disk; it is for a file that only this process reads. A `digest` of
    hashlib gets the bytes of the file.
    """
    with (
        naming(path),
        open(path, "wb") if scratch else atomic_file(path) as f,
        zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(
            f if digest is None else cast(IO[bytes], _Hashed(f, digest)), closefd=False
        ) as stream,
    ):
        yield lambda row: stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def write_jsonl_zst(path: Path, rows: Iterable[Any], scratch: bool = False) -> str:
    """Writes rows as JSON Lines, see `jsonl_zst_writer`; returns the sha256 of the file."""
    digest = hashlib.sha256()
    with jsonl_zst_writer(path, scratch, digest) as write:
        for row in rows:
            write(row)
    return digest.hexdigest()


def read_jsonl_zst(path: Path) -> Iterator[dict[str, Any]]:
    """Streams the rows of a file of JSON Lines.

    Raises:
        InputError: the file is cut short or a line is not JSON; names the line.
    """
    remedy = "delete the file with the marker (.json) beside it that names it, and run the stage that wrote it again"
    # Not zstandard's stream_reader: it ends without an error where the file is cut short.
    for number, line in lines(path, remedy):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            raise InputError(f"{path}: line {number}: {e}; {remedy}.") from e
        yield row
