"""What Slurm prints of jobs, read: the lines of scontrol.txt are its own, of a cluster of virtual nodes."""

import stat
import time
from pathlib import Path

import pytest

from jadeberta.cluster.slurm import find_next_job, parse_job, query_job
from tests.helpers import ROOT

PRINTED = (ROOT / "tests" / "cluster" / "scontrol.txt").read_text()


@pytest.mark.parametrize(
    ("job", "array", "name", "state", "reason", "hosts", "excluded", "restarts"),
    [
        (1, None, "large run", "RUNNING", "", "node[1-2]", "", 0),
        (2, "2_3", "wrap", "PENDING", "JobArrayTaskLimit", "", "node1", 0),
        (3, None, "wrap", "PENDING", "Resources", "", "", 0),
        (4, None, "chain", "CANCELLED", "", "", "", 0),
        (5, None, "chain", "PENDING", "Dependency", "", "", 0),
        (7, "2_2", "wrap", "RUNNING", "", "node2", "node1", 0),
        (8, None, "wrap", "RUNNING", "", "node1", "", 0),
        (9, None, "wrap", "FAILED", "", "node1", "", 0),
        (10, None, "large run", "PENDING", "BeginTime", "", "node3", 1),
    ],
)
def test_a_job_is_read_from_what_scontrol_prints(job, array, name, state, reason, hosts, excluded, restarts) -> None:
    found = parse_job(PRINTED, job)
    seen = (found.array, found.name, found.state, found.reason, found.hosts, found.excluded, found.restarts)
    assert seen == (array, name, state, reason, hosts, excluded, restarts)
    assert found.partition == "gpu" and (found.works, found.waits) == (state == "RUNNING", state == "PENDING")


def test_times_are_the_local_ones_and_missing_where_slurm_knows_none() -> None:
    running, waiting, unlimited, unknown = (parse_job(PRINTED, job) for job in (1, 3, 8, 5))
    assert running.ends - running.starts == 3600
    assert time.strftime("%FT%T", time.localtime(running.starts)) == "2026-11-23T02:05:16"
    assert waiting.starts == running.ends, "it waits for the nodes of the other"
    assert unlimited.starts is not None and unlimited.ends is None
    assert unknown.starts is None and unknown.ends is None


def test_a_job_that_is_not_named_is_none() -> None:
    assert parse_job(PRINTED, 99) is None and parse_job("", 1) is None and parse_job("No jobs in the system\n", 1) is None


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Stands for Slurm's programs: {name: shell script}; each call is noted with its words."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(**scripts: str) -> Path:
        for name, script in scripts.items():
            program = tmp_path / name
            program.write_text(f'#!/bin/bash\necho "{name} $*" >>"{tmp_path}/calls"\n{script}\n')
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return tmp_path / "calls"

    return install


def test_slurm_is_asked_once_for_one_job(commands) -> None:
    calls = commands(scontrol=f"cat '{ROOT}/tests/cluster/scontrol.txt'")
    answer = query_job(7)
    assert answer.job == parse_job(PRINTED, 7) and answer.why == ""
    assert calls.read_text() == "scontrol show job -o 7\n"


def test_a_job_that_slurm_has_forgotten_is_told_apart_from_a_slurm_that_is_gone(commands) -> None:
    commands(scontrol="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    forgotten = query_job(12)
    assert forgotten.forgotten and forgotten.why == "Slurm has forgotten job 12; it ended some time ago."
    commands(scontrol="echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    gone = query_job(12)
    assert not gone.forgotten and gone.why.startswith("Slurm does not answer: ") and "connect failure" in gone.why


def test_a_controller_that_says_nothing_is_not_waited_for(commands) -> None:
    commands(scontrol="exec sleep 60")
    began = time.monotonic()
    assert query_job(12, timeout=0.5).why == "Slurm did not answer in 0.5 s."
    assert time.monotonic() - began < 30


def test_without_slurm_there_is_a_sentence(commands, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = query_job(12)
    assert answer.job is None and "scontrol is not on this host" in answer.why


def test_in_a_chain_the_next_job_of_the_name_is_the_one_that_goes_on(commands) -> None:
    calls = commands(squeue="echo 3; echo 10; echo 5", scontrol=f"cat '{ROOT}/tests/cluster/scontrol.txt'")
    assert find_next_job("chain", after=3) == parse_job(PRINTED, 5)
    assert "--me --name=chain --states=PENDING,RUNNING" in calls.read_text()
    assert find_next_job("chain", after=10) is None
