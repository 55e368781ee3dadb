"""`slurm/preflight.sh`, submitted as it stands to the virtual Slurm, names the host that is wrong and no other."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.slurm_runs import Run
from tests.helpers import ROOT

PYTHON = ROOT / ".venv" / "bin" / "python"


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Run:
    return Run(cluster, tmp_path, "a run")


def submit(run: Run, python: str = "", nodes: int = 4, **settings: str) -> int:
    """`python` is shell code that runs on every host before the interpreter. The hosts share this machine's cores with other tests, so the
    speed of their devices tells nothing."""
    settings["EXTRA"] = f"--siblings 0.01 {settings.get('EXTRA', '')}"
    wrapper = run.work / "python.sh"
    wrapper.write_text(f'#!/bin/bash\nNODE=$SLURMD_NODENAME\n{python}\nexec {PYTHON} "$@"\n')
    wrapper.chmod(0o755)
    return run.submit(nodes, 1, script="slurm/preflight.sh", PYTHON=str(wrapper), **settings)


def told(run: Run) -> dict[str, Any]:
    return orjson.loads((run.directory / "preflight.json").read_bytes())


def test_four_healthy_hosts_are_fit_in_less_than_a_minute(run) -> None:
    run.until_ended(submit(run), "COMPLETED")
    report = told(run)
    assert report["fit"] and report["took_s"] < 60, report
    assert [row["host"] for row in report["hosts"]] == ["node1", "node2", "node3", "node4"]
    assert len(report["pairs"]) >= 6 and report["rounds"] == {"played": 3, "of": 3}
    assert report["constants"]["ranks"] == 4 and report["constants"]["bandwidth_bytes_per_s"] > 0
    assert all(abs(row["clock_offset_s"]) < 0.5 for row in report["hosts"])  # it is one machine's clock
    assert "fit: 4 hosts, 4 ranks" in run.printed


@pytest.mark.long
def test_a_host_with_a_slow_link_is_named_and_not_its_partners(run) -> None:
    run.cluster.tool("shape", "node3", "20mbit")
    run.until_ended(submit(run), "FAILED")
    report = told(run)
    # Another host may be slow at something else where the machine has other work; none may be named for its link to node3.
    assert not [reasons for host, reasons in report["unfit"].items() if host != "node3" and "link" in " ".join(reasons)], report
    assert report["common"] == []
    assert "its fastest link to another host" in report["unfit"]["node3"][0]
    # Of four ranks on a ring one passes 3/4 of the bytes twice through its 2.5 MB/s.
    assert 1e6 < report["constants"]["bandwidth_bytes_per_s"] < 4e6
    assert report["took_s"] < 60


@pytest.mark.long
def test_a_host_with_another_version_is_named(run) -> None:
    fake = run.work / "other" / "safetensors-0.1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.1.0\n")
    run.until_ended(submit(run, f"[ $NODE != node2 ] || export PYTHONPATH={fake.parent}"), "FAILED")
    report = told(run)
    assert report["unfit"].keys() == {"node2"} and report["common"] == []
    assert report["unfit"]["node2"][0].startswith("safetensors: 0.1.0 here, ")


def test_hosts_with_a_full_disk_are_named_whether_it_is_the_node_s_own_or_mounted_over_the_shared_one(run) -> None:
    scratch = run.work / "scratch"
    scratch.mkdir()
    run.directory.mkdir()
    for node, where in (("node4", scratch), ("node2", run.directory)):
        run.cluster.tool("on", node, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where)
    try:
        run.until_ended(submit(run, EXTRA=f"--checkpoint.staging {scratch}"), "FAILED")
    finally:
        for node, where in (("node4", scratch), ("node2", run.directory)):
            run.cluster.tool("on", node, "umount", where)
    report = told(run)
    assert report["unfit"].keys() == {"node2", "node4"} and report["common"] == []
    assert f"checkpoint.staging {scratch}: 0.00 GiB are free" in report["unfit"]["node4"][0]
    assert "run.dir" in report["unfit"]["node2"][0]


@pytest.mark.long
def test_a_host_that_cannot_be_reached_is_named_while_slurm_does_not_know_yet(run) -> None:
    started = run.work / "started"
    job = submit(run, f"[ $NODE != node3 ] || {{ touch {started}; sleep 2; }}")
    run.until("the task on node3 runs", started.exists)
    run.cluster.tool("cut-node", "node3")
    cut = time.monotonic()
    run.until("a verdict", (run.directory / "preflight.json").exists)
    assert time.monotonic() - cut < 60
    report = told(run)
    assert report["unfit"].keys() == {"node3"} and report["common"] == []
    assert "rank 2 finished its local checks but did not reach rank 0 within 30 s" in report["unfit"]["node3"][0]
    assert report["constants"]["ranks"] == 3  # of the others
    # Every rank ends, also the one on the host that nobody reaches; what Slurm makes of such a host is its own affair.
    run.until("no rank is left", lambda: not any(is_busy(run.cluster, f"node{n}") for n in (1, 2, 3, 4)), timeout=30)
    run.cluster.tool("kill-node", "node3", "--tell")
    run.until_ended(job, "FAILED", "NODE_FAIL")


def is_busy(cluster: Cluster, node: str) -> bool:
    """Whether a rank runs on a node; srun, on the first one, waits longer."""
    return any(
        line.startswith(f"{PYTHON} -m jadeberta preflight") for line in cluster.tool("on", node, "ps", "-eo", "args").splitlines()
    )


@pytest.mark.long
def test_a_host_on_which_the_program_does_not_start_is_named(run) -> None:
    run.until_ended(submit(run, "[ $NODE != node4 ] || exit 126", EXTRA="--patience 15"), "FAILED")
    report = told(run)
    assert report["unfit"] == {"node4": ["rank 3 has not appeared within 15 s"]} and report["common"] == []
