"""What a process may use of its host: open files and shared memory, and errors of the system that say nothing about a file's content."""

import ctypes
import errno
import mmap
import os
import resource
import weakref

from jadeberta.errors import JadebertaError, OutputError, ResourceError

OF_STORAGE = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR,
        errno.EISDIR, errno.ELOOP,
    }
)  # fmt: skip
"""Errors of a disk, or of a path that the user chose."""
OPEN_FILES_WANTED = 65536
"""Descriptors that a process asks for at most: some programs walk through all numbers that they could have."""
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOLCK})
"""Errors that say that the process or its host lacks something."""
UNREACHABLE = frozenset(
    {
        errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.ENETUNREACH, errno.ENETRESET, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EREMOTEIO, errno.ENOLINK,
        errno.EBUSY, errno.ECOMM,
    }
)  # fmt: skip
"""Errors of a file system that does not answer."""


def raise_open_files_limit() -> int:
    """Raises the limit of open files to the hard one, as far as OPEN_FILES_WANTED; returns the limit that holds then.

    Most systems give a soft limit of 1,024, from the time of select(2), and a hard one far above it. Processes started from here inherit
    the new limit.
    """
    (soft, hard), wanted = resource.getrlimit(resource.RLIMIT_NOFILE), open_files_possible()
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return open_files_limit()


def open_files_possible() -> int:
    """Open files that this process may have once it has raised its soft limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)


def open_files_limit() -> int:
    """The limit of open files that holds for this process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OPEN_FILES_WANTED if soft == resource.RLIM_INFINITY else soft


def explain_system_error(error: BaseException) -> JadebertaError | None:
    """Returns a fault of the host, a disk or a path as one of our errors; None for what may be a fault of the program."""
    if is_shortage(error):
        return ResourceError(f"{describe_shortage(error)}.")
    if isinstance(error, OSError) and error.errno in OF_STORAGE:
        where = f"{error.filename}: " if error.filename else "reading or writing: "
        return OutputError(f"{where}{os.strerror(error.errno)}. Mend the disk or the path, and run the same command again.")
    return None


def is_shortage(error: BaseException) -> bool:
    """Whether an error is of the process or its host, and says nothing about the file that was used."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORTAGES)


def describe_shortage(error: BaseException) -> str:
    """Says what is lacking and what helps, as the end of a sentence; for errors of `is_shortage`, and of a file system."""
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    if number == errno.EMFILE:
        return f"this process has no file descriptor left (its limit is {open_files_limit()}); raise the hard limit, 'ulimit -Hn'"
    if number == errno.ENFILE:
        return "this host has no file descriptor left; raise fs.file-max, or end other programs there"
    if number in (errno.ENOMEM, errno.ENOBUFS):
        return "this host has no memory left for it; ask the job for more memory, or use fewer loader processes"
    if number == errno.ENOSPC:
        return "the file system has no space left; make room there"
    reason = os.strerror(number) if number else str(error)
    if number in UNREACHABLE or number == errno.EIO:
        return f"the file system does not answer ({reason}); look at the storage, then start again"
    return f"the system refused it ({reason}); start again"


def shared_memory() -> tuple[int, int]:
    """Size of /dev/shm and what is free of it, both in bytes.

    Raises:
        OSError: there is none.
    """
    disk = os.statvfs("/dev/shm")
    return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize


def map_file(descriptor: int, size: int) -> memoryview:
    """Maps the first bytes of a file for reading; the file may be closed then. Processes that map one file share its memory.

    Python's own mmap keeps a descriptor for each map (until 3.13), which would take those of a process.

    Raises:
        OSError: the file system has no maps, or the process has too many.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.munmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    mapped = (ctypes.c_ubyte * size).from_address(address)
    # Not at the end of the interpreter, where objects that still read the map may outlive it.
    weakref.finalize(mapped, libc.munmap, address, size).atexit = False
    return memoryview(mapped)
