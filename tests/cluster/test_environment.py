"""Each launcher's variables are recognised, and contradictions are refused with what was seen."""

import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.cluster.environment import FIRST_PORT, PORTS, Process, detect, host_name, launch_name, slurm_job
from jadeberta.errors import ConfigError
from jadeberta.jobs.local_launcher import rank_environment
from tests.helpers import ROOT

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16"}
RANK_3 = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    "env,expected",
    [
        ({}, Process("none", 0, 0, 1, "127.0.0.1", 0)),
        (RANK_3, Process("RANK and WORLD_SIZE", 3, 1, 4, "node1", 1234)),
        (RANK_3 | {"TORCHELASTIC_RUN_ID": "x"}, Process("torchrun", 3, 1, 4, "node1", 1234)),
        (rank_environment(1, 2, 1234, 8, "a"), Process("local", 1, 1, 2, "127.0.0.1", 1234)),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Process("mpirun (Open MPI)", 1, 1, 2, "127.0.0.1", 29500)),
        (OPEN_MPI | {"MASTER_ADDR": "node1", "MASTER_PORT": "99"}, Process("mpirun (Open MPI)", 1, 1, 2, "node1", 99)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, Process("mpirun (MPICH)", 1, 1, 2, "127.0.0.1", 29500)),
        (SLURM | {"MASTER_ADDR": "node1", "MASTER_PORT": "10007"}, Process("srun", 9, 1, 16, "node1", 10007)),
        # srun --mpi=pmi2 sets PMI's variables too; Slurm's are the ones that hold.
        (SLURM | {"PMI_RANK": "9", "PMI_SIZE": "16", "MASTER_ADDR": "node1"}, Process("srun", 9, 1, 16, "node1", 29500)),
        # Nobody set an address: it follows from Slurm's own variables, the port from the job.
        (SLURM | {"SLURM_JOB_NODELIST": "gpu-b[07,2],x"}, Process("srun", 9, 1, 16, "gpu-b07", 15007)),
        (
            SLURM | {"SLURM_JOB_ID": "34001", "SLURM_JOB_NODELIST": "a[1-3]", "SLURM_STEP_NODELIST": "a[2-3]"},
            Process("srun", 9, 1, 16, "a2", 15001),
        ),
        # Two steps of one job at the same time.
        (SLURM | {"SLURM_STEP_ID": "1", "SLURM_JOB_NODELIST": "x"}, Process("srun", 9, 1, 16, "x", 15007 + 4099)),
        # Addresses of the sixth version, also as a URL has them.
        (
            SLURM | {"MASTER_ADDR": "[::ffff:10.77.0.1]", "MASTER_PORT": "10007"},
            Process("srun", 9, 1, 16, "::ffff:10.77.0.1", 10007),
        ),
        # mpirun inside a job starts its helpers by srun, whose variables reach the ranks.
        (SLURM | OPEN_MPI | {"MASTER_ADDR": "node1"}, Process("mpirun (Open MPI)", 1, 1, 2, "node1", 29500)),
        (
            SLURM | {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MASTER_ADDR": "node1"},
            Process("mpirun (MPICH)", 1, 0, 2, "node1", 29500),
        ),
        # torchrun or the DeepSpeed launcher, one a node by srun or mpirun: the inner launcher's ranks count.
        (SLURM | RANK_3 | {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, Process("torchrun", 3, 1, 4, "node1", 1234)),
        (SLURM | RANK_3 | {"CROSS_SIZE": "2"}, Process("deepspeed", 3, 1, 4, "node1", 1234)),
        (OPEN_MPI | RANK_3 | {"LOCAL_WORLD_SIZE": "2"}, Process("RANK and WORLD_SIZE", 3, 1, 4, "node1", 1234)),
        # A script that translates Slurm's variables itself.
        (
            SLURM | {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "MASTER_ADDR": "node1"},
            Process("RANK and WORLD_SIZE", 9, 1, 16, "node1", 29500),
        ),
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
        ({"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "LOCAL_RANK=1 with RANK=0"),
        ({"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}, "not WORLD_SIZE"),
        (RANK_3 | {"MASTER_PORT": "http"}, "MASTER_PORT=http must be a whole number"),
        (RANK_3 | {"MASTER_PORT": "123456"}, "MASTER_PORT=123456"),
        (SLURM, "MASTER_ADDR and SLURM_STEP_NODELIST are not set"),
        (SLURM | {"SLURM_NTASKS": "many"}, "SLURM_NTASKS=many"),
        (SLURM | {"SLURM_JOB_NODELIST": "node[1-"}, "no list of hosts"),
        # Left over in the shell that submitted: every task would be rank 0 of a job of its own.
        (
            SLURM | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a"},
            "RANK=0, SLURM_PROCID=9, WORLD_SIZE=1, SLURM_NTASKS=16",
        ),
        (OPEN_MPI | RANK_3, "mpirun .*RANK=3, OMPI_COMM_WORLD_RANK=1, WORLD_SIZE=4, OMPI_COMM_WORLD_SIZE=2"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "not OMPI_COMM_WORLD_LOCAL_RANK"),
    ],
)
def test_a_contradiction_is_refused_with_what_was_seen(env, message) -> None:
    with pytest.raises(ConfigError, match=message):
        detect(env)


def test_two_mpiruns_on_one_machine_meet_at_different_ports() -> None:
    spaces = [OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": f"prterun-vm-{pid}@1"} for pid in (101, 102)]
    first, second = (detect(env) for env in spaces)
    assert first.master_port != second.master_port
    assert all(FIRST_PORT <= p.master_port < FIRST_PORT + PORTS for p in (first, second))


@pytest.mark.parametrize(
    "env,name",
    [
        (SLURM | {"SLURM_JOB_NODELIST": "x", "SLURM_RESTART_COUNT": "2"}, "job 7, step 0, start 2"),
        (RANK_3 | {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}, "id x, start 1"),
        (OPEN_MPI | {"MASTER_ADDR": "a", "PMIX_NAMESPACE": "prterun-vm-8@1"}, "prterun-vm-8@1"),
        (rank_environment(1, 2, 1234, 8, "a1b2"), "a1b2"),
        (RANK_3, ""),
        # srun --mpi=pmix has a namespace too; a launcher that it starts once a node gets it from there.
        (RANK_3 | {"CROSS_SIZE": "2", "PMIX_NAMESPACE": "slurm.pmix.7.0"}, ""),
    ],
)
def test_a_launch_has_the_name_that_its_launcher_gave_it(env, name) -> None:
    assert launch_name(env, detect(env)) == name


def test_the_books_name_the_job_and_its_hosts() -> None:
    env = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2", "SLURM_JOB_NAME": "large", "SLURM_JOB_NODELIST": "n[9-10]"}
    array = {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_PARTITION": "gpu"}
    assert slurm_job({}) == {}
    assert slurm_job(env | array) == {
        "job": 12, "array": "11_1", "restarts": 2, "name": "large", "partition": "gpu", "hosts": ["n9", "n10"],
    }  # fmt: skip


def run_local(code: str, ranks: int = 2) -> int:
    """Starts ranks whose `jadeberta` is a few lines of Python; the job's status."""
    setup = f"import sys; from jadeberta.jobs import local_launcher as local; local.COMMAND = [sys.executable, '-c', {code!r}]"
    driver = f"{setup}; sys.exit(local.launch({ranks}, []))"
    return subprocess.run([sys.executable, "-c", driver], cwd=ROOT, timeout=60).returncode


def test_when_one_rank_ends_badly_the_job_ends_with_its_status() -> None:
    code = "import os, sys, time; sys.exit(5) if os.environ['RANK'] == '1' else time.sleep(100)"
    assert run_local(code) == 5


def test_ranks_end_with_a_launcher_that_is_killed(tmp_path) -> None:
    code = "import os, sys, time; open(sys.argv[1] + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(100)"
    command = [sys.executable, "-c", code, str(tmp_path / "rank")]
    setup = f"from jadeberta.jobs import local_launcher as local; local.COMMAND = {command!r}"
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


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID"])
def test_a_host_has_slurms_name_except_under_mpirun_which_copies_the_environment_of_another_host(variable) -> None:
    env = {"SLURMD_NODENAME": "node7"}
    assert host_name(env) == "node7" and host_name(env | {"PMI_RANK": "0"}) == "node7"  # srun --mpi=pmi2
    assert host_name(env | {variable: "0"}) == host_name({}) == platform.node()
