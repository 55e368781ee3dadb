"""Runs external programs so that they cannot harm the stage: limits on time, memory and processor, killed with their children.

Does not interpret what the programs print.
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
from functools import cache
from typing import IO

from jadeberta.shards import SegmenterError
from jadeberta.utils.paths import expand_user

Ended = tuple[int, bytes, bytes]
"""Exit status, standard output and standard error of a program."""


def find_program(command: str, default: str, remedy: str) -> list[str]:
    """Returns `command` as an argument list.

    Args:
        command: program and its options; empty: the default.
        default: program to use then.
        remedy: what the user can do; ends the error's sentence.

    Raises:
        SegmenterError: the program is not on PATH.
        ConfigError: a path in the command cannot be expanded, see `expand_user`.
    """
    try:
        words = [_expand_path(word) for word in shlex.split(command)] or [default]
    except ValueError as e:
        raise SegmenterError(f"preprocess.segmenter.command {command!r} cannot be read ({e}). Balance its quotes.") from e
    if shutil.which(words[0]) is None:
        raise SegmenterError(f"{words[0]}: no such program. {remedy}.")
    return words


def _expand_path(word: str) -> str:
    """Expands `~` in a word of a command, or after the = of an option such as --model=~/jumanpp.jppmdl."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return option + equals + expand_user(value, "preprocess.segmenter.command")


def first_line_to_v(command: list[str], timeout: float, remedy: str) -> str:
    """Returns the first line that `command -v` prints; its exit status means nothing (rc3 ends with 1).

    Raises:
        SegmenterError: the program cannot be started or does not end in time.
    """
    try:
        _, output, complaint = run_limited([*command, "-v"], b"", timeout)
    except (subprocess.TimeoutExpired, OSError) as e:
        raise SegmenterError(f"{command[0]} does not answer to -v ({e}). {remedy}.") from e
    return next(iter((output + complaint).decode(errors="replace").strip().splitlines()), "")


def last_line(complaint: bytes) -> str:
    """Returns the last line that a program wrote to its standard error, at most 200 characters."""
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def how_ended(status: int, complaint: bytes) -> str:
    """Returns how a program ended that should not have, with the last line that it wrote to its standard error."""
    what = f"ended by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"ended with status {status}"
    return f"{what} {last_line(complaint)}".strip()


def limited(
    command: list[str], memory_mib: int, processor_seconds: int | None = None, output_bytes: int | None = None
) -> list[str]:
    """Returns `command` under limits that the shell sets: Python code between fork and exec is unsafe with MPI's threads.

    Args:
        command: program and its arguments.
        memory_mib: limit of its address space, in MiB.
        processor_seconds: processor time after which the kernel ends it; nothing else ends an endless loop whose parent was killed.
        output_bytes: limit of bytes written to a file; rc3 can print errors without end.
    """
    if has_setpriv():
        # Else a program that hangs would outlive a killed stage.
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    processor = "unlimited" if processor_seconds is None else str(processor_seconds)
    blocks = "unlimited" if output_bytes is None else str(-(-output_bytes // 512))
    # No core dumps: each would be as large as the memory of the program that died. Where the host has no memory left, the kernel ends this
    # program and not the stage.
    last = "{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null"
    # A limit of the host that is lower stays: to raise it is not allowed.
    lower = 'lower() { [ "$2" = unlimited ] || ulimit "-$1" "$2" 2>/dev/null || [ "$(ulimit "-$1")" -le "$2" ]; }'
    script = f'{lower}; ulimit -c 0; {last}; lower v "$0" && lower t "$1" && lower f "$2" && shift 2 && exec "$@"'
    return ["/bin/sh", "-c", script, str(memory_mib * 1024), processor, blocks, *command]


class Stalled(subprocess.TimeoutExpired):
    """A program printed nothing for a time."""


@cache
def has_setpriv() -> bool:
    """Returns whether util-linux's setpriv is here, and new enough to ask the kernel for a signal at the parent's end."""
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def run_limited(
    command: list[str],
    data: bytes,
    timeout: float,
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
    patience: float | None = None,
) -> Ended:
    """Runs `command` on `data`; kills it with its children if it exceeds the time limit.

    It reads from and writes to files in memory, so that neither side ever waits for the other, as with pipes.

    Args:
        command: program and its arguments.
        data: its standard input.
        timeout: limit of wall time, in seconds.
        started: called with the process.
        patience: limit of the time, in seconds, in which it prints nothing.

    Raises:
        subprocess.TimeoutExpired: it exceeded the time limit; with what it had printed.
        Stalled: it printed nothing for `patience` seconds.
        OSError: it cannot be started.
    """
    with ExitStack() as stack:
        fed, output, complaint = (stack.enter_context(memory_file()) for _ in range(3))
        fed.write(data)
        fed.seek(0)
        # The program's end of this pipe closes when it ends, so that poll returns at once; process.wait with a limit would sleep and look.
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
                deadline = time.monotonic() + timeout
                problem = _wait(ended, output, deadline, patience)
                if problem is None:
                    try:
                        process.wait(max(0.0, deadline - time.monotonic()))
                    except subprocess.TimeoutExpired:
                        # It closed its end of the pipe and goes on. This exception knows nothing of what it had printed.
                        problem = subprocess.TimeoutExpired
            except BaseException:
                kill(process)
                raise
            if problem is not None:
                kill(process)
                process.wait()
                limit = timeout if problem is subprocess.TimeoutExpired else patience
                raise problem(command, limit or timeout, content_of(output), content_of(complaint))
        return process.returncode, content_of(output), content_of(complaint)


def _wait(ended: int, output: IO[bytes], deadline: float, patience: float | None) -> type[subprocess.TimeoutExpired] | None:
    """Waits until the pipe `ended` closes, and returns None; else what went wrong."""
    poll, size = select.poll(), 0
    poll.register(ended)
    while True:
        left = max(0.0, deadline - time.monotonic())
        if poll.poll(1000 * (left if patience is None else min(left, patience))):
            return None
        if time.monotonic() >= deadline:
            return subprocess.TimeoutExpired
        before, size = size, os.fstat(output.fileno()).st_size
        if size == before:
            return Stalled


def memory_file() -> IO[bytes]:
    """Returns an empty file in memory, without a buffer."""
    return open(os.memfd_create("segmenter"), "w+b", buffering=0)


def content_of(file: IO[bytes]) -> bytes:
    """Returns all that a file holds."""
    file.seek(0)
    return file.read()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session, and its children, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class Worker:
    """Runs programs one at a time in the background, while the caller reads the answers of the last one."""

    def __init__(self) -> None:
        # The thread only waits for the program; work that takes Python's lock is done by the caller.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._lock, self._closed = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None

    def submit(self, command: list[str], data: bytes, timeout: float, patience: float | None = None) -> "Future[Ended]":
        """Calls `run_limited` when the programs before it have ended."""
        return self._thread.submit(run_limited, command, data, timeout, self._started, patience)

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._process = process
            if self._closed:
                kill(process)

    def close(self) -> None:
        """Kills the running program and cancels those that wait."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                kill(self._process)
        self._thread.shutdown(cancel_futures=True)
