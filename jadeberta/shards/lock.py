"""One job at a time in a directory: a lock that a dead process cannot keep."""

import fcntl
import os
import socket
from pathlib import Path

import orjson

from jadeberta.errors import ConfigError

LOCK_NAME = ".lock"


class DirectoryLock:
    """Holds a directory for this process until `release` or the process's end, however it ends.

    A POSIX record lock: the kernel gives it back when the process dies, and children made by fork, which may outlive it, do not
    hold it.
    """

    def __init__(self, directory: Path, what: str) -> None:
        """Raises ConfigError naming host and process of the job that holds the directory.

        Args:
            directory: made where it is missing.
            what: the option that names it, for the message.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = open(directory / LOCK_NAME, "a+b")  # noqa: SIM115 - held, not closed
        except OSError as e:
            raise ConfigError(f"{directory}: cannot be written ({e.strerror}). Choose another {what}.") from e
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._file.seek(0)
            holder = _holder(self._file.read())
            self._file.close()
            raise ConfigError(f"{directory}: {holder} works there already. Wait for it, or choose another {what}.") from None
        self._file.truncate(0)
        self._file.write(orjson.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        self._file.flush()

    def release(self) -> None:
        """Gives the directory back. The file stays, empty: to remove it would let two jobs lock two files of one name."""
        self._file.truncate(0)
        self._file.close()


def _holder(content: bytes) -> str:
    try:
        holder = orjson.loads(content)
        return f"process {holder['pid']} on {holder['host']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "another process"
