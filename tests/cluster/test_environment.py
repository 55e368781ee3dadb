"""Each launcher's variables are recognised, and contradictions are refused with what was seen."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.cluster.environment import Process, detect
from jadeberta.errors import ConfigError
from tests.helpers import ROOT

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    "env,expected",
    [
        ({}, Process("none", 0, 0, 1, "127.0.0.1", 0)),
        (
            {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"},
            Process("torchrun", 3, 1, 4, "node1", 1234),
        ),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Process("mpirun (Open MPI)", 1, 1, 2, "127.0.0.1", 29500)),
        (OPEN_MPI | {"MASTER_ADDR": "node1", "MASTER_PORT": "99"}, Process("mpirun (Open MPI)", 1, 1, 2, "node1", 99)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, Process("mpirun (MPICH)", 1, 1, 2, "127.0.0.1", 29500)),
        (SLURM | {"MASTER_ADDR": "node1", "MASTER_PORT": "10007"}, Process("srun", 9, 1, 16, "node1", 10007)),
        # srun --mpi=pmix sets PMI's variables too; Slurm's are the ones that hold.
        (SLURM | {"PMI_RANK": "9", "PMI_SIZE": "16", "MASTER_ADDR": "node1"}, Process("srun", 9, 1, 16, "node1", 29500)),
        # A shell of salloc or the batch step is one process, whatever the allocation holds.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, Process("none", 0, 0, 1, "127.0.0.1", 0)),
    ],
)
def test_a_launcher_is_recognised_by_its_variables(env, expected) -> None:
    assert detect(env) == expected


@pytest.mark.parametrize(
    "env,message",
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "LOCAL_RANK"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "RANK=2 with WORLD_SIZE=2"),
        ({"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "RANK=x"),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "several machines"),
        (SLURM, "MASTER_ADDR is not set"),
    ],
)
def test_a_contradiction_is_refused_with_what_was_seen(env, message) -> None:
    with pytest.raises(ConfigError, match=message):
        detect(env)


def run_local(code: str, ranks: int = 2) -> int:
    """Starts ranks whose `jadeberta` is a few lines of Python; the job's status."""
    setup = f"import sys; from jadeberta.cluster import local; local.COMMAND = [sys.executable, '-c', {code!r}]"
    driver = f"{setup}; sys.exit(local.launch({ranks}, []))"
    return subprocess.run([sys.executable, "-c", driver], cwd=ROOT, timeout=60).returncode


def test_when_one_rank_ends_badly_the_job_ends_with_its_status() -> None:
    code = "import os, sys, time; sys.exit(5) if os.environ['RANK'] == '1' else time.sleep(100)"
    assert run_local(code) == 5


def test_ranks_end_with_a_launcher_that_is_killed(tmp_path) -> None:
    code = "import os, sys, time; open(sys.argv[1] + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(100)"
    setup = (
        f"from jadeberta.cluster import local; local.COMMAND = [{sys.executable!r}, '-c', {code!r}, {str(tmp_path / 'rank')!r}]"
    )
    launcher = subprocess.Popen([sys.executable, "-c", f"{setup}; local.launch(2, [])"], cwd=ROOT)
    files = [tmp_path / "rank0", tmp_path / "rank1"]
    deadline = time.monotonic() + 60
    while not all(f.exists() and f.read_text() for f in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    while any(is_alive(int(f.read_text())) for f in files):
        assert time.monotonic() < deadline, "a rank outlived its launcher"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_when_every_rank_ends_well_so_does_the_job() -> None:
    assert run_local("import os; assert os.environ['WORLD_SIZE'] == '3'", ranks=3) == 0
