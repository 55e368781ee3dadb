"""No rank outlives what started it: whichever part of a launcher is killed, its ranks and their helpers end within seconds."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.utils.processes import end_with_launcher, is_launcher, is_reaper
from tests.cluster.test_environment import is_alive
from tests.helpers import ROOT

RANK = (
    "import os, sys, time, pathlib; from jadeberta.utils.processes import end_with_launcher; end_with_launcher(os.environ); "
    "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
)
STARTS = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
"""A program that starts its arguments and waits for them, as every part of a launcher does."""


def start(folder: Path, chain: list[str], **variables: str) -> tuple[list[int], subprocess.Popen]:
    """A rank under a chain of programs with these names, from the outermost on; their ids and the rank's, and the outermost."""
    folder.mkdir(exist_ok=True)
    record = folder / "started"
    command = [sys.executable, "-c", RANK, str(folder / "rank")]
    for name in reversed(chain):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"import os; open({str(record)!r}, 'a').write(f'{{os.getpid()}} ')\n{STARTS}\n")
        command = [sys.executable, str(file), *command]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))}
    outermost = subprocess.Popen(command, env=env | {"PYTHONPATH": str(ROOT)} | variables, stderr=subprocess.DEVNULL)
    until(lambda: (folder / "rank").exists() and (folder / "rank").read_text())
    return [*map(int, record.read_text().split()), int((folder / "rank").read_text())], outermost


def until(holds, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "chain,killed,variable",
    [
        (["bin/torchrun"], 0, "TORCHELASTIC_RUN_ID"),
        (["deepspeed/launcher/launch.py"], 0, "CROSS_SIZE"),
        # The runner, or the script that called it, lives on a level above the process that is the rank's parent.
        (["deepspeed/launcher/runner.py", "deepspeed/launcher/launch.py"], 0, "CROSS_SIZE"),
        (["launch/deepspeed.sh", "deepspeed/launcher/runner.py", "deepspeed/launcher/launch.py"], 0, "CROSS_SIZE"),
        (["bin/mpirun"], 0, "OMPI_COMM_WORLD_RANK"),
        (["launch/mpi.sh", "bin/mpirun"], 0, "PMI_RANK"),
        # mpirun's part on another host, by whatever name, and a wrapper of the user's.
        (["bin/a_proxy"], 0, "PMI_RANK"),
        (["bin/mpirun", "wrapper"], 0, "OMPI_COMM_WORLD_RANK"),
        (["bin/mpirun", "wrapper"], 1, "OMPI_COMM_WORLD_RANK"),
        (["bin/slurmstepd"], 0, "SLURM_PROCID"),
    ],
)
def test_a_rank_ends_when_a_part_of_its_launcher_is_killed(tmp_path, chain, killed, variable) -> None:
    pids, outermost = start(tmp_path / "run", chain, **{variable: "1"})
    os.kill(pids[killed], signal.SIGKILL)
    try:
        until(lambda: not is_alive(pids[-1]), seconds=10)
    finally:
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        outermost.wait(20)


def script_variable(pid: int) -> str:
    return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')} {pid}"  # noqa: PTH115


def test_a_rank_that_begins_after_its_script_was_killed_ends_at_once(tmp_path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    rank = subprocess.run(
        [sys.executable, "-c", RANK, str(tmp_path / "rank")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JADEBERTA_SCRIPT": script_variable(gone.pid)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert rank.returncode == 12 and f"process {gone.pid}, ended before it had begun" in rank.stderr
    assert not (tmp_path / "rank").exists()


@pytest.mark.parametrize("place", ["otherhost pid:[1]", f"{socket.gethostname()} pid:[1]"])
def test_a_script_on_another_host_or_outside_the_container_is_not_looked_for(tmp_path, place) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    pids, outermost = start(tmp_path / "run", ["bin/mpirun"], JADEBERTA_SCRIPT=f"{place} {gone.pid}")
    assert is_alive(pids[-1])
    os.kill(pids[-1], signal.SIGKILL)
    outermost.wait(20)


@pytest.mark.parametrize("variables", [{}, {"SLURM_PROCID": "0"}])
def test_a_process_that_a_user_started_goes_on_when_the_shell_ends(tmp_path, variables) -> None:
    pids, outermost = start(tmp_path / "run", ["shell"], **variables)
    outermost.kill()
    outermost.wait(20)
    time.sleep(1.5)
    assert is_alive(pids[-1])
    os.kill(pids[-1], signal.SIGKILL)


def test_a_process_without_a_launcher_is_not_watched() -> None:
    assert end_with_launcher({"RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize(
    "command,expected",
    [
        ("python -m torch.distributed.run --nproc_per_node 2 -m jadeberta pretrain", True),
        ("/v/bin/python -u -m deepspeed.launcher.launch --world_info=x", True),
        ("/v/bin/python /v/bin/deepspeed --num_gpus 2 x.py", True),
        ("prterun -n 2 python -m jadeberta", True),
        ("/usr/bin/mpiexec.hydra -n 2 python", True),
        ("bash /home/me/jadeberta/launch/mpi.sh", True),
        ("python -m jadeberta.jobs.local_launcher --ranks 2 -- pretrain", True),
        ("slurmstepd: [7.0]", True),
        ("bash", False),
        ("bash job.sh mpirun", False),
        ("make demo", False),
        ("python -m pytest -k torchrun", False),
        ("sshd: me@pts/0", False),
    ],
)
def test_a_launcher_is_known_by_its_command_line(command, expected) -> None:
    assert is_launcher(command.split()) is expected


def test_this_process_was_not_adopted() -> None:
    assert not is_reaper(os.getpid())
