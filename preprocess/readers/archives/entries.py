"""What stands in an archive, and which of it is read: names are text here and never paths, as nothing is written to them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ARCHIVE = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst|zip)$|\.tar\.(gz|zst|xz|bz2)$", re.IGNORECASE)
_NESTED = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst|zip|7z|rar|lzh|cab|jar)$|\.tar\.\w{1,4}$", re.IGNORECASE)


@dataclass
class Entry:
    """A member of an archive."""

    name: str
    content: Iterable[tuple[int, bytes]] = ()
    """(Bytes of the archive read so far, bytes of the member), once; as they are stored in it."""
    left_out: str = ""
    """Why it is not read; empty: it is a file."""


def is_archive(path: Path) -> bool:
    """Returns whether a file is an archive, by its name."""
    return _ARCHIVE.search(path.name) is not None


def reason_against(name: str, wanted: re.Pattern[str]) -> str:
    """Returns why a file of this name in an archive is not read; empty: it is read."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\\" in name or "\0" in name or not path.name:
        return "path leads out of the archive"
    if path.name.startswith(".") or "__MACOSX" in path.parts:
        return "hidden file"
    if _NESTED.search(path.name):
        return "archive in the archive"
    return "" if wanted.search(path.name) or wanted.search(path.name.lower()) else "of another format"
