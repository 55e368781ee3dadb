"""SIGKILL to a part of a real launcher, while ranks start or train: nothing of the job is left after seconds, and its directory is free."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from jadeberta.shards import DirectoryLock
from jadeberta.utils.procfs import process_table
from tests.cluster.test_environment import is_alive
from tests.helpers import ROOT, make_recipe, make_shards

LIMIT_S = 15.0
"""The watch takes two seconds; a busy machine takes longer."""


def tree_of(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    table, found = process_table(), [pid]
    for each in found:
        found += [child for child, stat in table.items() if stat.parent == each]
    return found


def ranks_in(pids: list[int]) -> list[int]:
    """The processes that are ranks, not launchers, loaders, writers or watchdogs."""
    found = []
    for pid in pids:
        path = Path(f"/proc/{pid}/cmdline")
        command = path.read_bytes().split(b"\0") if path.exists() else []
        if command[1:2] == [b"-m"] or command[1:3] == [b"-u", b"-m"]:
            found += [pid] if b"jadeberta" in command[2:4] and b"pretrain" in command[:6] else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "moment", "part"),
    [
        ("torchrun.sh", "start", 0),
        pytest.param("torchrun.sh", "loading", 0, marks=pytest.mark.long),
        pytest.param("torchrun.sh", "training", 0, marks=pytest.mark.long),
        pytest.param("local.sh", "start", 0, marks=pytest.mark.long),
        pytest.param("local.sh", "loading", 0, marks=pytest.mark.long),
        pytest.param("local.sh", "training", 0, marks=pytest.mark.long),
        pytest.param("deepspeed.sh", "start", 1, marks=pytest.mark.long),
        pytest.param("deepspeed.sh", "loading", 2, marks=pytest.mark.long),
        pytest.param("deepspeed.sh", "training", 1, marks=pytest.mark.long),  # the runner
        pytest.param("deepspeed.sh", "training", 2, marks=pytest.mark.long),  # this machine's launcher, which it started
        pytest.param("mpi.sh", "start", 2, marks=pytest.mark.long),
        pytest.param("mpi.sh", "loading", 2, marks=pytest.mark.long),
        pytest.param("mpi.sh", "training", 0, marks=pytest.mark.long),  # the script
        pytest.param("mpi.sh", "training", 1, marks=pytest.mark.long),  # what reads mpirun's words
        pytest.param("mpi.sh", "training", 2, marks=pytest.mark.long),  # mpirun
    ],
)
def test_nothing_outlives_a_killed_launcher(tmp_path: Path, script: str, moment: str, part: int) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    recipe = make_recipe(tmp_path / "recipe.yaml", make_shards(tmp_path / "shards", {"wikipedia": (20, 1)}), run_dir)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))}
    env |= {"RANKS": "2", "RECIPE": str(recipe), "OMP_NUM_THREADS": "1"}
    env["EXTRA"] = "--data.workers 1 --training.max_steps 3000 --checkpoint.every_steps 3"
    with open(log, "wb") as out:
        launcher = subprocess.Popen([ROOT / "launch" / script], env=env, cwd=tmp_path, stdout=out, stderr=out)
    pids, end = [launcher.pid], time.monotonic() + 120
    try:
        # Ranks exist while they import and join; the ledger is begun once they have met, before shards and weights are loaded.
        sign = {"start": "log", "loading": "run/ledger.jsonl", "training": "run/checkpoints/step-????????"}[moment]
        while len(ranks_in(pids)) < 2 or not any(tmp_path.glob(sign)):
            assert time.monotonic() < end and launcher.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
            pids = tree_of(launcher.pid)
        os.kill(pids[part], signal.SIGKILL)
        end = time.monotonic() + LIMIT_S
        while left := [pid for pid in pids if is_alive(pid)]:
            assert time.monotonic() < end, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.05)
    finally:
        for pid in (pid for pid in pids if is_alive(pid)):
            os.kill(pid, signal.SIGKILL)
        launcher.wait(20)
    # A loader that a rank forked after the last look holds the lock too, and ends with its rank.
    DirectoryLock(run_dir, "run.dir", patience=5.0).release()
