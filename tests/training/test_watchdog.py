"""A rank that hangs, in whatever way, is found, its stacks are written, its host is named, and the job ends."""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from jadeberta.training.ledger import Ledger
from jadeberta.training.watchdog.heartbeat import Heartbeat, read_heartbeat, write_heartbeat
from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.procfs import process_stat, process_table
from tests.helpers import ROOT

TRAINER = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from jadeberta.config import WatchdogConfig
from jadeberta.training.watchdog.client import WatchdogClient
run, rank, world = Path({run!r}), {rank}, {world}
watchdog = WatchdogClient(run, rank, world, WatchdogConfig(start_s=20, first_step_s=2, step_s={step_s}, save_s=20, eval_s=20))
def take_steps(first, last, seconds=0.02):
    for step in range(first, last + 1):
        for section in ("data", "forward 1", "backward 1", "forward 2", "backward 2", "all-reduce", "update", "metrics"):
            watchdog.beat("first_step" if step == first else "step", step, section)
            if section == "all-reduce":
                (run / f"reached-{{rank}}").write_text(str(step))
                while min(int((run / f"reached-{{r}}").read_text() or 0) for r in range(world)) < step:
                    time.sleep(0.01)
        time.sleep(seconds)
"""


class Job:
    """Dummy trainers, each in a session of its own so that what they leave behind can be found."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.trainers: list[subprocess.Popen] = []

    def start(self, body: str, ranks: int = 1, step_s: float = 1.0) -> subprocess.Popen:
        for rank in range(ranks):
            (self.run / f"reached-{rank}").write_text("0")
            script = TRAINER.format(run=str(self.run), rank=rank, world=ranks, step_s=step_s) + body
            with open(self.run / f"stderr-{rank}", "ab") as err:
                command = [sys.executable, "-c", script]
                self.trainers.append(subprocess.Popen(command, cwd=ROOT, stderr=err, start_new_session=True))
        return self.trainers[-1]

    def ended(self, timeout: float = 20) -> list[int]:
        end = time.monotonic() + timeout
        return [t.wait(max(0.1, end - time.monotonic())) for t in self.trainers]

    def stderr(self) -> str:
        return "".join(p.read_text() for p in sorted(self.run.glob("stderr-*")))

    def stacks(self, rank: int = 0) -> str:
        return (self.run / f"logs/stacks-rank-{rank:05d}.txt").read_text()

    def record(self, rank: int = 0) -> dict[str, Any]:
        path = self.run / f"heartbeat/rank-{rank:05d}.json"
        return orjson.loads(path.read_bytes()) if path.exists() else {"step": 0, "phase": "", "state": ""}

    def hangs(self) -> list[dict[str, Any]]:
        return [row for row in read_jsonl(self.run / "ledger.jsonl") if row["event"] == "hang"]

    def members(self) -> list[int]:
        """Living processes of the job."""
        sessions = {t.pid for t in self.trainers}
        found = []
        for pid, (_, state, _, _) in process_table().items():
            try:
                if state not in "ZX" and os.getsid(pid) in sessions:
                    found.append(pid)
            except ProcessLookupError:
                continue
        return found

    def watchdog(self) -> int | None:
        """Of the last trainer."""
        for pid, (parent, _, _, _) in process_table().items():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if (
                    parent == self.trainers[-1].pid
                    and b"jadeberta.training.watchdog.monitor" in Path(f"/proc/{pid}/cmdline").read_bytes()
                ):
                    return pid
        return None


def until(condition: Callable[[], Any], timeout: float = 20) -> Any:
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


@pytest.fixture
def job(tmp_path) -> Iterator[Job]:
    job = Job(tmp_path)
    try:
        yield job
        until(lambda: not job.members(), 4)  # nothing outlives a trainer
    finally:
        for pid in job.members():
            os.kill(pid, signal.SIGKILL)
        for trainer in job.trainers:
            trainer.wait()


def test_a_hang_ends_with_status_12_and_the_function_it_hangs_in_is_written(job) -> None:
    job.start(
        "def the_function_that_hangs():\n    time.sleep(100)\nwatchdog.beat('step', 7, 'forward 3')\nthe_function_that_hangs()"
    )
    assert job.ended() == [12]
    assert "in the_function_that_hangs" in job.stacks() and "phase step, step 7, section forward 3" in job.stacks()
    (hang,) = job.hangs()
    assert (hang["rank"], hang["host"]) == (0, socket.gethostname())
    assert (hang["phase"], hang["step"], hang["place"], hang["limit_s"]) == ("step", 7, "forward 3", 1.0)
    assert 1.0 < hang["seconds"] < 5 and hang["reason"] == "it is the only rank"
    assert "HANG: rank 0" in job.stderr() and "the limit is 1 s" in job.stderr() and "stacks-rank-" in job.stderr()


def test_code_that_holds_the_interpreters_lock_is_killed_with_its_stacks_written(job) -> None:
    # A read is taken up again after a signal, unlike a sleep.
    job.start(
        "ours, theirs = os.pipe()\ndef holds_the_lock():\n    ctypes.PyDLL(None).read(ours, ctypes.create_string_buffer(1), 1)\n"
        "watchdog.beat('step', 1, 'update')\nholds_the_lock()"
    )
    assert job.ended() == [-signal.SIGKILL]
    assert "in holds_the_lock" in job.stacks() and job.hangs()[0]["place"] == "update"


def test_a_main_thread_that_takes_no_signal_is_found_and_another_thread_writes_its_stacks(job, tmp_path) -> None:
    source = """#include <signal.h>\n#include <sys/prctl.h>\n#include <unistd.h>
    void wait_in_kernel(void) { if (vfork() == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); sleep(100); _exit(0); } }"""
    (tmp_path / "wait.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "wait.so", tmp_path / "wait.c"], check=True, capture_output=True)
    job.start("watchdog.beat('step', 1, 'data')\ndef waits():\n    ctypes.CDLL(run / 'wait.so').wait_in_kernel()\nwaits()")
    assert job.ended() == [12]
    assert "in waits" in job.stacks() and "(state D)" in job.hangs()[0]["reason"]


def test_a_stopped_rank_is_named_and_both_ranks_end_with_their_stacks_written(job) -> None:
    stopped = job.start("take_steps(1, 100_000)", ranks=2)
    until(lambda: job.record(1)["step"] > 5)
    stopped.send_signal(signal.SIGSTOP)
    assert job.ended() == [12, 12]
    (hang,) = job.hangs()
    assert (hang["rank"], hang["host"]) == (1, socket.gethostname()) and "stopped by a signal" in hang["reason"]
    assert job.stderr().count("HANG: ") == 1 and f"HANG: rank 1 on {socket.gethostname()}" in job.stderr()
    assert all("in take_steps" in job.stacks(rank) for rank in (0, 1))
    # The thread that was stopped writes its own stack: read by another while it goes on, it may crash the process.
    assert "in take_steps" in job.stacks(1).partition("Current thread")[2].partition("\nThread ")[0]
    assert "state T" in job.stacks(1) and "state T" not in job.stacks(0)
    # Both stand where they stood: the stopped rank is not woken before the other has been looked at.
    assert job.record(0)["step"] - job.record(1)["step"] in (0, 1)


def test_a_rank_that_hangs_by_itself_is_told_from_the_one_that_waits_for_it(job) -> None:
    job.start("take_steps(1, 9)\nwatchdog.beat('step', 10, 'data')\nif rank == 1: time.sleep(100)\ntake_steps(10, 20)", ranks=2)
    assert job.ended() == [12, 12]
    (hang,) = job.hangs()
    assert (hang["rank"], hang["step"], hang["place"]) == (1, 10, "data") and len(hang["suspects"]) == 1


def test_a_stopped_loader_is_seen_among_the_children_and_does_not_stay(job) -> None:
    loader = "import os, sys, time\nwhile os.getppid() == int(sys.argv[1]): time.sleep(0.05)"
    job.start(
        f"loader = subprocess.Popen([sys.executable, '-c', {loader!r}, str(os.getpid())])\n"
        "time.sleep(0.3)\nloader.send_signal(signal.SIGSTOP)\n"
        "watchdog.beat('step', 1, 'data')\nloader.wait()"
    )
    assert job.ended() == [12]
    assert "state T in" in job.stacks() and "in wait" in job.stacks()


def test_a_hang_of_an_earlier_attempt_ends_no_later_one_and_is_replaced_by_a_new_one(job) -> None:
    for _ in range(2):
        Ledger(job.run / "ledger.jsonl", 0).write("start")
    (job.run / "heartbeat").mkdir()
    (job.run / "heartbeat/hang.json").write_text('{"reason": "of an earlier attempt"}')
    job.start("take_steps(1, 30)\nwatchdog.beat('step', 31, 'data')\ntime.sleep(100)")
    assert job.ended() == [12]
    (hang,) = job.hangs()
    assert (hang["step"], hang["attempt"], hang["life"]) == (31, 1, 1)
    assert orjson.loads((job.run / "heartbeat/hang.json").read_bytes())["step"] == 31


def test_clocks_that_are_set_back_blame_nobody(job, monkeypatch) -> None:
    # The wall clock of every process goes back by an hour when the file appears; nothing else changes.
    clock = "import os, time\nreal = time.time\ntime.time = lambda: real() - 3600 * os.path.exists(os.environ['SET_BACK'])\n"
    (job.run / "site").mkdir()
    (job.run / "site/sitecustomize.py").write_text(clock)
    monkeypatch.setenv("SET_BACK", str(job.run / "set-back"))
    monkeypatch.setenv("PYTHONPATH", f"{job.run / 'site'}:{ROOT}")
    stopped = job.start("take_steps(1, 100_000)", ranks=2)
    until(lambda: job.record(0)["step"] > 5 and job.record(1)["step"] > 5)
    before = job.record(0)["time"]
    (job.run / "set-back").touch()
    until(lambda: job.record(0)["time"] < before and job.record(1)["time"] < before)
    stopped.send_signal(signal.SIGSTOP)
    assert job.ended() == [12, 12]
    (hang,) = job.hangs()
    assert [s["rank"] for s in hang["suspects"]] == [1] and "stopped by a signal" in hang["reason"]


def test_a_killed_watchdog_is_replaced_and_its_successor_finds_the_hang(job) -> None:
    job.start("take_steps(1, 100)\nwatchdog.beat('step', 101, 'data')\ntime.sleep(100)")
    for _ in range(2):
        killed = until(job.watchdog)
        os.kill(killed, signal.SIGKILL)
        until(lambda killed=killed: job.watchdog() not in (killed, None))
    assert job.ended() == [12]
    assert job.hangs()[0]["step"] == 101 and job.stderr().count("is replaced") == 2


def test_a_run_that_gets_on_is_left_alone_and_its_watchdog_goes_with_it(job) -> None:
    # Longer than the limit of a step in all, in one save, and after the end.
    job.start("take_steps(1, 60)\nwatchdog.beat('save', 60, 'write')\ntime.sleep(2)\nwatchdog.stop()\ntime.sleep(1.5)", ranks=2)
    until(lambda: job.record()["phase"] == "end")
    assert until(lambda: len(job.members()) == 2)
    assert job.ended() == [0, 0]
    assert job.stderr() == "" and job.hangs() == [] and job.record()["step"] == 60


def test_a_job_that_is_suspended_as_a_whole_goes_on(job) -> None:
    # A busy machine may give the trainer its turn a second after the watchdog's: the limit leaves room for that.
    trainer = job.start("take_steps(1, 70)\nwatchdog.stop()", step_s=2.5)
    until(lambda: job.record()["step"] > 5)
    os.killpg(trainer.pid, signal.SIGSTOP)
    time.sleep(4)
    os.killpg(trainer.pid, signal.SIGCONT)
    assert job.ended() == [0] and job.hangs() == []


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_watch(job) -> None:
    (job.run / "heartbeat").write_text("a file where the directory should be")
    job.start("take_steps(1, 5)\nwatchdog.beat('step', 6, 'update')\ntime.sleep(100)")
    assert job.ended() == [12]
    assert job.hangs()[0]["step"] == 6 and "in <module>" in job.stacks()
    assert "the heartbeat cannot be written" in job.stderr()


def test_a_file_system_that_hangs_does_not_hold_up_the_judge(job) -> None:
    (job.run / "heartbeat").mkdir()
    # The watchdog writes its record under this name first; opening a fifo waits for a reader for ever.
    hanging = "os.mkfifo(f'{watchdog.run_dir}/heartbeat/.rank-00000.json.tmp-{watchdog._process.pid}')"
    job.start(f"import os\n{hanging}\nwatchdog.beat('step', 1, 'data')\ntime.sleep(100)")
    assert job.ended() == [12]
    assert "does not answer" in job.stderr() and "in <module>" in job.stacks()


def test_signals_to_the_whole_group_are_the_trainers_matter(job) -> None:
    trainer = job.start("for n in (10, 15, 2): signal.signal(n, lambda *_: None)\ntake_steps(1, 80)\nwatchdog.stop()")
    until(lambda: job.record()["step"] > 5)
    watchdog = job.watchdog()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.killpg(trainer.pid, number)
    time.sleep(0.5)
    assert job.watchdog() == watchdog
    assert job.ended() == [0] and "replaced" not in job.stderr()


def test_no_watchdog_outlives_a_killed_trainer_although_its_children_do(job) -> None:
    trainer = job.start("if os.fork() == 0:\n    time.sleep(3)\n    os._exit(0)\ntake_steps(1, 100_000)")
    until(lambda: job.record()["step"] > 5)
    watchdog = job.watchdog()
    trainer.kill()
    until(lambda: (stat := process_stat(watchdog)) is None or stat.state == "Z", 3)
    assert len(job.members()) == 1  # the child that holds copies of the trainer's ends


def test_a_reader_never_takes_half_a_heartbeat() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    assert read_heartbeat(memory) is None
    if (writer := os.fork()) == 0:
        for n in range(1, 10_000_000):
            write_heartbeat(memory, Heartbeat(n, float(n), float(n), n, n, "step", f"section {n}"))
    try:
        last, seen = 0, set()
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            if (beat := read_heartbeat(memory)) is None:
                continue  # both slots were being written
            assert beat.since == beat.step == beat.beats == beat.number and beat.section == f"section {beat.number}"
            assert beat.number >= last - 1  # the newest may be half written, the one before is whole
            last = beat.number
            seen.add(last)
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert len(seen) > 10
    half = bytearray(memory[:])
    newest = read_heartbeat(memory)
    assert newest is not None
    at = 128 * (newest.number & 1)
    half[at + 60] ^= 1  # a trainer stopped in the middle of a write
    memory[:] = bytes(half)
    older = read_heartbeat(memory)
    assert older is not None and older.number == newest.number - 1
