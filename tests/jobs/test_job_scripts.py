"""The scripts in launch/ and slurm/: every word of EXTRA arrives as it was given, and a job script outside a job says what to do."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT

LAUNCHERS = ["launch/local.sh", "launch/mpi.sh", "launch/torchrun.sh", "launch/deepspeed.sh"]
JOBS = ["pretrain_large.sh", "pretrain_base.sh", "preflight.sh", "scaling.sh", "finetune_jglue.sh", "shards.sh"]


@pytest.fixture
def called(tmp_path: Path):
    """Runs a script whose programs only write down their arguments; returns the arguments of each call."""
    program = tmp_path / "program"
    record = tmp_path / "calls"
    program.write_text(
        # One write a call: calls that run at the same time must not mix.
        f'#!/bin/sh\ncall="$(for word; do printf "%s\\037" "$word"; done; printf "\\n\\036")"\n'
        f'printf "%s" "$call" >> "{record}"\necho JobState=RUNNING\n'
    )
    program.chmod(0o755)
    for name in ("srun", "scontrol", "squeue", "sinfo", "scancel", "mpirun"):
        (tmp_path / name).symlink_to(program)

    def run(script: str, **settings: str) -> list[list[str]]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))}
        env |= {"PATH": f"{tmp_path}:{env['PATH']}", "PYTHON": str(program), "MPIRUN": str(tmp_path / "mpirun"), **settings}
        # In a directory with files that a bare * would name.
        subprocess.run(["bash", ROOT / script], env=env, cwd=tmp_path, capture_output=True, timeout=60)
        return [call.split("\037")[:-1] for call in record.read_text().split("\n\036")]

    return run


@pytest.mark.parametrize("script", [*LAUNCHERS, *(f"slurm/{job}" for job in JOBS)])
def test_every_line_of_extra_counts_and_no_word_is_taken_for_a_pattern(called, script) -> None:
    inside = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "1"}
    more = {"RECIPE": str(ROOT / "recipes/demo.yaml"), "RUN_DIR": "run", "PREFLIGHT": "no", "REST": "0"}
    words = ["--training.max_steps", "100", "--training.lr", "1e-3", "--data.repeats", "*"]
    calls = called(
        script,
        EXTRA="--training.max_steps 100\n--training.lr\t1e-3\n\n--data.repeats *\n",
        **(inside if "slurm" in script else {}),
        **more,
    )
    with_extra = [call for call in calls if "--training.max_steps" in call]
    assert with_extra
    for call in with_extra:
        first = call.index("--training.max_steps")
        assert call[first : first + len(words)] == words


@pytest.mark.parametrize("job", [*JOBS, "attempt.sh"])
def test_a_job_script_outside_a_job_says_how_it_is_submitted(job) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(["bash", ROOT / "slurm" / job], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"slurm/{job} is ") and ("sbatch slurm/" in done.stderr or "scaling run" in done.stderr)


def test_steps_of_one_job_get_different_ports_from_torchrun_and_deepspeed(called, tmp_path) -> None:
    (tmp_path / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    ports = set()
    for step in ("0", "1"):
        slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": step, "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NODEID": "1"}
        calls = called("launch/deepspeed.sh", HOSTFILE=str(tmp_path / "hosts"), **slurm)
        (call,) = [call for call in calls[-3:] if "--master_port" in call]
        ports.add(call[call.index("--master_port") + 1])
        calls = called("launch/torchrun.sh", NODES="2", **slurm)
        call = next(call for call in reversed(calls) if "--rdzv_endpoint" in call)
        ports.add(call[call.index("--rdzv_endpoint") + 1].rpartition(":")[2])
        assert call[call.index("--rdzv_id") + 1] == f"jadeberta-7-{step}"
    assert ports == {"15007", str(15007 + 4099)}


REPORTER = """#!/bin/bash
case "$*" in
    *'jobs.lifecycle end'*) echo 'finish 0 -' ;;
    *'jobs.lifecycle'*) ;;
    *'jadeberta report'*) echo "$*" >> reports; [ -z "$FAILS" ] || exec $FAILS ;;
    *'jadeberta pretrain'*) echo "$*" >> trained; sleep ${TRAINS:-0}; exit 3 ;;
esac
"""


@pytest.mark.parametrize(
    ("report", "fails", "written"), [("3600", "", 1), ("3600", "false", 1), ("1", "false", 2), ("0", "", 0), ("often", "", 0)]
)
def test_the_page_about_a_run_is_written_beside_the_training_and_never_fails_the_job(
    tmp_path: Path, report: str, fails: str, written: int
) -> None:
    programs = {"python": REPORTER, "srun": '#!/bin/sh\nshift\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'}
    programs |= dict.fromkeys(("scontrol", "squeue", "sinfo", "scancel"), "#!/bin/sh\necho JobState=RUNNING\n")
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "RECIPE": "r.yaml",
        "RUN_DIR": "a run",
        "SHARDS": "s",
    }
    settings = {"PREFLIGHT": "no", "NEXT": "none", "EXTRA": "", "CONTAINER": "", "BINDS": "", "PYTHON": str(tmp_path / "python")}
    more = {"REPORT": report, "FAILS": fails, "TRAINS": "1.4" if report == "1" else "0"}
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | job | settings | more
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(["bash", "slurm/attempt.sh"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, (tmp_path / "trained").read_text().count("\n")) == (0, 1), done.stderr
    reports = (tmp_path / "reports").read_text().splitlines() if (tmp_path / "reports").exists() else []
    assert reports == ["-m jadeberta report a run"] * written
    assert ("is no number of seconds" in done.stderr) == (report == "often")


def test_each_step_of_a_job_gets_the_cores_that_the_job_asked_for(tmp_path: Path) -> None:
    # srun itself does not take over --cpus-per-task.
    (tmp_path / "srun").write_text('#!/bin/sh\necho "${SRUN_CPUS_PER_TASK-none}" >> cores\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SRUN_"))}
    env |= {"PATH": f"{tmp_path}:{env['PATH']}", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_NTASKS": "1"}
    env |= {"PYTHON": "true", "RECIPE": "r", "RUN_DIR": "run", "EXTRA": ""}
    for asked, found in (
        ({"SLURM_CPUS_PER_TASK": "8"}, "8"),
        ({"SLURM_CPUS_PER_TASK": "8", "SRUN_CPUS_PER_TASK": "6"}, "6"),
        ({}, "none"),
    ):
        for job in ("preflight.sh", "scaling.sh", "finetune_jglue.sh", "shards.sh"):
            subprocess.run(["bash", f"slurm/{job}"], env=env | asked, cwd=tmp_path, capture_output=True, timeout=60)
            assert set((tmp_path / "cores").read_text().split()) == {found}, job
            (tmp_path / "cores").unlink()
    assert ". slurm/container.sh\n" in (ROOT / "slurm/attempt.sh").read_text()  # the jobs that train
