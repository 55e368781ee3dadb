"""Facts about a rank's file systems: the shards, and the directories that checkpoints are written to."""

import hashlib
import os
import time
from pathlib import Path

from jadeberta.config import Recipe
from jadeberta.preflight.results import DiskSpace
from jadeberta.shards import ShardIndex, checksums_path, find_index
from jadeberta.shards.checksums import CHECKSUM_BYTES
from jadeberta.utils.files import make_directory

WRITE_BYTES = 256 << 20
"""Most bytes that the write benchmark writes."""
CHUNK = 4 << 20
ROOM = 4
"""The write benchmark writes at most the free space divided by this, so that it does not fill the disk."""


def index_hash(directory: str) -> str:
    """Returns the sha256 of the shards' index. Raises OSError."""
    return hashlib.sha256(find_index(directory).read_bytes()).hexdigest()


def missing_shards(directory: str) -> list[str]:
    """Returns a sentence for each shard or checksum file that is missing or has the wrong size; reads none of them.

    Training checks checksums and rows itself as it reads them. Raises ShardError for a damaged index, and OSError.
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
    """Returns the directories that checkpoints are written to, by recipe key."""
    staging = recipe.checkpoint.staging
    return {"run.dir": Path(recipe.run.dir)} | ({"checkpoint.staging": Path(staging)} if staging else {})


def disk_space(directory: Path) -> DiskSpace:
    """Returns free space and inodes; makes the directory if it is missing. Raises OSError if it cannot be written to."""
    make_directory(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(directory))
    disk = os.statvfs(directory)
    # File systems that make inodes as needed, such as btrfs, report none at all.
    return DiskSpace(str(directory), disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None)


def write_speed(directory: Path, name: str, seconds: float) -> float:
    """Measures the bytes/s that one process writes and flushes into a new file, which is removed. Raises OSError.

    Args:
        directory: exists.
        name: of the file.
        seconds: limit of the writing; the flush is added to it.
    """
    path = directory / name
    disk = os.statvfs(directory)
    most = max(1, min(WRITE_BYTES, disk.f_bavail * disk.f_frsize // ROOM))
    block = os.urandom(min(CHUNK, most))  # random, because the file system may compress
    written, began = 0, time.perf_counter()
    try:
        with open(path, "wb", buffering=0) as f:
            while written < most and time.perf_counter() - began < seconds:
                written += f.write(block)
            os.fsync(f.fileno())
        return written / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)
