"""Files that appear whole or not at all, and names that survive a loss of power.

The one place of the project for "write beside, flush, rename". Imports nothing heavy, so that helper processes start at once. A checkpoint
is a whole directory and has a protocol of its own: `jadeberta/checkpoint/commit.py`.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and flushes it to the disk; its name is durable only after `sync_directory` of its parent."""
    with open(path, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Makes a directory and its missing parents, and makes their names durable."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names a file in an error of a full disk that a write to it raises: the system names none there."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and e.filename is None:
            e.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path`; it becomes `path` when the block ends, and is removed when the block raises.

    Readers see the old file or the new one, never a part. The temporary name is `.NAME.tmp-PID`: two processes that write the same file
    do not write into each other.

    Args:
        path: final name; its directory is made where it is missing.
        durable: flush file and directory, so that the new file also survives a loss of power. False for files that are written often
            and are worth nothing after a crash, such as heartbeats.

    Raises:
        OSError: under the name is a directory, a device or a pipe, or what the system refuses.
    """
    if path.exists() and not path.is_file():
        # Of a device or a pipe a rename would make a file, for every program of the host.
        raise OSError(errno.EISDIR if path.is_dir() else errno.EPERM, "there is something else than a file", str(path))
    if durable:
        make_directory(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            if durable:
                # Before the rename: a file system may otherwise keep the new name and lose the content.
                with open(temporary, "rb") as f:
                    os.fsync(f.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_directory(path.parent)


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Replaces a file by new content, whole or not at all; see `atomic_path`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Gives a binary file that appears under `path` when the block ends; durable, see `atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        yield f
