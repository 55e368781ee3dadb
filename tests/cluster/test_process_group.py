"""Ranks on two hosts meet at the address that Slurm's variables give, or at one that somebody set; ranks of two runs never do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.utils.ports import free_port
from tests.cluster.conftest import Cluster
from tests.helpers import ROOT

MEET = """
import os, time, torch, torch.distributed as dist
from pathlib import Path
from jadeberta.cluster.environment import detect
from jadeberta.cluster.process_group import join_process_group
process = detect(os.environ)
run_dir = Path(os.environ.get("RUN", "run"))
join_process_group(process, torch.device("cpu"), 90, run_dir)
ranks = torch.tensor([process.rank + 1])
dist.all_reduce(ranks)
runs = [None, None]
dist.all_gather_object(runs, str(run_dir))
assert runs == [str(run_dir)] * 2, runs
print(process.rank, ranks.item(), flush=True)
held = torch.tensor([int("HOLD" in os.environ)])  # until the other run has come; all ranks leave at the same round
while held.item():
    time.sleep(0.05)
    held[0] = not os.path.exists(os.environ["HOLD"])
    dist.all_reduce(held)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("address", ["", "[::ffff:10.77.0.1]", "node1.v4"])
def test_two_hosts_meet(cluster: Cluster, tmp_path: Path, address: str) -> None:
    """The name node1.v4 is only known with an IPv4 address mapped into IPv6."""
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    setting = [f"MASTER_ADDR={address}"] if address else []
    told = cluster.run(
        "env", *setting, f"PYTHONPATH={ROOT}", "srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, script, timeout=150
    )
    assert sorted(line for line in told.splitlines() if line[:2] in ("0 ", "1 ")) == ["0 3", "1 3"]


@pytest.mark.long
def test_two_steps_of_one_allocation_are_two_runs(cluster: Cluster, tmp_path: Path) -> None:
    script, job = tmp_path / "meet.py", tmp_path / "job.sh"
    script.write_text(MEET)
    step = f"srun --exact --ntasks=2 --mpi=none {sys.executable} {script}"
    lines = [f"({each} {step} > {tmp_path}/{run}.log 2>&1; echo $? >> {tmp_path}/{run}.log) &" for run, each in
             (("a", f"RUN=a HOLD={tmp_path}/held"), ("b", "RUN=b"))]  # fmt: skip
    # The second comes while the first is there, and the first goes when the second is done.
    body = [
        lines[0],
        f"until grep -q '^0 3' {tmp_path}/a.log; do sleep 0.1; done",
        lines[1],
        "wait %2",
        f"touch {tmp_path}/held",
        "wait",
    ]
    job.write_text("\n".join(["#!/bin/bash", "set -m", *body]) + "\n")
    number = cluster.sbatch("--nodes=1", "--ntasks=4", f"--export=ALL,PYTHONPATH={ROOT}", f"--output={tmp_path}/log", job)
    cluster.wait(number, "COMPLETED", timeout=120)
    for run in "ab":
        told = (tmp_path / f"{run}.log").read_text()
        assert sorted(line for line in told.splitlines() if line.strip()) == ["0", "0 3", "1 3"], told


@pytest.mark.parametrize("port", [pytest.param("", marks=pytest.mark.long), "same"])
def test_two_mpiruns_on_one_machine_are_two_runs_or_the_second_is_refused(tmp_path: Path, port: str) -> None:
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI", "PRTE"))}
    env |= {"PYTHONPATH": str(ROOT)} | ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if port else {})
    mpirun = [Path(sys.executable).parent / "mpirun", "--oversubscribe", "-n", "2"]
    mpirun += ["--allow-run-as-root"] if os.geteuid() == 0 else []

    def start(run: str, **more: str) -> subprocess.Popen:
        with open(tmp_path / f"{run}.log", "wb") as log:
            return subprocess.Popen([*mpirun, sys.executable, script], env=env | {"RUN": run} | more, stdout=log, stderr=log)

    def told(run: str) -> str:
        return (tmp_path / f"{run}.log").read_text()

    first, end = start("a", HOLD=str(tmp_path / "held")), time.monotonic() + 60
    try:
        while "0 3" not in told("a"):
            assert time.monotonic() < end, told("a")
            time.sleep(0.05)
        second = start("b").wait(60)
        (tmp_path / "held").touch()
        assert first.wait(60) == 0, told("a")
    finally:
        first.kill()
    if port:
        assert second != 0 and "ForeignRunError" in told("b")
        assert f"'pretrain' in {Path.cwd() / 'a'} (" in told("b") and f"'pretrain' in {Path.cwd() / 'b'} (" in told("b")
    else:
        assert second == 0, told("b")
