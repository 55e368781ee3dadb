"""The commit protocol: a checkpoint appears whole, under its final name, or not at all.

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
SPACE_LEFT = 64 << 20
"""Bytes that a save leaves free for metrics and ledger."""

Files = dict[str, tuple[int, str]]
"""Size in bytes and sha256 of each file of a checkpoint, by its name."""


def temporary_of(root: Path, step: int) -> Path:
    """Where a checkpoint grows until it is whole."""
    return root / (directory_name(step) + TEMPORARY)


def prepare(root: Path, step: int, need: int) -> Path:
    """Makes the directory in which a checkpoint grows; every rank calls it, in any order.

    Args:
        root: the run's `checkpoints` directory.
        step: the checkpoint's.
        need: bytes of the whole checkpoint, all ranks together.

    Raises:
        CheckpointError: the disk has not that much space left.
        OSError: the directory cannot be made.
    """
    make_directory(root)
    require_space(root, need)
    directory = temporary_of(root, step)
    directory.mkdir(exist_ok=True)
    return directory


def require_space(directory: Path, need: int) -> None:
    """Raises CheckpointError where the disk under a directory has fewer than `need` bytes for us."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize - SPACE_LEFT
    if free < need:
        raise CheckpointError(f"{directory}: {need / 2**20:,.0f} MiB needed, {max(0, free) / 2**20:,.0f} MiB free. Make room.")


def write_file(path: Path, content: Any) -> tuple[int, str]:
    """Writes and flushes one file; returns its size and sha256, of the memory and not of what came back from the disk.

    Args:
        path: of the file.
        content: bytes or anything else with the buffer protocol.
    """
    view = memoryview(content)
    with ThreadPoolExecutor(1) as beside:  # hashing and writing both leave the interpreter to the other
        digest = beside.submit(lambda: hashlib.sha256(view).hexdigest())
        try:
            with open(path, "wb", buffering=0) as f:
                start = 0
                while start < len(view):
                    start += f.write(view[start : start + CHUNK])
                os.fsync(f.fileno())
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(path)) from e  # neither write nor fsync names its file
        return len(view), digest.result()


def publish(root: Path, step: int, files: Files) -> Path:
    """Makes what lies in the temporary directory the checkpoint of a step; rank 0 calls it, once all have written.

    Returns:
        The checkpoint under its final name.
    """
    temporary = temporary_of(root, step)
    final = root / directory_name(step)
    write_durably(temporary / MANIFEST_NAME, manifest_bytes(step, files))
    sync_directory(temporary)
    former = final.with_name(final.name + DELETED)
    replaced = final.exists()  # by one that could not be trusted, or the run would have resumed behind it
    if replaced:
        shutil.rmtree(former, ignore_errors=True)
        final.rename(former)
    temporary.rename(final)
    sync_directory(root)
    shutil.rmtree(former, ignore_errors=True)
    return final


def discard(root: Path, step: int) -> None:
    """Removes what a failed save has written. Raises OSError where the disk does not let it go."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(temporary_of(root, step))


def prunable(checkpoints: list[Path], keep_last: int, keep_every: int, trusted: Callable[[Path], bool]) -> list[Path]:
    """Which of some checkpoints, oldest first, are older than the newest `keep_last` trusted ones and not kept for good.

    One that cannot be trusted covers nothing: it never lets an older one go. `keep_last` 0 keeps all.
    """
    newer = 0
    doomed = []
    for directory in reversed(checkpoints):
        if keep_last > 0 and newer >= keep_last:
            if not (keep_every and step_of(directory) % keep_every == 0):
                doomed.append(directory)
        elif trusted(directory):
            newer += 1
    return doomed[::-1]


def prune(root: Path, keep_last: int, keep_every: int, trusted: Callable[[Path], bool]) -> list[Path]:
    """Removes what `prunable` names and returns it, and what an earlier pruning did not get done."""
    for half in root.glob(f"step-*{DELETED}"):
        shutil.rmtree(half, ignore_errors=True)
    return remove(prunable(list_checkpoints(root), keep_last, keep_every, trusted))


def remove(directories: Iterable[Path]) -> list[Path]:
    """Removes checkpoints and returns them; each is renamed before it is emptied, so that a kill leaves no half under its name."""
    removed = list(directories)
    for directory in removed:
        doomed = directory.with_name(directory.name + DELETED)
        shutil.rmtree(doomed, ignore_errors=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)
    return removed


def remove_leftovers(root: Path) -> list[Path]:
    """Removes what killed saves and prunings left, and returns it; only the one job that holds the run may call it."""
    if not root.is_dir():
        return []
    left = [p for p in root.iterdir() if p.name.endswith((TEMPORARY, DELETED)) and STEP_NAME.fullmatch(p.name.rsplit(".", 1)[0])]
    for directory in left:
        shutil.rmtree(directory)
    return left
