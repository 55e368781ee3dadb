"""A rank that hangs, wherever it does, is found within its limit; the stacks are there, the host is named, the job ends with status 12."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import list_checkpoints, verify
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, start_ranks

STEP_LIMIT_S = 6
# The real command, in which rank 1 falls asleep in the forward pass of one step.
SLEEPER = """
import sys, time
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
forward = TrainingEngine.forward
def sleeping_beauty(self, micro_batch):
    self.count = getattr(self, "count", 0) + 1
    if self.process.rank == 1 and self.count == 6 * 5 + 3:
        time.sleep(1000)
    return forward(self, micro_batch)
TrainingEngine.forward = sleeping_beauty
sys.argv[0] = "jadeberta"
main()
"""


class Job:
    """Two ranks that train for longer than the test takes."""

    def __init__(self, folder: Path, *, driver: str = "", **changes: dict) -> None:
        shards = make_shards(folder / "shards", {"wikipedia": (20, 3)})
        defaults: dict[str, dict] = {
            "watchdog": {"step_s": STEP_LIMIT_S, "save_s": 8},
            "training": {"max_steps": 100_000},
            "checkpoint": {"every_steps": 100_000},
            "data": {"workers": 1, "prefetch": 1},
        }
        recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", **(defaults | changes))
        self.run, self._log = folder / "run", folder / "log"
        self.ranks = start_ranks(2, "pretrain", "--config", str(recipe), log=self._log, code=driver)

    @property
    def printed(self) -> str:
        return printed_by(self._log)

    def wait_for(self, what: str, seconds: float = 120) -> None:
        """Until a string is in the metrics or the ledger."""
        deadline = time.monotonic() + seconds
        files = [self.run / "metrics.jsonl", self.run / "ledger.jsonl"]
        while not any(what in f.read_text() for f in files if f.exists()):
            assert time.monotonic() < deadline and all(p.poll() is None for p in self.ranks), self.printed[-3000:]
            time.sleep(0.02)

    def child(self, rank: int, named: str) -> int:
        """A child process of a rank, by its command line."""
        for pid in Path(f"/proc/{self.ranks[rank].pid}/task/{self.ranks[rank].pid}/children").read_text().split():
            if named in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                return int(pid)
        raise AssertionError(f"rank {rank} has no child {named}")

    def loader(self, rank: int) -> int:
        """The loader process of a rank: the one that was forked and not started by a command of its own."""
        parent = Path(f"/proc/{self.ranks[rank].pid}/cmdline").read_bytes()
        children = Path(f"/proc/{self.ranks[rank].pid}/task/{self.ranks[rank].pid}/children").read_text().split()
        return next(int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == parent)

    def ended(self, seconds: float) -> list[int]:
        return [p.wait(seconds) for p in self.ranks]

    def hang(self) -> dict:
        (event,) = [row for row in read_jsonl(self.run / "ledger.jsonl") if row["event"] == "hang"]
        return event

    def stacks(self, rank: int) -> str:
        return (self.run / f"logs/stacks-rank-{rank:05d}.txt").read_text()

    def close(self) -> None:
        for p in self.ranks:
            p.kill()
            p.wait()


@pytest.fixture
def start(tmp_path):
    jobs: list[Job] = []

    def make(**options) -> Job:
        jobs.append(Job(tmp_path, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


def must_name(job: Job, rank: int) -> None:
    event = job.hang()
    assert (event["rank"], event["host"]) == (rank, socket.gethostname())
    printed = job.printed
    assert f"rank {rank} on {socket.gethostname()}" in printed
    for each in (0, 1):
        assert 'File "' in job.stacks(each), "no stacks"


@pytest.mark.slow
def test_a_rank_that_is_stopped_in_its_step_is_named_and_ends_the_job(start) -> None:
    job = start()
    job.wait_for('"step":20,')
    job.ranks[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    statuses = job.ended(STEP_LIMIT_S + 40)
    assert time.monotonic() - began < STEP_LIMIT_S + 30
    assert statuses[0] == 12 and statuses[1] in (12, -signal.SIGKILL)
    must_name(job, 1)


@pytest.mark.slow
def test_a_rank_that_sleeps_in_compute_is_named_though_the_other_waits_in_the_all_reduce(start) -> None:
    job = start(driver=SLEEPER)
    assert job.ended(150) == [12, 12]
    must_name(job, 1)
    assert job.hang()["place"].startswith("forward") and "sleeping_beauty" in job.stacks(1)
    assert "all_reduce" in job.stacks(0)


@pytest.mark.slow
def test_a_loader_that_is_stopped_is_found_and_its_rank_named(start) -> None:
    job = start()
    job.wait_for('"step":20,')
    os.kill(job.loader(0), signal.SIGSTOP)
    statuses = job.ended(STEP_LIMIT_S + 40)
    assert statuses[0] in (12, -signal.SIGKILL) and statuses[1] in (12, -signal.SIGKILL) and 12 in statuses
    must_name(job, 0)
    assert job.hang()["place"] == "data"


@pytest.mark.slow
def test_a_writer_that_is_stopped_in_a_save_costs_one_checkpoint_and_no_training(start) -> None:
    job = start(checkpoint={"every_steps": 20})
    job.wait_for('"event":"save"')
    os.kill(job.child(1, "checkpoint.writer"), signal.SIGSTOP)
    job.wait_for('"event":"save_failed"', 60)
    (job.run / "STOP").touch()
    assert job.ended(60) == [10, 10]
    rows = read_jsonl(job.run / "ledger.jsonl")
    failed = next(n for n, row in enumerate(rows) if row["event"] == "save_failed")
    assert any(row["event"] == "save" for row in rows[failed:]), "the next save did not try again"
    assert all(verify(directory) == [] for directory in list_checkpoints(job.run / "checkpoints"))
    assert not any("hang" in json.dumps(row["event"]) for row in rows)
    assert not list((job.run / "checkpoints").glob("*.tmp"))
