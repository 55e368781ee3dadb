"""Slow ranks on a real Slurm of virtual nodes: a stopped core, a slow disk and a slow link are told apart, and a host is left out."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from jadeberta.utils.json_lines import read_jsonl
from tests.cluster.conftest import Cluster
from tests.cluster.slurm_runs import SETTING, Run
from tests.helpers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
SLOW = SETTING["watchdog"] | {"slow_rank_s": 8.0}
"""Windows of two seconds."""
WITH_SLOW_DISK = """
import contextlib, os, socket, time
from pathlib import Path
from jadeberta.cli import main
from jadeberta.shards.reader import ShardReader
fast = ShardReader.rows_with_words
def read(reader, *told):
    with contextlib.suppress(OSError):
        time.sleep(0.1 * (Path(os.environ["SLOW_DISK"]).read_text() == socket.gethostname()))
    return fast(reader, *told)
ShardReader.rows_with_words = read
main()
"""
"""jadeberta whose reads of shards take longer on the host whose name stands in the file SLOW_DISK, while it does."""


@contextlib.contextmanager
def stopped_core(run: Run, rank: int, node: str) -> Iterator[None]:
    """Stops a rank for most of the time, as a core does that others use or that is throttled."""
    pid = orjson.loads((run.directory / f"heartbeat/rank-{rank:05d}.json").read_bytes())["pid"]
    flag = run.work / "bursts"
    flag.touch()
    bursts = f"while [ -e '{flag}' ] && kill -STOP {pid}; do sleep 0.08; kill -CONT {pid}; sleep 0.02; done 2>/dev/null"
    thread = threading.Thread(
        target=run.cluster.tool, args=("on", node, "bash", "-c", bursts), kwargs={"timeout": 400, "check": False}
    )
    thread.start()
    try:
        yield
    finally:
        flag.unlink()
        thread.join()


def paces(run: Run) -> list[dict]:
    return read_jsonl(run.directory / "ranks.jsonl")


def until_named(run: Run, host: str | None, cause: str) -> None:
    """Until two rows after each other name a host with a cause, or the network and no host."""
    before = len(paces(run))

    def named() -> bool:
        found = []
        for row in paces(run)[before:][-2:]:
            slow = row["waits_for"] or {}
            found.append(
                bool(row["network"]) and not slow if host is None else (slow.get("host"), slow.get("cause")) == (host, cause)
            )
        return found == [True, True]

    try:
        run.until(f"{cause} on {host}", named, timeout=90)
    except AssertionError as e:
        raise AssertionError(f"{e}\n{paces(run)[-3:]}") from None


def test_a_stopped_core_a_slow_disk_and_a_slow_link_are_told_apart(cluster: Cluster, tmp_path: Path) -> None:
    python, disk = tmp_path / "python", tmp_path / "slow-disk"
    (tmp_path / "slow.py").write_text(WITH_SLOW_DISK)
    program = f"shift 3; PYTHONPATH={ROOT} exec {sys.executable} {tmp_path}/slow.py pretrain"
    python.write_text(f'#!/bin/bash\nif [ "$3" = pretrain ]; then {program} "$@"; fi\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = Run(
        cluster,
        tmp_path,
        model={"intermediate_size": 2048},
        training={"max_steps": 100_000},
        checkpoint={"every_steps": 100_000},
        watchdog=SLOW,
    )
    job = run.submit(PYTHON=str(python), SLOW_DISK=str(disk))
    run.until_step(3)

    def status(*options: str) -> str:
        return cluster.run(sys.executable, "-m", "jadeberta", "status", run.directory, *options)

    with stopped_core(run, 1, "node2"):
        until_named(run, "node2", "compute")
        assert "SLOW: rank 1 on node2: the others wait" in status() and "because it computes more slowly" in status()
    disk.write_text("node1")
    until_named(run, "node1", "data")
    assert orjson.loads(status("--json"))["waits_for"]["host"] == "node1"
    disk.unlink()
    cluster.tool("shape", "node2", "5mbit")
    until_named(run, None, "the network")
    assert "SLOW: the network between node1, node2: all ranks wait" in status()
    cluster.tool("shape", "node2", "off")
    (run.directory / "STOP").touch()
    run.until_ended(job, "FAILED")
    assert run.endings[-1]["action"] == "stop" and run.endings[-1]["blamed"] == [], "by default it is reported, and that is all"
    cluster.run(sys.executable, "-m", "jadeberta", "report", run.directory)
    page = (run.directory / "report.html").read_text()
    assert "<td>node2</td><td>1</td><td>it computes more slowly</td>" in page
    assert "<td>node1</td><td>0</td><td>it waits longer for its data</td>" in page and "<td>node1, node2</td>" in page


def test_a_run_that_may_goes_on_without_the_host_of_a_slow_rank_and_loses_no_step(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, training={"max_steps": 150}, watchdog=SLOW | {"slow_rank": "requeue"})
    job = run.submit()
    run.until_step(3)
    with stopped_core(run, 1, "node2"):
        run.until("the job is requeued", lambda: len(run.endings) == 1, timeout=120)
    ending = run.endings[0]
    assert (ending["action"], ending["status"], ending["blamed"], ending["excluded"]) == ("requeue", 11, ["node2"], ["node2"])
    assert "watchdog.slow_rank (rank 1 on node2) asked to end at step" in ending["reason"]
    (event,) = (row for row in read_jsonl(run.directory / "ledger.jsonl") if row["event"] == "slow_rank")
    assert (event["host"], event["cause"], event["requeue"]) == ("node2", "compute", True)
    assert "asks for another attempt without node2" in run.printed
    run.until_ended(job, "COMPLETED")
    assert run.done and "node2" not in run.attempts[1]["hosts"] and len(run.attempts) == 2
    assert [m["step"] for m in run.metrics] == list(range(1, 151))
