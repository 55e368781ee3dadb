"""`jadeberta status` asked on the login node while a job starts up, trains, waits for another attempt and has ended."""

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.slurm_runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def shown(run: Run) -> str:
    """The table, as the login node prints it."""
    return " ".join(run.cluster.run(sys.executable, "-m", "jadeberta", "status", run.directory).split())


def queried(run: Run) -> dict:
    return json.loads(run.cluster.run(sys.executable, "-m", "jadeberta", "status", run.directory, "--json"))


@pytest.mark.long
def test_status_follows_a_job_from_its_start_over_a_requeue_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, training={"max_steps": 50_000, "global_batch_size": 8})
    job = run.submit(2, 1, "--job-name=two nodes", "--exclude=node4", REST="600")
    run.until("the job has begun", lambda: run.attempts)
    first = queried(run)
    assert (first["state"], first["attempts"], first["slurm"]["state"]) == ("starting up", [], "RUNNING")

    run.until_step(7)
    running = queried(run)
    seen = {
        key: running["slurm"][key] for key in ("job", "name", "state", "partition", "hosts", "restarts", "attempts", "excluded")
    }
    assert running["state"] == "running" and seen == {
        "job": job, "name": "two nodes", "state": "RUNNING", "partition": "gpu", "hosts": "node[1-2]", "restarts": 0, "attempts": 1,
        "excluded": "node4",
    }  # fmt: skip
    assert 0 < running["slurm"]["limit_in_s"] <= running["slurm"]["limit_s"] == 3600
    assert running["ahead"]["next_save_step"] > running["step"] >= 7 and running["ahead"]["next_save_step"] % 5 == 0
    table = shown(run)
    for text in (
        "state running",
        f"job {job} two nodes in gpu",
        "in Slurm RUNNING on node[1-2]",
        "time limit in",
        "next save step",
    ):
        assert text in table

    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.wait(job, "PENDING")  # nobody hurries it: Slurm itself lets it rest for two minutes
    queued = queried(run)
    assert (queued["state"], queued["slurm"]["reason"], queued["slurm"]["hosts"]) == ("queued", "BeginTime", "")
    assert queued["slurm"]["starts_in_s"] > 30
    assert [(end["action"], end["status"]) for end in queued["slurm"]["ends"]] == [("requeue", 11)]
    assert "in Slurm PENDING (BeginTime), expected to start in" in shown(run)

    cluster.restart_soon(job)
    run.until("another attempt has begun", lambda: len(run.attempts) == 2)
    assert queried(run)["state"] == "starting up"
    run.until_step(1, attempt=1)
    again = queried(run)
    assert (again["state"], again["slurm"]["restarts"], again["slurm"]["attempts"]) == ("running", 1, 2)

    (run.directory / "STOP").touch()
    run.until_ended(job, "FAILED")
    over = queried(run)
    assert (over["state"], over["slurm"]["state"], over["slurm"]["works"]) == ("stopped", "FAILED", False)
    assert "because status 10: " in shown(run) and "next save" not in shown(run)

    # A host that has no Slurm still has the files.
    ask = ("env", f"PATH={tmp_path}", sys.executable, "-m", "jadeberta", "status", run.directory)
    assert "scontrol is not on this host" in cluster.run(*ask) and "stopped" in cluster.run(*ask)
