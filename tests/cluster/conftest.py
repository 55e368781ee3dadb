"""A real Slurm of virtual nodes for the tests of this folder; where it cannot be had they skip and say why."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

TOOL = ROOT / "tests" / "cluster" / "devcluster.sh"
NODES, GPUS = 4, 4
PREEMPTION = "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\nPartitionName=urgent Nodes=ALL PriorityTier=10 State=UP"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE")


class Cluster:
    """slurmctld and slurmd, nodes node1..node4 with four fake GPUs each, and a head node that jobs are submitted from."""

    def __init__(self, directory: Path, **variables: str) -> None:
        """Starts nothing. `directory` must be short: Unix sockets lie in it."""
        self.directory = directory
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "OMPI_", "PMI"))}
        self.env |= {"DEVCLUSTER_DIR": str(directory), **variables}

    def tool(self, *arguments: object, timeout: float = 60, check: bool = True, cwd: Path = ROOT, **variables: str) -> str:
        """Runs a verb of devcluster.sh; its output without the last newline. Raises AssertionError where it fails."""
        command = [str(TOOL), *map(str, arguments)]
        done = subprocess.run(
            command, env=self.env | variables, cwd=cwd, text=True, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True
        )
        assert not check or done.returncode == 0, f"{arguments}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run(self, *command: object, **how: object) -> str:
        """Runs a command on the head node."""
        return self.tool("exec", *command, **how)  # type: ignore[arg-type]

    def sbatch(self, *arguments: object, **how: object) -> int:
        """Submits a job; its number."""
        return int(self.run("sbatch", "--parsable", *arguments, **how).splitlines()[-1])

    def job(self, number: int) -> dict[str, str]:
        """What Slurm says of a job: JobState, Reason, Restarts, NodeList, ExitCode, ExcNodeList ..."""
        told = self.run("scontrol", "show", "job", "-o", number)
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def wait(self, number: int, *states: str, timeout: float = 120) -> dict[str, str]:
        """Waits until a job is in one of some states. Raises AssertionError with its end where it comes to another end, or late."""
        end = time.monotonic() + timeout
        while (job := self.job(number))["JobState"] not in states:
            assert job["JobState"] not in ENDED and time.monotonic() < end, f"job {number} is {job}, wanted {states}"
            time.sleep(0.2)
        return job

    def restart_soon(self, number: int) -> None:
        """Takes a requeued job's two minutes of rest away."""
        self.tool("run-now", number)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """One cluster for all tests of a session; use `cluster`."""
    if os.geteuid() != 0:
        pytest.skip("a Slurm of virtual nodes needs root: it makes network and process namespaces")
    if missing := [name for name in ("slurmctld", "slurmd", "munged", "ip", "tc") if shutil.which(name, path=SBIN) is None]:
        pytest.skip(f"{', '.join(missing)} not installed; .ci/run installs Debian's slurm-wlm, munge and iproute2")
    directory = Path(tempfile.mkdtemp(prefix="jd-"))
    cluster = Cluster(directory, DEVCLUSTER_SLURMD_TIMEOUT="60", DEVCLUSTER_CONF_EXTRA=PREEMPTION)
    try:
        cluster.tool("up", "-n", NODES, "-g", GPUS, "-c", 16)
        yield cluster
    finally:
        cluster.tool("down", "--wipe", check=False)
        shutil.rmtree(directory, ignore_errors=True)


SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@pytest.fixture
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    """A clean cluster: no jobs, all nodes up, all cables in and as fast as they come."""
    yield slurm
    slurm.run("scancel", "--full", "-u", "root", check=False)
    for line in slurm.run("sinfo", "-h", "-N", "-o", "%N %t").splitlines():
        node, state = line.split()
        slurm.tool("join-node", node, check=False)
        slurm.tool("shape", node, "off", check=False)
        if state.startswith(("down", "drain")) or state.endswith("*"):
            slurm.tool("kill-node", node, check=False)  # one that was only cut off still runs, with jobs of its own
            slurm.tool("start-node", node, check=False)
            assert slurm.tool("on", node, "echo", "up", check=False) == "up", f"{node} did not start again"
            slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    with contextlib.suppress(AssertionError):
        wait_for_idle(slurm)


def wait_for_idle(slurm: Cluster, timeout: float = 30) -> None:
    """Until no job holds a node."""
    end = time.monotonic() + timeout
    while set(slurm.run("sinfo", "-h", "-N", "-o", "%t").split()) != {"idle"}:
        assert time.monotonic() < end, slurm.run("sinfo", "-N", "-o", "%N %t %E")
        time.sleep(0.2)
