"""The commit protocol: a checkpoint appears complete under its final name, or not at all.

Every rank writes its files into `step-N.tmp/` and flushes them; all ranks agree; rank 0 writes the manifest, renames the directory
and flushes its parent. A kill at any instant leaves the old checkpoints and at most a `.tmp` directory, which the next start removes.
Nothing here knows tensors, ranks or processes.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jadeberta.checkpoint.manifest import MANIFEST_NAME, STEP_NAME, directory_name, list_checkpoints, manifest_bytes, step_of
from jadeberta.errors import CheckpointError
from jadeberta.utils.files import make_directory, sync_directory, write_durably

logger = logging.getLogger(__name__)

TEMPORARY, DELETED = ".tmp", ".deleted"
LEFTOVER = re.compile(rf"{STEP_NAME.pattern}(?:\.\d+)?(?:{re.escape(TEMPORARY)}|{re.escape(DELETED)})")
"""Names of what a save or a pruning that was killed leaves behind."""
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
    former = None
    if os.path.lexists(final):
        # It cannot be trusted, or the run would have resumed from it. Renamed first: a directory cannot be renamed over a full one.
        former = _set_aside(final)
    temporary.rename(final)
    sync_directory(root)
    if former is not None:
        _try_to_remove(former)
    return final


def _set_aside(path: Path) -> Path:
    """Renames what is to go, so that no kill leaves a part of it under its name; returns the new path."""
    for number in itertools.count():
        doomed = path.with_name(f"{path.name}{f'.{number}' * (number > 0)}{DELETED}")
        # A former one may not let go: a network file system keeps files that another host has open.
        if not os.path.lexists(doomed) or _try_to_remove(doomed):
            break
    return path.rename(doomed)


def _try_to_remove(path: Path) -> bool:
    """Removes a file, a directory with all that is in it, or a link but not what it leads to; False where it does not let go."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return not os.path.lexists(path)
    except OSError as e:
        logger.warning("%s: cannot be removed (%s); the next pruning or start tries again", path, e.strerror)
        return False
    return True


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
    for half in _leftovers(root):
        if half.name.endswith(DELETED):
            _try_to_remove(half)
    return remove(prunable(list_checkpoints(root), keep_last, keep_every, trusted))


def remove(directories: Iterable[Path]) -> list[Path]:
    """Removes checkpoints and returns them; each is renamed first, so that a kill leaves no incomplete one under its name.

    Raises:
        OSError: one cannot be renamed, and is still there. One that is renamed is gone, also where the disk keeps some of its files.
    """
    removed = list(directories)
    for directory in removed:
        _try_to_remove(_set_aside(directory))
    return removed


def remove_leftovers(root: Path) -> list[Path]:
    """Removes what killed saves and prunings left, and returns it; only the job that holds the run directory's lock may call it.

    What does not let go is reported and left: nobody needs it.
    """
    return [path for path in _leftovers(root) if _try_to_remove(path)]


def _leftovers(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if LEFTOVER.fullmatch(p.name)) if root.is_dir() else []
