"""Helper processes: they end with the process that they work for, and signals meant for the training do not reach them."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1
"""Number of prctl(2)'s operation, from linux/prctl.h."""
JOB_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that a launcher sends to every process of a job; the training answers them in its main thread."""
HELPER_BLOCKED_SIGNALS = (*JOB_SIGNALS, signal.SIGUSR2)
"""Signals that helper processes never see: those of the job, and the one that asks the training for its stacks."""


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Asks the kernel to end this process when the thread that started it ends; call it first thing in the new process.

    Args:
        parent: id of the process that started this one. Where it is gone already, this process ends at once with status 1.
        number: signal that the kernel sends.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    # A parent that ended before prctl took effect causes no signal any more.
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def helper_signals_blocked() -> Iterator[None]:
    """Blocks HELPER_BLOCKED_SIGNALS in this thread; a process started inside inherits the block and keeps it.

    A signal to the whole process group would otherwise end the helper, before or after it could ignore it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELPER_BLOCKED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
