"""Files of a folder that somebody else has filled: nothing outside it is opened, no symbolic link followed, no pipe waited for."""

import errno
import hashlib
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes, Linux's NAME_MAX and PATH_MAX."""
LARGEST_JSON = 64 << 20
"""Bytes; a statement about a hundred thousand files has half as many."""
IS_LINK = "is a symbolic link, or lies behind one; such links are not followed"


class UnsafeFile(Exception):
    """A file cannot be used; the text says why, as the end of a sentence that begins with its path."""


def name_fault(name: object) -> str:
    """Returns why something is no name of a file within a folder, with / between folders; empty where it is one."""
    if not isinstance(name, str):
        return "is no text"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "leads out of the folder, or names none of its files"
    if "\0" in name or len(encoded) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "can be no name of a file"
    return ""


def open_inside(folder: Path, name: str) -> BufferedReader:
    """Opens a file of a folder for reading.

    Args:
        folder: named by the user; it may be a link itself.
        name: within the folder, with / between folders; from somebody else.

    Raises:
        UnsafeFile: the name leads out, something on the way is a symbolic link, or it is no file that can be read.
    """
    if fault := name_fault(name):
        raise UnsafeFile(fault)
    *folders, last = name.split("/")
    descriptor = -1
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # One folder after the other, each opened in the one before: a link that is put there meanwhile is not followed either.
        for part in folders:
            inner = _open(part, os.O_DIRECTORY, descriptor)
            os.close(descriptor)
            descriptor = inner
        file = _open(last, os.O_NONBLOCK, descriptor)
    except OSError as e:
        raise UnsafeFile(f"cannot be read ({e.strerror})") from e
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UnsafeFile("is a folder, a pipe or a device, and no file")
    return open(file, "rb")


def _open(part: str, kind: int, folder: int) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=folder)
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise UnsafeFile("is missing") from e
        if e.errno in (errno.ELOOP, errno.ENOTDIR):
            if stat.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode):
                raise UnsafeFile(IS_LINK) from e
            raise UnsafeFile("is missing (a file is where its folder would be)") from e
        raise


def sha256_inside(folder: Path, name: str) -> tuple[int, str]:
    """Returns size in bytes and sha256 of a file of a folder; raises UnsafeFile as `open_inside`."""
    with open_inside(folder, name) as f:
        try:
            return os.fstat(f.fileno()).st_size, hashlib.file_digest(f, "sha256").hexdigest()
        except OSError as e:
            raise UnsafeFile(f"cannot be read ({e.strerror})") from e


def read_inside(folder: Path, name: str, limit: int = LARGEST_JSON) -> bytes:
    """Returns the content of a file of a folder; raises UnsafeFile as `open_inside`, and where there is more than `limit` bytes."""
    with open_inside(folder, name) as f:
        try:
            content = f.read(limit + 1)
        except OSError as e:
            raise UnsafeFile(f"cannot be read ({e.strerror})") from e
    if len(content) > limit:
        raise UnsafeFile(f"has more than {limit:,} bytes, which is too much for what it should be")
    return content


def parse_object(content: bytes) -> dict[str, Any]:
    """Parses a JSON object in which no key stands twice; raises UnsafeFile where it is something else.

    Of two values of one key programs take different ones: then they would read two different statements out of one signed file.
    """
    try:
        found = json.loads(content.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise UnsafeFile("is no JSON that can be read (nested too deeply)") from None
    except ValueError as e:
        raise UnsafeFile(f"is no JSON that can be read ({str(e)[:80]})") from None
    if not isinstance(found, dict):
        raise UnsafeFile("is no JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:40]!a} stands twice")
        found[name] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
