"""The system's error behind an exception of a library: a full disk must not look like a fault of the program.

Libraries written in Rust and C++ raise classes of their own (`tokenizers` Exception, `sentencepiece` RuntimeError, `zstandard` ZstdError)
and give the system's error in their text alone.
"""

import errno
import os
import re

_NUMBERED = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|\bError #(\d+)\b|\berrno[ =:]+(\d+)\b")
_NAMED = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES,
        errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ESTALE, errno.ELOOP, errno.ENOTEMPTY,
    )
}  # fmt: skip
_REMEDIES = {
    errno.ENOSPC: "Make room ('df' shows the bytes that are left, 'df -i' the inodes)",
    errno.EDQUOT: "Make room or ask for a larger quota, which may count files too",
    errno.EROFS: "Name a directory on a disk that can be written",
    errno.EMFILE: "Raise the limit of open files ('ulimit -n')",
    errno.ENFILE: "End other programs on this host",
    errno.EACCES: "Give this user the right to it or name another path",
    errno.EPERM: "Give this user the right to it or name another path",
    errno.ENOENT: "See whether its directory was removed or its disk is no longer mounted",
    errno.ENOMEM: "Give the job more memory or start fewer ranks on a host",
}


def system_errno(error: BaseException) -> int:
    """Returns the number of the system's error that an exception or one of its causes comes from; 0: none is known."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, MemoryError):
            return errno.ENOMEM
        if isinstance(link, OSError) and link.errno:
            return link.errno
        # Libraries raise these; the text of a KeyError or ValueError names such an error by chance.
        is_theirs = isinstance(link, OSError) or type(link) in (Exception, RuntimeError) or type(link).__module__ != "builtins"
        text = str(link) if is_theirs else ""
        if numbered := _NUMBERED.search(text):
            return int(next(filter(None, numbered.groups())))
        if named := next((number for name, number in _NAMED.items() if name in text), 0):
            return named
        link = link.__cause__
    return 0


def remedy_for(number: int) -> str:
    """Returns what the user can do about a system's error, as the beginning of a sentence."""
    return _REMEDIES.get(number, "Mend the disk or the path")
