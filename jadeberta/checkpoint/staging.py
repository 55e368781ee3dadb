"""The folder on a node's own disk that a rank's files of a checkpoint pass through.

Many runs and many users share such a disk, so each save gets a new folder that only its owner can enter, and files are opened relative to
the open folder: whatever lies under a name beside it is neither followed nor overwritten. Knows bytes and names, no tensors.
"""

import hashlib
import mmap
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, Self

from jadeberta.checkpoint.commit import write_file
from jadeberta.errors import CheckpointError


class StagingFolder:
    """A new folder for one save of one rank; a context manager that removes it."""

    def __init__(self, base: Path, root: Path, rank: int) -> None:
        """Makes the folder, and removes those that a killed writer of the same run and rank left.

        Args:
            base: directory on the node's disk, shared with other runs and users.
            root: the run's `checkpoints` directory.
            rank: of the process whose files are written.

        Raises:
            CheckpointError: the folder is not that of this user.
            OSError: it cannot be made.
        """
        base.mkdir(parents=True, exist_ok=True)
        run = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
        prefix = f"jadeberta-{os.geteuid()}-{run}-rank-{rank:05d}-"
        for left in base.glob(f"{prefix}*"):
            if _is_own(left.lstat()):
                shutil.rmtree(left, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))  # mode 0700, and a name that nobody can have made before
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        # Where others may rename entries of `base`, another folder can have taken its place in between.
        if not _is_own(os.fstat(self._descriptor)):
            os.close(self._descriptor)
            raise CheckpointError(f"{self.path}: was replaced by another user. Choose another checkpoint.staging.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, name: str, content: Any) -> tuple[int, str]:
        """Writes and flushes a new file; returns its size and the sha256 of the content in memory."""
        return write_file(self.path / name, content, opener=self._open)

    def copy(self, name: str, target: Path) -> str:
        """Writes and flushes a copy of a file; returns the sha256 of the bytes that were read from it."""
        with open(self.path / name, "rb", opener=self._open) as f:
            content = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) if os.fstat(f.fileno()).st_size else b""
            return write_file(target, content)[1]

    def sync(self) -> None:
        """Flushes the names of the files."""
        os.fsync(self._descriptor)

    def _open(self, path: str, flags: int) -> int:
        # O_EXCL: a file that is there already was written by somebody else.
        exclusive = os.O_EXCL if flags & os.O_CREAT else 0
        return os.open(os.path.basename(path), flags | exclusive | os.O_NOFOLLOW, 0o600, dir_fd=self._descriptor)  # noqa: PTH119


def _is_own(status: os.stat_result) -> bool:
    """Whether this is a folder, not a link to one, of this process's user."""
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
