"""Helper processes end with the process they work for, and signals to the group do not reach them."""

import os
import signal
import subprocess
import sys
import time

from jadeberta.utils.processes import HELPER_BLOCKED_SIGNALS, helper_signals_blocked
from tests.helpers import ROOT

HELPER = (
    "import sys, time; from jadeberta.utils.processes import end_with_parent; end_with_parent(int(sys.argv[1]))\n"
    "print('up', flush=True); time.sleep(60)"
)


def test_a_helper_dies_with_its_parent() -> None:
    start = f"p = subprocess.Popen([sys.executable, '-c', {HELPER!r}, str(os.getpid())])"
    parent = f"import os, subprocess, sys; {start}; print(p.pid, flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    assert process.stdout.readline() == b"up\n"
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{helper}/exe"):  # noqa: PTH110 - the link goes before a zombie's entry does
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_helper_whose_parent_is_gone_already_ends_at_once() -> None:
    assert subprocess.run([sys.executable, "-c", HELPER, "1"], cwd=ROOT, capture_output=True).returncode == 1


def test_signals_of_the_job_do_not_reach_a_helper_and_the_starter_gets_them_back() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with helper_signals_blocked():
        command = [sys.executable, "-c", "print('up', flush=True); input()"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert process.stdout is not None and process.stdin is not None and process.stdout.readline() == b"up\n"
    for number in HELPER_BLOCKED_SIGNALS:
        process.send_signal(number)
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(20) == 0
