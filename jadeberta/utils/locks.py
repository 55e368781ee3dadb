"""One job at a time in a directory: a lock that a dead process cannot keep."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import orjson

from jadeberta.errors import ConfigError
from jadeberta.utils.files import naming

LOCK_NAME = ".lock"
_FLOCK = "hhqqi4x"
"""Linux's struct flock: type, whence, start, length, process."""


class DirectoryLock:
    """Holds a directory for this process until `release` or the process's end, however it ends.

    A POSIX record lock: the kernel gives it back when the process dies, and children made by fork, which may outlive it, do not
    hold it.
    """

    def __init__(self, directory: Path, what: str, patience: float = 0.0) -> None:
        """Raises ConfigError naming host and process of the job that holds the directory.

        Args:
            directory: made where it is missing.
            what: the option that names it, for the message.
            patience: seconds to wait for a job that holds it.
        """
        self._directory = directory
        self._file = _open(directory, what)
        end = time.monotonic() + patience
        while not self._take() or not self._is_there():
            if time.monotonic() >= end and self._is_there():
                raise _refusal(self._file, directory, what)
            if not self._is_there():
                # Removed between opening and locking: another job may hold a new file of this name by now.
                self._file.close()
                self._file = _open(directory, what)
                continue
            # Waiting for a record lock has no time limit in POSIX, so it is tried again and again.
            time.sleep(0.2)
        with naming(directory / LOCK_NAME):
            self._file.truncate(0)
            self._file.write(orjson.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            self._file.flush()

    def require_held(self) -> None:
        """Raises ConfigError where the lock's file was removed or replaced since: another job may work in the directory by now."""
        if not self._is_there():
            raise ConfigError(
                f"{self._directory / LOCK_NAME}: was removed or replaced while process {os.getpid()} on {socket.gethostname()} held it, so "
                "another job may work there; this one ends at once. Leave the file alone: a dead job does not hold it."
            )

    def _is_there(self) -> bool:
        """Whether the locked file is the one that a new job would lock."""
        try:
            there = (self._directory / LOCK_NAME).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # a file system that does not answer tells nothing
        mine = os.fstat(self._file.fileno())
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _take(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Systems differ in the error for a lock that is held: fcntl(2) allows EAGAIN and EACCES.
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self) -> None:
        """Gives the directory back. The file stays, empty: to remove it would let two jobs lock two files of one name."""
        self._file.truncate(0)
        self._file.close()


class GroupLock:
    """Holds a directory for all processes that name the same group together, until `release` or the process's end.

    The same file and kind of lock as `DirectoryLock`: either waits for the other. `first` says that no other process of the group
    was there.
    """

    def __init__(
        self, directory: Path, what: str, group: str, patience: float = 3.0, prepare: Callable[[], None] | None = None
    ) -> None:
        """Raises ConfigError naming the group, or host and process, that holds the directory.

        Args:
            directory: made where it is missing.
            what: the option that names it, for the message.
            group: any name; processes of another are refused.
            patience: seconds to try; two processes that come at the same time see each other's lock for an instant.
            prepare: done by the first process of the group before others of it come in; they wait as long as that takes.
        """
        self._group, self._prepare = group, prepare
        self._file = _open(directory, what)
        end = time.monotonic() + patience
        try:
            while (found := self._take()) is None:
                if time.monotonic() >= end and not self._is_ours():
                    raise _refusal(self._file, directory, what)
                time.sleep(0.1)
        except BaseException:
            self._file.close()
            raise
        self.first = found

    def _take(self) -> bool | None:
        """Whether it is held and nobody else held it, or it is held beside others of the group; None where it is not held."""
        if self._try(fcntl.LOCK_EX):
            self._file.truncate(0)
            self._file.write(orjson.dumps({"host": socket.gethostname(), "pid": os.getpid(), "group": self._group}))
            self._file.flush()
            if self._prepare is not None:
                self._prepare()
            # A record lock is converted in one step, so no process of another group comes in between.
            fcntl.lockf(self._file, fcntl.LOCK_SH)
            return True
        if self._try(fcntl.LOCK_SH):
            if self._is_ours():
                return False
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return None

    def _is_ours(self) -> bool:
        """Whether a process of the group was the last to hold it alone."""
        self._file.seek(0)
        return _group(self._file.read()) == self._group

    def _try(self, kind: int) -> bool:
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self) -> None:
        """Gives this process's part of the lock back; the file and the group's name in it stay for the others."""
        self._file.close()


def holder_of(directory: Path) -> str | None:
    """Who holds a directory now, in words; None where nobody does. Not for a process that holds it: it would give its lock back."""
    path = directory / LOCK_NAME
    try:
        with open(path, "rb") as file:
            return _holder(file.read()) if is_held(file.fileno()) else None
    except PermissionError:
        try:
            return f"perhaps a process of user {path.stat().st_uid}, who alone can look,"
        except OSError:
            return f"perhaps a process, which user {os.geteuid()} may not look for,"
    except OSError:
        return None


def is_held(descriptor: int) -> bool:
    """Whether another process, on whichever machine, holds a record lock on an open file. The lock is not touched by asking."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    found = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return bool(found[0] != fcntl.F_UNLCK)


def _open(directory: Path, what: str) -> BinaryIO:
    path = directory / LOCK_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Opened for appending: the name of the holder must stay until the lock is taken. 0600: whoever can read the file can lock it.
        file = open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115 - the lock keeps it open
    except PermissionError as e:
        try:
            owner = f"it belongs to user {path.stat().st_uid}"
        except OSError:  # it is not there, or the directory cannot be searched
            owner = str(e.strerror)
        raise ConfigError(f"{path}: cannot be opened ({owner}). Choose another {what}.") from e
    except OSError as e:
        raise ConfigError(f"{directory}: cannot be written ({e.strerror}). Choose another {what}.") from e
    status = os.fstat(file.fileno())
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:  # of an older version
        os.fchmod(file.fileno(), 0o600)
    return file


def _refusal(file: BinaryIO, directory: Path, what: str) -> ConfigError:
    """Names who holds the directory; closes the file."""
    with file:
        file.seek(0)
        holder = _holder(file.read())
    return ConfigError(f"{directory}: {holder} works there already. Wait for it, or choose another {what}.")


def _group(content: bytes) -> str | None:
    try:
        return orjson.loads(content).get("group")
    except (orjson.JSONDecodeError, AttributeError):
        return None


def _holder(content: bytes) -> str:
    if group := _group(content):
        return f"the group of processes '{group}', begun by {_process(content)},"
    return _process(content)


def _process(content: bytes) -> str:
    try:
        holder = orjson.loads(content)
        return f"process {holder['pid']} on {holder['host']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "another process"
