"""What the kernel says about processes; a process that ends meanwhile is no error."""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """What /proc/PID/stat says, see proc(5)."""

    parent: int
    state: str
    """A letter; Z and X are processes that have ended."""
    name: str
    began: str
    """When it began, in ticks since boot: tells it from a later process with its number."""


def process_table() -> dict[int, ProcessStat]:
    """Every process by its id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if stat := process_stat(int(entry.name)):
            found[int(entry.name)] = stat
    return found


def process_stat(pid: int) -> ProcessStat | None:
    """Of one process; None where it is gone."""
    try:
        # From the right: the name stands in brackets and may itself hold spaces and brackets.
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = tail.split()
    return ProcessStat(int(fields[1]), fields[0], head.partition("(")[2], fields[19])


def send_signal(pid: int, number: int) -> None:
    """To a process that may be gone."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def signal_thread(pid: int, thread: int, number: int) -> None:
    """To one thread of a process that may be gone; to any of its threads where the C library (glibc before 2.30) cannot tell them apart."""
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    if tgkill is None:
        send_signal(pid, number)
    else:
        tgkill(pid, thread, int(number))


def kernel_function(pid: int) -> str:
    """Where in the kernel a process waits; 0 where it does not."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return "?"
