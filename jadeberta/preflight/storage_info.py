"""What a rank sees of its file systems: the shards, and the directories that checkpoints are written to."""

import hashlib
import os
import time
from pathlib import Path

from jadeberta.config import Recipe
from jadeberta.preflight.results import Disk
from jadeberta.shards import ShardIndex, checksums_path, find_index
from jadeberta.shards.checksums import CHECKSUM_BYTES
from jadeberta.utils.files import make_directory

WRITE_BYTES = 256 << 20
"""At most so much is written to find out how fast that goes."""
CHUNK = 4 << 20
ROOM = 4
"""No more than this part of the free space is written, so that the question does not fill the disk."""


def index_hash(directory: str) -> str:
    """sha256 of the shards' index. Raises OSError."""
    return hashlib.sha256(find_index(directory).read_bytes()).hexdigest()


def missing_shards(directory: str) -> list[str]:
    """A sentence for each shard that is not there with its size, and its sums; reads none of them. Raises ShardError, OSError.

    Training looks at sums and rows itself, as it reads them.
    """
    path = find_index(directory)
    found = []
    for corpus in ShardIndex.load(path).corpora.values():
        for entry in [*corpus.train, *corpus.valid]:
            tar = path.parent / entry.file
            for file, size in (
                (tar, entry.bytes),
                *([(checksums_path(tar), entry.sequences * CHECKSUM_BYTES)] if entry.sums_sha256 else []),
            ):
                try:
                    if (has := file.stat().st_size) != size:
                        found.append(f"{file.name} has {has} bytes instead of {size}")
                except FileNotFoundError:
                    found.append(f"{file.name} is missing")
    return found


def checkpoint_directories(recipe: Recipe) -> dict[str, Path]:
    """Where checkpoints are written, by the recipe's key."""
    staging = recipe.checkpoint.staging
    return {"run.dir": Path(recipe.run.dir)} | ({"checkpoint.staging": Path(staging)} if staging else {})


def look_at_disk(directory: Path) -> Disk:
    """Free space and inodes; the directory is made where it is missing. Raises OSError where it cannot be written to."""
    make_directory(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(directory))
    disk = os.statvfs(directory)
    return Disk(str(directory), disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None)


def write_speed(directory: Path, name: str, seconds: float) -> float:
    """Bytes/s that one process writes and flushes into a new file, which is removed. Raises OSError.

    Args:
        directory: is there.
        name: of the file.
        seconds: after which nothing more is written; the flush comes on top.
    """
    path = directory / name
    disk = os.statvfs(directory)
    most = max(1, min(WRITE_BYTES, disk.f_bavail * disk.f_frsize // ROOM))
    block = os.urandom(min(CHUNK, most))  # a disk may compress
    written, began = 0, time.perf_counter()
    try:
        with open(path, "wb", buffering=0) as f:
            while written < most and time.perf_counter() - began < seconds:
                written += f.write(block)
            os.fsync(f.fileno())
        return written / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)
