"""The commit protocol: a checkpoint appears whole, under its final name, or not at all.

Every rank writes its files into `step-N.tmp/` and flushes them; all ranks agree; rank 0 writes the manifest, renames the directory
and flushes its parent. A kill at any instant leaves the old checkpoints and at most a `.tmp` directory, which the next save removes.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from jadeberta.checkpoint.manifest import MANIFEST_NAME, STEP_NAME, directory_name, list_checkpoints, manifest_bytes, step_of
from jadeberta.errors import CheckpointError
from jadeberta.shards import file_sha256

TEMPORARY, DELETED = ".tmp", ".deleted"


def commit(root: Path, step: int, write: Callable[[Path], list[str]], group: "dist.ProcessGroup | None" = None) -> Path:
    """Writes one checkpoint; every rank calls it.

    Args:
        root: the run's `checkpoints` directory, the same on all ranks.
        step: its number.
        write: writes this rank's files into the directory it is given and returns their names, which no other rank uses.
        group: a group of all ranks that takes Python objects (gloo).

    Returns:
        The directory under its final name.

    Raises:
        CheckpointError: on every rank, where any rank failed to write; nothing of the attempt is left.
    """
    rank = dist.get_rank(group)
    final = root / directory_name(step)
    temporary = final.with_name(final.name + TEMPORARY)

    def prepare() -> dict[str, tuple[int, str]]:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        return {}

    def publish() -> dict[str, tuple[int, str]]:
        _write_durably(temporary / MANIFEST_NAME, manifest_bytes(step, files))
        sync_directory(temporary)
        if final.exists():  # one that could not be trusted, or the run would have resumed behind it
            shutil.rmtree(final)
        temporary.rename(final)
        sync_directory(root)
        return {}

    try:
        _together(prepare if rank == 0 else dict, group)
        files = _together(lambda: _write_and_hash(temporary, write), group)
        _together(publish if rank == 0 else dict, group)
    except CheckpointError:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _together(work: Callable[[], dict], group: "dist.ProcessGroup | None") -> dict:
    """Does `work` on every rank and returns all results merged; raises CheckpointError on every rank where one failed."""
    try:
        outcome: tuple[dict, str | None] = (work(), None)
    except OSError as e:
        outcome = ({}, f"{e.filename or ''}: {e.strerror or e}".lstrip(": "))
    except Exception as e:
        outcome = ({}, f"{type(e).__name__}: {e}")
    gathered: list[tuple[dict, str | None]] = [({}, None)] * dist.get_world_size(group)
    dist.all_gather_object(gathered, outcome, group=group)
    failed = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(gathered) if error]
    if failed:
        raise CheckpointError(f"the checkpoint was not written ({'; '.join(failed)}).")
    return {name: entry for results, _ in gathered for name, entry in results.items()}


def _write_and_hash(directory: Path, write: Callable[[Path], list[str]]) -> dict[str, tuple[int, str]]:
    """Lets `write` make files, flushes them to the disk, and returns their sizes and hashes."""
    entries = {}
    for name in write(directory):
        path = directory / name
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        entries[name] = (path.stat().st_size, file_sha256(path))
    return entries


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """Removes what `prunable` names and returns it.

    A directory is renamed before it is emptied, so that a kill leaves no half of a checkpoint under its name.
    """
    removed = prunable(list_checkpoints(root), keep_last, keep_every, trusted)
    for directory in removed:
        doomed = directory.with_name(directory.name + DELETED)
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
