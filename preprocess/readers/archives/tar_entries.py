"""Reads a tar archive, also a compressed one, from its beginning to its end (POSIX ustar and pax, GNU).

Python's `tarfile` ends in silence at a damaged header behind the first one. Here an archive without its end is cut short, and what is no
header is damage.
"""

import re
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path

from preprocess.compressed import DamagedFile, placed_chunks
from preprocess.readers.archives.entries import Entry

BLOCK = 512
MAX_METADATA_BYTES = 2**20
"""Most bytes of a long name or of a pax header."""
_ZEROS = bytes(BLOCK)
_RECORD = re.compile(rb"(\d{1,20}) ([^=\n]+)=")
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# These have no content, whatever size their headers state.
_OTHERS = {
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "device",
    tarfile.DIRTYPE: "folder",
}
_GNU_SPARSE_MORE = 482
_GNU_SPARSE_MORE_BEHIND = 504


def tar_entries(path: Path) -> Generator[Entry, None, None]:
    """Streams the members; the content of each is to be read before the next one, and what is left of it is passed over.

    Raises:
        DamagedFile: the archive is damaged or cut short.
    """
    stream = _Stream(path)
    name, pax, common = "", dict[str, str](), dict[str, str]()
    while (block := stream.block("a header")) != _ZEROS:
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as e:
            raise DamagedFile(f"not a tar header ({e})", stream.place) from e
        size, kind = header.size, header.type
        if size < 0:
            raise DamagedFile("a tar header with a size below 0", stream.place)
        if kind == tarfile.GNUTYPE_LONGNAME:
            name = stream.metadata(size).rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            pax = _pax(stream.metadata(size), stream.place)
            continue
        if kind == tarfile.XGLTYPE:
            common |= _pax(stream.metadata(size), stream.place)
            continue
        if kind == tarfile.GNUTYPE_LONGLINK:
            stream.metadata(size)
            continue
        fields = common | pax
        is_sparse = kind == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in fields)
        if kind == tarfile.GNUTYPE_SPARSE:
            more = block[_GNU_SPARSE_MORE]
            while more:
                more = stream.block("a header of a sparse file")[_GNU_SPARSE_MORE_BEHIND]
        if "size" in fields:
            if not fields["size"].isascii() or not fields["size"].isdigit():
                raise DamagedFile("a pax header whose size is no number", stream.place)
            size = int(fields["size"])
        left_out = _OTHERS.get(kind, "sparse file" if is_sparse else "" if kind in _FILES else "no file")
        stream.left = stream.padding = 0
        if kind not in _OTHERS:
            stream.left, stream.padding = size, -size % BLOCK
        yield Entry(fields.get("path", name or header.name), stream.content() if not left_out else (), left_out)
        stream.pass_over()
        name, pax = "", {}
    if stream.has_more():
        raise DamagedFile("more stands behind the end of the archive, as when archives are joined by cat", stream.place)


def _pax(content: bytes, place: int) -> dict[str, str]:
    found: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:
        match = _RECORD.match(content, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content):
            raise DamagedFile("a pax header that cannot be read", place)
        found[match[2].decode("utf-8", "replace")] = content[match.end() : end - 1].decode("utf-8", "surrogateescape")
        position = end
    return found


class _Stream:
    """The bytes of an archive."""

    def __init__(self, path: Path) -> None:
        self._chunks = placed_chunks(path)
        self._buffer = b""
        self.place = 0
        """Bytes of the file read so far."""
        self.left = self.padding = 0
        """Bytes of the current member's content that are not read yet, and those behind it up to the next header."""

    def _fill(self) -> bool:
        found = next(self._chunks, None)
        if found is None:
            return False
        self.place, content = found
        self._buffer += content
        return True

    def _take(self, size: int, what: str) -> bytes:
        while len(self._buffer) < size:
            if not self._fill():
                raise DamagedFile(f"the archive is cut short in {what}", self.place)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def block(self, what: str) -> bytes:
        if not self._buffer and not self._fill():
            raise DamagedFile("the archive is cut short: the zeros at its end are missing", self.place)
        return self._take(BLOCK, what)

    def metadata(self, size: int) -> bytes:
        if size > MAX_METADATA_BYTES:
            raise DamagedFile(f"a name or pax header of {size:,} bytes", self.place)
        return self._take(size + -size % BLOCK, "a long name or a pax header")[:size]

    def content(self) -> Iterator[tuple[int, bytes]]:
        while self.left:
            if not self._buffer and not self._fill():
                raise DamagedFile("the archive is cut short in a member", self.place)
            taken, self._buffer = self._buffer[: self.left], self._buffer[self.left :]
            self.left -= len(taken)
            if taken:
                yield self.place, taken

    def pass_over(self) -> None:
        """Passes over what is left of the current member."""
        for _ in self.content():
            pass
        self._take(self.padding, "a member")

    def has_more(self) -> bool:
        """Returns whether anything but zeros follows."""
        while True:
            if self._buffer.strip(b"\0"):
                return True
            self._buffer = b""
            if not self._fill():
                return False
