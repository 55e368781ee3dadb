"""Archives made by the tests: the same members in every form."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import zstandard

Members = list[tuple[str, bytes]]


def tar(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVES: dict[str, Callable[[Members], bytes]] = {
    ".tar": tar,
    ".tar.gz": lambda members: gzip.compress(tar(members)),
    ".tgz": lambda members: gzip.compress(tar(members, tarfile.GNU_FORMAT)),
    ".tar.bz2": lambda members: bz2.compress(tar(members, tarfile.USTAR_FORMAT)),
    ".tar.xz": lambda members: lzma.compress(tar(members)),
    ".tar.zst": lambda members: zstandard.compress(tar(members)),
    ".zip": zipped,
}
