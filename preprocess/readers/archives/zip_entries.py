"""Reads a zip archive by its directory, in the order in which the members stand in the file."""

import errno
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path

from jadeberta.shards import InputError
from preprocess.compressed import MOST_BYTES, DamagedFile
from preprocess.readers.archives.entries import Entry

MAX_DIRECTORY_BYTES = 2**27
"""Largest directory, of more than a million members: Python keeps all of it, in some five times the memory."""
_LOCAL_HEADER_BYTES = 30
_MOST_END_BYTES = 2**16 + 100
_UTF8_NAME, _ENCRYPTED = 0x800, 0x1
_DAMAGE = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, struct.error, ValueError, OverflowError, IndexError)


def zip_entries(path: Path) -> Generator[Entry, None, None]:
    """Streams the members.

    Raises:
        InputError: a member is encrypted, or compressed in a way that is not read.
        DamagedFile: the archive is damaged or cut short.
    """
    try:
        _check_directory(path)
        archive = zipfile.ZipFile(path)
    except PermissionError as e:
        raise InputError(f"{path}: {e.strerror}; give this user the right to read it.") from e
    except (*_DAMAGE, NotImplementedError) as e:
        raise DamagedFile(f"not a whole zip archive ({e})", 0) from e
    with archive:
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        if members and members[0].header_offset and _begins_with_member(path):
            # Another archive, and what its directory names would not be read. A program that unpacks itself begins otherwise.
            raise DamagedFile("members that its directory does not name, as when archives are joined by cat", 0)
        for member, behind in pairwise(members):
            # Members that share their bytes are how a small archive holds petabytes.
            if member.header_offset + _LOCAL_HEADER_BYTES + member.compress_size > behind.header_offset:
                raise DamagedFile("members that overlap, as no program packs them", behind.header_offset)
        for member in members:
            name = _name(member)
            if name.endswith("/"):
                yield Entry(name, left_out="folder")
            elif stat.S_ISLNK(member.external_attr >> 16):
                yield Entry(name, left_out="link")
            else:
                yield Entry(name, _content(path, archive, member, name))


def _begins_with_member(path: Path) -> bool:
    with open(path, "rb") as f:
        return f.read(4) == b"PK\3\4"


def _check_directory(path: Path) -> None:
    """Refuses a directory of members that would fill the memory; one that is damaged is found by who reads it.

    Raises:
        InputError: it is too large.
    """
    with open(path, "rb") as f:
        start = max(0, f.seek(0, 2) - _MOST_END_BYTES)
        f.seek(start)
        end = f.read()
        record, wide = end.rfind(b"PK\5\6"), end.rfind(b"PK\6\6")
        size = struct.unpack_from("<L", end, record + 12)[0] if 0 <= record <= len(end) - 16 else 0
        if wide >= 0 and wide <= len(end) - 48:
            size = max(size if size < 2**32 - 1 else 0, struct.unpack_from("<Q", end, wide + 40)[0])
    # A size of 2^32-1 says that the wide record has it; one that the file cannot hold is damage.
    if MAX_DIRECTORY_BYTES < size < path.stat().st_size:
        raise InputError(
            f"{path}: byte 0: a directory of {size:,} bytes; pack the members into several archives, or into a .tar."
        )


def _name(member: zipfile.ZipInfo) -> str:
    """Returns a name as it was meant: without the flag of UTF-8 it is in the system's encoding, in Japan that of Windows."""
    name = member.filename
    if not member.flag_bits & _UTF8_NAME:
        stored = member.orig_filename.encode("cp437", "replace")
        for codec in ("utf-8", "cp932"):
            try:
                name = stored.decode(codec)
                break
            except UnicodeDecodeError:
                continue
    # Some programs of Windows write its mark between folders.
    return name.replace("\\", "/")


def _content(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Iterator[tuple[int, bytes]]:
    if member.flag_bits & _ENCRYPTED:
        raise InputError(f"{path}: member {name}: it is encrypted; unpack the archive with its password and name the files.")
    start, read = member.header_offset, 0
    try:
        with archive.open(member) as f:
            while content := f.read(MOST_BYTES):
                read += len(content)
                # About: how much of the packed bytes it took is not told.
                yield start + member.compress_size * read // max(read, member.file_size), content
    except NotImplementedError as e:
        problem = f"its compression is not read here ({e})"
        raise InputError(f"{path}: member {name}: {problem}; unpack the archive and name the files.") from e
    except RuntimeError as e:
        raise InputError(f"{path}: member {name}: {e}; unpack the archive and name the files.") from e
    except (*_DAMAGE, OSError) as e:
        # A place that cannot be: its number was damaged.
        if isinstance(e, OSError) and e.errno not in (None, errno.EINVAL):
            raise
        raise DamagedFile(f"member {name}: {e or 'damaged'}", start) from e
