"""Hands an event to the user's command: as JSON on its standard input and as text in its environment, with time limit and retries."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import orjson

from jadeberta.status.verdict_words import plain

LIMIT_S = 30.0
"""Time limit of one call of the command, after which it and what it has started are killed."""
PAUSES_S = (2.0, 10.0)
"""Pauses before the second and the third call in one pass."""
TEXT_VARIABLE, EVENT_VARIABLE, RUN_VARIABLE = "JADEBERTA_ALERT", "JADEBERTA_EVENT", "JADEBERTA_RUN"
"""Environment of the command: the text, the kind of the event, and the run directory."""


@dataclass(frozen=True)
class Delivery:
    """How an event was handed over."""

    ok: bool
    fault: str = ""
    """Why it was not, a sentence."""


def deliver(
    words: list[str], event: dict[str, Any], limit_s: float = LIMIT_S, pause: Callable[[float], object] = time.sleep
) -> Delivery:
    """Calls the command until it ends with status 0, at most three times.

    Args:
        words: program and options.
        event: as `events.as_json` returns it.
        limit_s: time limit of each call, seconds.
        pause: sleeps that many seconds.
    """
    result = _call(words, event, limit_s)
    for seconds in PAUSES_S:
        if result.ok:
            break
        pause(seconds)
        result = _call(words, event, limit_s)
    return result


def _call(words: list[str], event: dict[str, Any], limit_s: float) -> Delivery:
    env = {TEXT_VARIABLE: event["text"], EVENT_VARIABLE: event["event"], RUN_VARIABLE: event["run"]}
    env = {**os.environ, **{name: value.replace("\0", " ") for name, value in env.items()}}
    # Not a pipe: what the command leaves behind in the background would keep it open.
    with _file_for_errors() as errors:
        try:
            # A group of its own: what the command has started must end with it.
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=env, start_new_session=True
            )
        except (OSError, ValueError) as e:
            return Delivery(False, f"{words[0]} cannot be started ({getattr(e, 'strerror', None) or e})")
        try:
            process.communicate(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE), limit_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            return Delivery(False, f"{words[0]} did not end within {limit_s:g} s and was killed")
        except BaseException:
            _kill_group(process)
            raise
        if process.returncode == 0:
            return Delivery(True)
        said = plain(_last_line(errors))
    how = f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
    return Delivery(False, f"{words[0]} ended with {how}" + (f": {said}" if said else ""))


def _file_for_errors() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "w+b")  # the disk of temporary files is full: no reason to send nothing


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    return (file.read().decode(errors="replace").strip().splitlines() or [""])[-1]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what it has not read is lost
            process.stdin.close()
