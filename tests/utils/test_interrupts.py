"""How a program begins and ends: Ctrl-C in the first second and in the last, and standard streams that are closed or full."""

import errno
import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jadeberta.utils.progress_line import ConsoleHandler
from tests.helpers import ROOT

ANSWER = "interrupted: ended at once\n"
PROGRAM = """import os, signal, sys, time
from jadeberta.utils.interrupts import run_interruptible

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

def load():
    {load}
    return run

def run():
    {run}

{start}
run_interruptible(load)
"""


def run(arguments: list[str], **env: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    # A shell has SIGINT ignored for commands in the background, and so perhaps for the tests.
    ended = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("module", ["preprocess", "jadeberta"])
def test_ctrl_c_while_modules_load_is_one_line(module: str, tmp_path: Path) -> None:
    # Both programs import this module early, and Python's start does not.
    (tmp_path / "argparse.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    assert run(["-m", module, "--help"], PYTHONPATH=f"{tmp_path}:{ROOT}") == (130, ANSWER)


@pytest.mark.parametrize(
    ("load", "work", "start", "expected"),
    [
        ("interrupt()", "print('ran')", "", (130, ANSWER)),
        # A library that catches everything does not swallow it.
        ("\n    try: interrupt()\n    except BaseException: pass", "print('ran')", "", (130, ANSWER)),
        ("pass", "interrupt()", "", (130, ANSWER)),
        ("pass", "\n    try: interrupt()\n    except KeyboardInterrupt: print('saved')", "", (0, "saved\n")),
        ("pass", "sys.exit(3)", "import atexit; atexit.register(interrupt)", (-signal.SIGINT, "")),
        # A shell has SIGINT ignored for a command in the background.
        ("interrupt()", "interrupt(); print('ran')", "signal.signal(signal.SIGINT, signal.SIG_IGN)", (0, "ran\n")),
        ("interrupt()", "print('ran')", "os.environ['SLURM_PROCID'] = '1'", (130, "")),
    ],
    ids=["loading", "swallowed", "running", "answered", "at the end", "in the background", "another rank"],
)
def test_an_interrupt_has_one_answer_at_each_moment(load: str, work: str, start: str, expected: tuple[int, str]) -> None:
    assert run(["-c", PROGRAM.format(load=load, run=work, start=start)]) == expected


PRINTS = """import os, sys
from jadeberta.utils.interrupts import run_interruptible

def run():
    with open(sys.argv[1], "wb") as f:
        print("a line")
        os.write(2, b"of a library")
        f.write(b"tokens")
    sys.exit(int(sys.argv[2]))

run_interruptible(lambda: run)
"""


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_printed_with_closed_streams_lands_in_no_file(closed: str, tmp_path: Path) -> None:
    command = f'"$0" -c "$1" {tmp_path}/shard 0 {closed}'
    ended = subprocess.run(
        ["bash", "-c", command, sys.executable, PRINTS], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert ended.returncode == 0 and (tmp_path / "shard").read_bytes() == b"tokens"


@pytest.mark.parametrize(
    ("sink", "status", "expected", "said"),
    [
        (
            ">/dev/full",
            0,
            1,
            "of a libraryOutputError: standard output: No space left on device. Make room there, and run the same ",
        ),
        (">/dev/full", 13, 13, "of a libraryOutputError: standard output: No space left on device."),
        ("| true", 0, 1, "of a library"),
    ],
)
def test_output_that_is_lost_is_no_success(sink: str, status: int, expected: int, said: str, tmp_path: Path) -> None:
    slow = PRINTS.replace("def run():", "def run():\n    import time; time.sleep(0.3)")
    command = f'set -o pipefail; "$0" -c "$1" {tmp_path}/shard {status} {sink}'
    ended = subprocess.run(
        ["bash", "-c", command, sys.executable, slow],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert ended.returncode == expected and ended.stderr.startswith(said) and "Traceback" not in ended.stderr


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_costs_its_lines_alone(capfd, monkeypatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)  # some library sets it to False
    handler = ConsoleHandler(Full())
    for _ in range(2):
        handler.handle(logging.LogRecord("x", logging.INFO, __file__, 0, "a line", None, None))
    handler.close_line()
    assert capfd.readouterr().err == ""
    handler.handle(logging.LogRecord("x", logging.INFO, __file__, 0, "%d", ("no number",), None))
    assert "Logging error" in capfd.readouterr().err  # a fault of the program still shows
