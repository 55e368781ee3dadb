"""A file that records are appended to for hours, on a disk that may be full for a while or lose the file."""

import contextlib
import errno
import os
from collections import deque
from pathlib import Path

LIMIT_BYTES = 64 << 20
"""Most that waits in memory, by default."""


class PatientFile:
    """Appends records, whole and in their order; those that the disk does not take wait in memory and are written later.

    A file that is moved away or removed meanwhile is made again.
    """

    def __init__(self, path: Path, limit: int = LIMIT_BYTES) -> None:
        """Opens nothing yet.

        Args:
            path: of the file; its directory is made where it is missing.
            limit: bytes that wait at most; records beyond them are dropped and counted.
        """
        self.path, self.limit = path, limit
        self.dropped = 0
        """Records that found no place in memory."""
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes in `_waiting`
        self._done = 0  # bytes of the oldest record that are in the file
        self._descriptor: int | None = None

    @property
    def waiting(self) -> int:
        """Number of records that are not in the file yet."""
        return len(self._waiting)

    def write(self, record: bytes) -> None:
        """Appends a record, after those that wait.

        Raises:
            OSError: the disk does not take it; it waits.
        """
        if self._size + len(record) > self.limit:
            with contextlib.suppress(OSError):
                self.flush()  # the disk may have room again
        if self._size + len(record) > self.limit:
            self.dropped += 1
        else:
            self._waiting.append(record)
            self._size += len(record)
        self.flush()

    def flush(self) -> None:
        """Writes the records that wait.

        Raises:
            OSError: the disk does not take them all.
        """
        while self._waiting:
            descriptor = self._open()
            rest = self._waiting[0][self._done :]
            written = os.write(descriptor, rest)
            if written < len(rest):
                # The next try goes on behind what is there: no record is cut.
                self._done += written
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._size -= len(self._waiting.popleft())
            self._done = 0

    def close(self) -> None:
        """Closes the file; records that still wait are kept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        """The descriptor of the file that has the name now."""
        if self._descriptor is not None:
            try:
                here, there = os.fstat(self._descriptor), self.path.stat()
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return self._descriptor
            except FileNotFoundError:
                pass
            self.close()
            self._done = 0  # the begun record went with the old file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._descriptor
