"""A training job on a real Slurm of virtual nodes: whatever happens to it, it goes on as promised, or ends and says why.

The scripts of slurm/ are submitted as they stand. `unbroken` is the same run by two ranks of this machine that nobody touches.
"""

import sys
import time
from pathlib import Path

import orjson
import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.slurm_runs import Run, unbroken
from tests.helpers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PACED = """
import time
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
unpaced = TrainingEngine.step
def step(engine, *told):
    begun = time.monotonic()
    result = unpaced(engine, *told)
    time.sleep(max(0.0, 1.0 - (time.monotonic() - begun)))
    return result
TrainingEngine.step = step
main()
"""
"""jadeberta with steps of at least a second, on a machine of any speed."""


@pytest.fixture(scope="module")
def reference(slurm: Cluster, tmp_path_factory) -> Run:
    """Sixty steps by two ranks."""
    return unbroken(Run(slurm, tmp_path_factory.mktemp("reference")), ranks=2)


def same_run(run: Run, reference: Run) -> bool:
    return run.trained() == reference.trained() and run.weights() == reference.weights()


@pytest.mark.long
def test_two_nodes_of_two_gpus_train_to_the_end(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path / "with a space", training={"max_steps": 6, "global_batch_size": 8})
    job = run.submit(nodes=2, tasks=2, REPORT="3600")
    run.until_ended(job, "COMPLETED")
    assert run.done and "4 ranks (srun)" in run.printed
    # The page is written at the end of the attempt, and knows the decision.
    page = (run.directory / "report.html").read_text()
    assert '"level":"done"' in page and "decision: finish" in page
    assert [(e["action"], e["status"]) for e in run.endings] == [("finish", 0)]
    assert run.attempts[0]["hosts"] == ["node1", "node2"] and run.attempts[0]["job"] == job


@pytest.mark.long
def test_a_job_without_the_callers_environment_trains_and_two_share_a_node(cluster: Cluster, tmp_path: Path) -> None:
    runs = [Run(cluster, tmp_path, name, training={"max_steps": 4, "global_batch_size": 8}) for name in ("one", "two")]
    jobs = []
    for run in runs:
        given = f"RECIPE={run.recipe},RUN_DIR={run.directory},SHARDS={run.shards},PREFLIGHT=no,OMP_NUM_THREADS=1"
        # Without ALL nothing of the environment reaches the job, not even PATH; the last --export is the one that counts.
        jobs.append(run.submit(1, 2, "--nodelist=node1", f"--export={given}"))
    for run, job in zip(runs, jobs, strict=True):
        run.until_ended(job, "COMPLETED")
        assert run.done and "2 ranks (srun)" in run.printed


@pytest.mark.long
def test_tasks_of_a_job_array_have_run_directories_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, training={"max_steps": 3, "global_batch_size": 8})
    job = run.submit(1, 1, "--array=1-2", RUN_DIR=f"{tmp_path}/seed-%a", EXTRA="--training.seed %a")
    dirs = [tmp_path / "seed-1", tmp_path / "seed-2"]
    run.until("both are done", lambda: all((d / "DONE").exists() for d in dirs))
    seeds = [(d / "recipe.yaml").read_text().count(f"seed: {n}\n") for n, d in enumerate(dirs, 1)]
    assert seeds == [1, 1] and job > 0


def test_a_lost_node_costs_the_steps_since_the_last_save_and_nothing_else(
    cluster: Cluster, reference: Run, tmp_path: Path
) -> None:
    """Once in the middle of the steps, and once in the middle of a save; the second time it is the host of the batch script."""
    run = Run(cluster, tmp_path)
    job = run.submit()
    run.until_step(12)
    cluster.tool("kill-node", "node2", "--tell")
    run.until_step(18, attempt=1)
    hosts = run.attempts[1]["hosts"]
    assert "node2" not in hosts and len(hosts) == 2
    checkpoints = run.directory / "checkpoints"
    run.until("a save is being written", lambda: any(checkpoints.glob("*.tmp")), every=0.004)
    cluster.tool("kill-node", hosts[0], "--tell")
    cluster.tool("start-node", "node2")
    run.until_ended(job, "COMPLETED")
    assert run.done and same_run(run, reference)
    assert len(run.attempts) == 3 and hosts[0] not in run.attempts[2]["hosts"]


@pytest.mark.long
def test_a_cut_cable_is_found_by_the_watchdog_and_the_job_goes_on_elsewhere(
    cluster: Cluster, reference: Run, tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path)
    job = run.submit(REST="15")
    run.until_step(12)
    cluster.tool("cut-node", "node2")
    run.until("another attempt has begun", lambda: len(run.attempts) == 2)
    assert "node2" not in run.attempts[1]["hosts"]
    # The cut may come when node2 has the sum of an all-reduce and node1 has not: then the rank on node1 is behind, and is blamed too.
    assert run.endings[0]["action"] == "requeue" and set(run.endings[0]["excluded"]) in ({"node2"}, {"node1", "node2"})
    run.until_ended(job, "COMPLETED")
    assert run.done and same_run(run, reference)


def test_a_run_that_gets_the_signal_before_its_time_limit_saves_and_requeues_itself_and_loses_no_step(
    cluster: Cluster, reference: Run, tmp_path: Path
) -> None:
    """The signal that Slurm sends before the limit comes from scancel here; the next test waits for a real limit."""
    run = Run(cluster, tmp_path)
    job = run.submit()
    run.until_step(7)
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    run.until_ended(job, "COMPLETED")
    assert [e["action"] for e in run.endings] == ["requeue", "finish"]
    assert [m["step"] for m in run.metrics] == list(range(1, 61)) and same_run(run, reference)


@pytest.mark.long
def test_a_run_longer_than_the_time_limit_takes_several_attempts_and_loses_no_step(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm's shortest limit is a minute, and the signal comes about half a minute before. 70 steps of a second do not fit."""
    python = tmp_path / "python"
    (tmp_path / "paced.py").write_text(PACED)
    paced = f"shift 3; PYTHONPATH={ROOT} exec {sys.executable} {tmp_path}/paced.py pretrain"
    python.write_text(f'#!/bin/bash\nif [ "$3" = pretrain ]; then {paced} "$@"; fi\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = Run(cluster, tmp_path, training={"max_steps": 70, "global_batch_size": 4}, checkpoint={"every_steps": 1000})
    job = run.submit(2, 1, "--time=1", "--signal=B:USR1@10", PYTHON=str(python))
    run.until_ended(job, "COMPLETED", timeout=700)
    assert run.done and len(run.attempts) >= 2
    assert {e["action"] for e in run.endings[:-1]} == {"requeue"}
    assert [m["step"] for m in run.metrics] == list(range(1, 71))


@pytest.mark.long
def test_ranks_that_do_not_end_in_time_are_given_up_before_the_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm requeues no job that ran into its limit. The ranks are played by a program that takes no USR1, like a save that hangs."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\nif [ "$3" = pretrain ]; then trap \'\' USR1; sleep 300; fi\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = Run(cluster, tmp_path)
    job = run.submit(1, 1, "--time=1", "--signal=B:USR1@10", PYTHON=str(python))
    run.until("the first attempt has ended", lambda: len(run.endings) == 1)
    assert (run.endings[0]["action"], run.endings[0]["status"]) == ("requeue", 137)
    run.until("the second has begun", lambda: len(run.attempts) == 2)
    assert cluster.job(job)["Restarts"] == "1"


@pytest.mark.long
def test_a_preempted_job_saves_and_goes_on_when_its_turn_comes(cluster: Cluster, reference: Run, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    job = run.submit(nodes=2)
    run.until_step(7)
    hosts = f"--nodelist={','.join(run.attempts[0]['hosts'])}"
    urgent = cluster.sbatch("--partition=urgent", "--nodes=2", hosts, "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    cluster.wait(urgent, "RUNNING", "COMPLETED")
    run.until_ended(job, "COMPLETED")
    assert run.done and same_run(run, reference) and len(run.attempts) == 2
    made = [m["step"] for m in run.metrics]
    assert len(made) == len(set(made)), "it had saved before it went"


@pytest.mark.long
def test_a_controller_that_dies_and_comes_back_costs_nothing(cluster: Cluster, reference: Run, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    job = run.submit()
    run.until_step(3)
    controller = cluster.tool("on", "head", "pgrep", "-x", "slurmctld")
    time.sleep(4)  # it saves its state every few seconds
    cluster.tool("on", "head", "kill", "-9", controller)
    try:
        run.until("the run is done without it", lambda: run.done)
    finally:
        cluster.tool("on", "head", "slurmctld")
    run.until_ended(job, "COMPLETED")
    assert run.done and same_run(run, reference) and len(run.attempts) == 1


def test_a_cancelled_job_saves_and_does_not_come_back(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, training={"max_steps": 5000})
    job = run.submit()
    run.until_step(7)
    cluster.run("scancel", job)
    run.until_ended(job, "CANCELLED")
    run.until("the ranks have saved", lambda: len(run.endings) == 1)
    assert run.endings[0]["action"] == "leave" and run.endings[0]["step"] == run.metrics[-1]["step"]
    assert cluster.job(job)["Restarts"] == "0" and not run.done


def test_a_job_that_crashes_at_its_start_three_times_stops_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\n[ "$3" != pretrain ] || exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = Run(cluster, tmp_path)
    job = run.submit(1, PYTHON=str(python))
    run.until_ended(job, "FAILED")
    assert [e["action"] for e in run.endings] == ["requeue", "requeue", "stop"]
    assert "3 attempts in a row ended without a newer checkpoint" in run.printed
    assert cluster.job(job)["ExitCode"] == "1:0"


def test_a_mistake_in_the_recipe_is_reported_once_and_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    job = run.submit(2, EXTRA="--training.global_batch_size 7")
    run.until_ended(job, "FAILED")
    assert cluster.job(job)["ExitCode"] == "2:0" and [e["action"] for e in run.endings] == ["stop"]
    assert run.printed.count("ConfigError: training.global_batch_size 7 does not divide over 2 ranks") == 1


@pytest.mark.long
def test_a_run_goes_on_with_other_numbers_of_nodes(cluster: Cluster, reference: Run, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    for nodes, step in ((2, 8), (1, 16), (4, 24)):
        job = run.submit(nodes)
        run.until_step(step, attempt=len(run.attempts))
        (run.directory / "STOP").touch()
        run.until_ended(job, "FAILED")
        assert cluster.job(job)["ExitCode"] == "10:0" and run.endings[-1]["action"] == "stop"
    run.until_ended(run.submit(2), "COMPLETED")
    assert [len(attempt["hosts"]) for attempt in run.attempts] == [2, 1, 4, 2]
    assert run.trained() == reference.trained()
    made = [m["step"] for m in run.metrics]
    assert made == list(range(1, 61))


@pytest.mark.long
def test_jobs_of_a_chain_follow_one_another_and_end_together(cluster: Cluster, reference: Run, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    chain = ("--job-name=chain", "--no-requeue", "--dependency=singleton")
    jobs = [run.submit(2, 1, *chain, NEXT="singleton") for _ in range(3)]
    run.until_step(7)
    cluster.run("scancel", "--batch", "--signal=USR1", jobs[0])
    run.until_ended(jobs[0], "FAILED")
    assert cluster.job(jobs[0])["ExitCode"] == "11:0" and run.endings[0]["action"] == "next"
    run.until_ended(jobs[1], "COMPLETED")
    assert run.done and same_run(run, reference)
    run.until_ended(jobs[2], "COMPLETED")  # finds the run done


@pytest.mark.long
def test_a_host_with_a_slow_link_is_found_before_the_first_step_and_excluded(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, training={"max_steps": 4, "global_batch_size": 12}, cluster={"drop_hosts": 1})
    cluster.tool("shape", "node2", "10mbit")
    job = run.submit(3, PREFLIGHT="yes")
    run.until_ended(job, "COMPLETED")
    assert run.done and "goes on without node2 on 2 ranks" in run.printed and "2 ranks (srun)" in run.printed
    assert list(orjson.loads((run.directory / "preflight.json").read_bytes())["unfit"]) == ["node2"]


@pytest.mark.long
def test_the_training_runs_inside_a_container(cluster: Cluster, tmp_path: Path) -> None:
    """Apptainer itself is not here: a stand-in takes its command line apart and runs the program outside."""
    stand_in = tmp_path / "bin" / "apptainer"
    stand_in.parent.mkdir()
    expected = "exec --nv --bind /data:/data my.sif"
    lines = [
        "#!/bin/bash",
        f'echo "$@" >>"{tmp_path}/calls"',
        f'[ "${{*:1:5}}" = "{expected}" ] || exit 9',
        "shift 5",
        'exec "$@"',
    ]
    stand_in.write_text("\n".join(lines) + "\n")
    stand_in.chmod(0o755)
    run = Run(cluster, tmp_path, training={"max_steps": 3, "global_batch_size": 8})
    path = f"{stand_in.parent}:/usr/bin:/bin:/usr/sbin"
    job = run.submit(2, 1, PATH=path, CONTAINER="apptainer:my.sif", BINDS="/data:/data")
    run.until_ended(job, "COMPLETED")
    calls = (tmp_path / "calls").read_text()
    assert (
        run.done
        and calls.count("-m jadeberta pretrain") == 2
        and [calls.count(f"lifecycle {w} ") for w in ("begin", "end")] == [1, 1]
    )
