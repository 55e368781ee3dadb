"""A process with all that it starts, ended together. Inductor's compile workers have sessions of their own: a process group is not all."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def descendants(process_id: int) -> list[int]:
    """Ids of a process and of everything below it, the process first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in brackets may hold spaces and brackets itself.
                parent = int((entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [process_id]
    for one in found:
        found += children.get(one, [])
    return found


def has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process has ended. It is not reaped: until `end` nobody else gets its id."""
    if process.returncode is not None:
        return True
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process and everything below it, and reaps it. Of one that has ended itself only its own group is left to be found.

    Nothing is done where it was reaped before: its id may be another process's by then.
    """
    if process.returncode is not None:
        return
    for one in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # it began a group of its own
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def end_at_signals(begun: list["subprocess.Popen[bytes]"]) -> None:
    """From now on SIGTERM, SIGINT and SIGHUP end these processes and then this one, with status 128 + the signal."""

    def leave(number: int, frame: object) -> None:
        for process in begun:
            end(process)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)


def seconds_since(began: float) -> float:
    """On the clock that nobody sets back."""
    return time.monotonic() - began
