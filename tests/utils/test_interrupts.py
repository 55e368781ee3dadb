"""Ctrl-C in the first second, and in the last: one line and status 130."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)
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
