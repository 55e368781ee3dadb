"""A helper process must not outlive the process that it works for, however that one ends."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Called in the new process: the kernel kills it when the thread that started it ends; it ends now where that is past.

    Args:
        parent: id of the process that started this one.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
