"""Other people's programs, run so that they cannot harm the stage: limits on time, memory and processor, killed with their children.

Knows nothing of what the programs say.
"""

import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import IO

from jadeberta.shards import SegmenterError

Ended = tuple[int, bytes, bytes]
"""Exit status, output and complaints of a program."""


def find_program(command: str, default: str, remedy: str) -> list[str]:
    """`command` as an argument list, its program found on PATH; raises SegmenterError with `remedy`."""
    try:
        words = shlex.split(command) or [default]
    except ValueError as e:
        raise SegmenterError(f"preprocess.segmenter.command {command!r} cannot be read ({e}). Balance its quotes.") from e
    if shutil.which(words[0]) is None:
        raise SegmenterError(f"{words[0]}: no such program. {remedy}.")
    return words


def first_line_to_v(command: list[str], timeout: float, remedy: str) -> str:
    """What `command -v` says; its exit status says nothing (rc3 ends with 1)."""
    try:
        _, output, complaint = run_limited([*command, "-v"], b"", timeout)
    except (subprocess.TimeoutExpired, OSError) as e:
        raise SegmenterError(f"{command[0]} does not answer to -v ({e}). {remedy}.") from e
    return next(iter((output + complaint).decode(errors="replace").strip().splitlines()), "")


def last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def limited(
    command: list[str], memory_mib: int, processor_seconds: int | None = None, output_bytes: int | None = None
) -> list[str]:
    """`command` under limits, which the shell sets: Python code between fork and exec is unsafe beside MPI's threads.

    Args:
        command: program and its arguments.
        memory_mib: its address space.
        processor_seconds: after which the kernel ends it: one that turns for ever and whose parent was killed has nobody else to.
        output_bytes: that it may write to a file; rc3 can print errors without end.
    """
    processor = "unlimited" if processor_seconds is None else str(processor_seconds)
    blocks = "unlimited" if output_bytes is None else str(-(-output_bytes // 512))
    script = 'ulimit -v "$0" && ulimit -t "$1" && ulimit -f "$2" && shift 2 && exec "$@"'
    return ["/bin/sh", "-c", script, str(memory_mib * 1024), processor, blocks, *command]


def run_limited(
    command: list[str], data: bytes, timeout: float, started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None
) -> Ended:
    """Runs `command` on `data`; it is killed with its children where it outlasts `timeout`.

    It reads from and writes to files in memory, so neither side ever waits for the other as at the two ends of a pipe.
    `started` is given the process. Raises subprocess.TimeoutExpired, or OSError where it cannot be started.
    """
    with ExitStack() as stack:
        fed, output, complaint = (stack.enter_context(_memory_file()) for _ in range(3))
        fed.write(data)
        fed.seek(0)
        # Its end that the program holds is closed when that has ended: a wait with a time limit that wakes at once.
        ended, held = os.pipe()
        stack.callback(os.close, ended)
        try:
            process = subprocess.Popen(
                command, stdin=fed, stdout=output, stderr=complaint, pass_fds=(held,), start_new_session=True
            )
        finally:
            os.close(held)
        with process:
            try:
                started(process)
                deadline, poll = time.monotonic() + timeout, select.poll()
                poll.register(ended)
                if not poll.poll(timeout * 1000):
                    raise subprocess.TimeoutExpired(command, timeout)
                process.wait(max(0.0, deadline - time.monotonic()))
            except BaseException:
                kill(process)
                raise
        return process.returncode, _content(output), _content(complaint)


def _memory_file() -> IO[bytes]:
    return open(os.memfd_create("segmenter"), "w+b", buffering=0)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session, and its children; one that has ended is left alone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class Worker:
    """Runs programs one at a time beside its owner, who reads the answer of one while the next is at work."""

    def __init__(self) -> None:
        # The thread only waits for the program: what takes time of this process is done by the owner.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._lock, self._closed = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None

    def submit(self, command: list[str], data: bytes, timeout: float) -> "Future[Ended]":
        """`run_limited`, as soon as the programs before it have ended."""
        return self._thread.submit(run_limited, command, data, timeout, self._started)

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._process = process
            if self._closed:
                kill(process)

    def close(self) -> None:
        """Kills the program that runs and forgets those that wait."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                kill(self._process)
        self._thread.shutdown(cancel_futures=True)
