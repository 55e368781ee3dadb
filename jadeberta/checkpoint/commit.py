"""The commit protocol: a checkpoint appears complete under its final name, or not at all.

Every rank writes its files into `step-N.tmp/` and flushes them; all ranks agree; rank 0 writes the manifest, renames the directory
and flushes its parent. A kill at any instant leaves the old checkpoints and at most a `.tmp` directory, which the next start removes.
Nothing here knows tensors, ranks or processes.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jadeberta.checkpoint.manifest import MANIFEST_NAME, STEP_NAME, directory_name, list_checkpoints, manifest_bytes, step_of
from jadeberta.errors import CheckpointError
from jadeberta.utils.files import make_directory, sync_directory, write_durably

TEMPORARY, DELETED = ".tmp", ".deleted"
CHUNK = 16 << 20
RESERVED_SPACE = 64 << 20
"""Bytes that a save leaves free for metrics and ledger."""

Files = dict[str, tuple[int, str]]
"""Size in bytes and sha256 of files of a checkpoint, by name."""


def temporary_of(root: Path, step: int) -> Path:
    """Returns the directory in which a checkpoint is written until it is committed."""
    return root / (directory_name(step) + TEMPORARY)


def prepare(root: Path, step: int, space_needed: int) -> Path:
    """Makes the temporary directory of a checkpoint; every rank calls it, in any order.

    Args:
        root: the run's `checkpoints` directory.
        step: step of the checkpoint.
        space_needed: bytes of the checkpoint, all ranks together.

    Raises:
        CheckpointError: the disk has less space than that.
        OSError: the directory cannot be made.
    """
    make_directory(root)
    require_space(root, space_needed)
    directory = temporary_of(root, step)
    directory.mkdir(exist_ok=True)
    return directory


def require_space(directory: Path, space_needed: int) -> None:
    """Raises CheckpointError where the disk of a directory has less than `space_needed` bytes, RESERVED_SPACE not counted."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize - RESERVED_SPACE
    if free < space_needed:
        raise CheckpointError(
            f"{directory}: {space_needed / 2**20:,.0f} MiB needed, {max(0, free) / 2**20:,.0f} MiB free. Make room."
        )


def write_file(path: Path, content: Any, opener: Callable[[str, int], int] | None = None) -> tuple[int, str]:
    """Writes and flushes one file; returns its size and the sha256 of the content in memory, not of what the disk gives back.

    Args:
        path: path of the file.
        content: bytes, or another object with the buffer protocol.
        opener: opens the file, see Python's `open`; None: by its path.
    """
    view = memoryview(content)
    with ThreadPoolExecutor(1) as thread:  # hashing and writing both release the interpreter lock
        digest = thread.submit(lambda: hashlib.sha256(view).hexdigest())
        try:
            with open(path, "wb", buffering=0, opener=opener) as f:
                start = 0
                while start < len(view):
                    start += f.write(view[start : start + CHUNK])
                os.fsync(f.fileno())
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(path)) from e  # neither write nor fsync names its file
        return len(view), digest.result()


def publish(root: Path, step: int, files: Files) -> Path:
    """Commits the temporary directory as the checkpoint of a step; rank 0 calls it once, when all ranks have written.

    Returns:
        The checkpoint under its final name.
    """
    temporary = temporary_of(root, step)
    final = root / directory_name(step)
    write_durably(temporary / MANIFEST_NAME, manifest_bytes(step, files))
    # Manifest and names are on the disk before the rename: a crash must not leave a final name with files missing.
    sync_directory(temporary)
    former = final.with_name(final.name + DELETED)
    if final.exists():
        # It cannot be trusted, or the run would have resumed from it. Renamed first: a directory cannot be renamed over a full one.
        shutil.rmtree(former, ignore_errors=True)
        final.rename(former)
    temporary.rename(final)
    sync_directory(root)
    shutil.rmtree(former, ignore_errors=True)
    return final


def discard(root: Path, step: int) -> None:
    """Removes the files of a failed save; raises OSError where the disk does not let them go."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(temporary_of(root, step))


def prunable(checkpoints: list[Path], keep_last: int, keep_every: int, trusted: Callable[[Path], bool]) -> list[Path]:
    """Returns the checkpoints that pruning removes, oldest first.

    Args:
        checkpoints: all checkpoints of a run, oldest first.
        keep_last: number of the newest trusted checkpoints that stay; 0: all stay.
        keep_every: checkpoints at multiples of this step stay for good; 0: none.
        trusted: whether a checkpoint can be trusted. One that cannot does not count, so that it never lets an older one go.
    """
    newer = 0
    doomed = []
    for directory in reversed(checkpoints):
        if keep_last > 0 and newer >= keep_last:
            if not (keep_every and step_of(directory) % keep_every == 0):
                doomed.append(directory)
        # Asked for the newest ones alone: to find out may mean to read every byte of a checkpoint.
        elif trusted(directory):
            newer += 1
    return doomed[::-1]


def prune(root: Path, keep_last: int, keep_every: int, trusted: Callable[[Path], bool]) -> list[Path]:
    """Removes the checkpoints that `prunable` names and returns them; also removes what an interrupted pruning left."""
    for half in root.glob(f"step-*{DELETED}"):
        shutil.rmtree(half, ignore_errors=True)
    return remove(prunable(list_checkpoints(root), keep_last, keep_every, trusted))


def remove(directories: Iterable[Path]) -> list[Path]:
    """Removes checkpoints and returns them; each is renamed first, so that a kill leaves no incomplete one under its name."""
    removed = list(directories)
    for directory in removed:
        doomed = directory.with_name(directory.name + DELETED)
        shutil.rmtree(doomed, ignore_errors=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)
    return removed


def remove_leftovers(root: Path) -> list[Path]:
    """Removes what killed saves and prunings left, and returns it; only the job that holds the run directory's lock may call it."""
    if not root.is_dir():
        return []
    left = [p for p in root.iterdir() if p.name.endswith((TEMPORARY, DELETED)) and STEP_NAME.fullmatch(p.name.rsplit(".", 1)[0])]
    for directory in left:
        shutil.rmtree(directory)
    return left
