"""Reads from many files with a bounded number of them open, and tells trouble of the process from trouble of a file.

Promises that a read gives the bytes of the file up to its end, an OSError that is about this one file, or a ResourceError. Trouble that may
pass is waited for: descriptors and memory that are lacking, a file system that answers with an error once.
"""

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jadeberta.errors import ResourceError
from jadeberta.utils.resources import UNREACHABLE, describe_shortage, is_shortage, open_files_limit

OPEN_FILES = 1024
"""Files that one reader keeps open at most."""
SHARE = 4
"""A reader keeps at most the process's limit divided by this: a process has two readers, and needs descriptors for other things."""
RETRY_PAUSES_S = (0.05, 0.5, 2.0)
"""Pauses before an operation is tried again, seconds."""

T = TypeVar("T")


def retry_io(operation: Callable[[], T], what: str, make_room: Callable[[], None] = lambda: None, pauses: int | None = None) -> T:
    """Runs an operation on files and tries it again where its error may pass.

    Args:
        operation: may be run several times.
        what: what it does, for the error: "reading PATH".
        make_room: closes files that are not needed just now; called where the process has no descriptor left.
        pauses: tries after the first; all of RETRY_PAUSES_S where None.

    Raises:
        ResourceError: the process lacks something, or the file system does not answer; this says nothing about the file.
        OSError: the file cannot be used.
    """
    for pause in (*RETRY_PAUSES_S[:pauses], None):
        try:
            return operation()
        except (OSError, MemoryError) as e:
            number = e.errno if isinstance(e, OSError) else None
            if number == errno.EMFILE:
                make_room()
            is_passing = is_shortage(e) or number in UNREACHABLE
            if not is_passing and number != errno.EIO:
                raise
            if pause is None:
                # EIO that stays is what a disk says of a bad sector, and so about the file.
                if not is_passing:
                    raise
                raise ResourceError(f"{what}: {describe_shortage(e)}. No file is taken for damaged because of it.") from e
            time.sleep(pause)
    raise AssertionError("unreachable")


class OpenFiles:
    """Files by number, opened when they are read and closed when others were used more lately."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Opens none of them yet."""
        self._paths = paths
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._most = min(OPEN_FILES, max(1, open_files_limit() // SHARE))
        self._failed: set[int] = set()

    def __len__(self) -> int:
        """Number of files that are open now."""
        return len(self._descriptors)

    def descriptor(self, number: int) -> int:
        """Descriptor of a file, valid until the next call. Raises OSError, at once."""
        if number in self._descriptors:
            self._descriptors.move_to_end(number)
            return self._descriptors[number]
        while len(self._descriptors) >= self._most:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[number] = os.open(self._paths[number], os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[number]

    def read(self, number: int, into: memoryview, offset: int) -> int:
        """Reads at `offset` until `into` is full or the file ends; returns the number of bytes.

        Raises:
            ResourceError, OSError: as `retry_io`.
        """
        # A file that failed to the end before is tried once: every row of a bad disk would otherwise cost all pauses.
        pauses = 0 if number in self._failed else None
        try:
            done = retry_io(
                lambda: self._read_once(number, into, offset), f"reading {self._paths[number]}", self._make_room, pauses
            )
        except OSError:
            self._failed.add(number)
            raise
        self._failed.discard(number)
        return done

    def close(self) -> None:
        """Closes all files; a later read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _read_once(self, number: int, into: memoryview, offset: int) -> int:
        done = 0
        try:
            # A read may end early without an error or the file's end, on network file systems and at signals.
            while done < len(into) and (count := os.preadv(self.descriptor(number), [into[done:]], offset + done)):
                done += count
        except OSError:
            # A descriptor can be stale for ever, where the file can be opened anew.
            if (descriptor := self._descriptors.pop(number, None)) is not None:
                os.close(descriptor)
            raise
        return done

    def _make_room(self) -> None:
        """Closes the half that was not used lately, and keeps to so many from now on."""
        self._most = max(1, len(self._descriptors) // 2)
        while len(self._descriptors) > self._most:
            os.close(self._descriptors.popitem(last=False)[1])
