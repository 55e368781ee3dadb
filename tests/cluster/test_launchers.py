"""The scripts in launch/ under every launcher, alone and called by job scripts of users on two nodes: the same weights from all of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.test_environment import is_alive
from tests.helpers import ROOT, make_recipe, make_shards, read_metrics, run_ranks

MPICH = shutil.which("mpirun.mpich")
needs_mpich = pytest.mark.skipif(MPICH is None, reason="no mpirun.mpich; .ci/run installs Debian's mpich")
OPTIONS = "--training.max_steps 9 --checkpoint.every_steps 3"
LAST = "checkpoints/step-00000009"
HOSTS = 'scontrol show hostnames | sed "s/$/ slots=1/" > "$RUN_DIR hosts"\nexport HOSTFILE="$RUN_DIR hosts"\n'
ONE_A_NODE = "RANKS=1 srun --export=ALL --ntasks-per-node=1 "

LONG = pytest.mark.long

JOBS = {
    "open-mpi": pytest.param("launch/mpi.sh", marks=LONG),
    "mpich": pytest.param("MPIRUN=mpirun.mpich launch/mpi.sh", marks=[needs_mpich, LONG]),
    "torchrun-static": pytest.param(ONE_A_NODE + "bash -c 'NODE_RANK=$SLURM_NODEID launch/torchrun.sh'", marks=LONG),
    "deepspeed-by-srun": pytest.param(HOSTS + "LAUNCHER=slurm launch/deepspeed.sh", marks=LONG),
    "deepspeed-by-mpirun": pytest.param(HOSTS + "LAUNCHER=openmpi launch/deepspeed.sh", marks=LONG),
    "deepspeed-once-a-node": pytest.param(HOSTS + ONE_A_NODE + "launch/deepspeed.sh", marks=LONG),
}


class Runs:
    """One recipe and its shards; every path has a space in it, that of the interpreter too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shards = make_shards(folder / "the shards", {"wikipedia": (20, 1)})
        recipe = make_recipe(folder / "a recipe.yaml", folder / "elsewhere", folder / "unused")
        (folder / "an environment").symlink_to(Path(sys.executable).parents[1])
        self.settings = {
            "RANKS": "2",
            "RECIPE": str(recipe),
            "SHARDS": str(shards),
            "PYTHON": str(folder / "an environment/bin" / Path(sys.executable).name),
            "EXTRA": OPTIONS,
            "OMP_NUM_THREADS": "1",
        }

    def by(self, name: str) -> dict[str, str]:
        """The settings of a run of its own."""
        return self.settings | {"RUN_DIR": str(self.folder / f"run by {name}")}

    def here(self, name: str, script: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a script on this machine to its end."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM_"))}
        command = [str(ROOT / "launch" / script)]
        return subprocess.run(command, env=env | self.by(name) | settings, capture_output=True, text=True, timeout=300)

    def weights(self, name: str) -> dict[str, str]:
        """The sha256 of every tensor file of the last checkpoint of a finished run."""
        run_dir = self.folder / f"run by {name}"
        assert (run_dir / "DONE").exists()
        files = json.loads((run_dir / LAST / "manifest.json").read_text())["files"]
        return {file: entry["sha256"] for file, entry in files.items() if file.endswith(".safetensors")}

    def ranks(self, name: str) -> list[dict]:
        """What each rank said of itself last."""
        return [json.loads(p.read_text()) for p in sorted((self.folder / f"run by {name}/heartbeat").glob("rank-*.json"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("launchers"))


@pytest.fixture(scope="module")
def expected(runs: Runs) -> dict[str, str]:
    """The weights that two ranks come to."""
    options = [*OPTIONS.split(), "--data.shards", runs.settings["SHARDS"], "--run.dir", str(runs.folder / "run by nobody")]
    run_ranks(2, "pretrain", "--config", runs.settings["RECIPE"], *options, log=runs.folder / "nobody")
    return runs.weights("nobody")


@pytest.fixture
def submit(cluster: Cluster, runs: Runs) -> Callable[[str, str], int]:
    """Submits a job script of two nodes with a task each, as a user writes it; the number of the job."""

    def submit(name: str, lines: str) -> int:
        script = runs.folder / f"{name}.sh"
        script.write_text(f"#!/bin/bash\nset -e\n{lines}\n")
        log = f"--output={runs.folder}/{name}.log"
        return cluster.sbatch(log, "--nodes=2", "--ntasks-per-node=1", script, **runs.by(name))

    return submit


@pytest.mark.slow
@needs_mpich
@pytest.mark.long
def test_mpirun_of_mpich_trains_to_the_same_weights(runs: Runs, expected: dict[str, str]) -> None:
    done = runs.here("mpich", "mpi.sh", MPIRUN=str(MPICH))
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.weights("mpich") == expected


@pytest.mark.slow
@pytest.mark.parametrize("lines", JOBS.values(), ids=JOBS)
def test_a_job_script_that_calls_a_launcher_trains_on_all_its_nodes(
    cluster: Cluster, runs: Runs, expected: dict[str, str], submit: Callable[[str, str], int], lines: str, request
) -> None:
    name = request.node.callspec.id
    job = submit(name, lines)
    try:
        cluster.wait(job, "COMPLETED", timeout=300)
    except AssertionError as e:
        raise AssertionError(f"{e}\n{(runs.folder / f'{name}.log').read_text()[-3000:]}") from e
    assert [rank["host"] for rank in runs.ranks(name)] == ["node1", "node2"]
    assert runs.weights(name) == expected


@pytest.mark.slow
@pytest.mark.long
def test_elastic_torchrun_starts_again_after_a_killed_rank_and_comes_to_the_same_weights(
    cluster: Cluster, runs: Runs, expected: dict[str, str], submit: Callable[[str, str], int]
) -> None:
    job = submit("elastic", "export RESTARTS=2 NODES=1:2\n" + ONE_A_NODE + "launch/torchrun.sh")
    first = runs.folder / "run by elastic/checkpoints/step-00000003"
    end = time.monotonic() + 90
    while not first.exists():
        assert time.monotonic() < end, (runs.folder / "elastic.log").read_text()
        time.sleep(0.05)
    victim = runs.ranks("elastic")[1]
    cluster.tool("on", victim["host"], "kill", "-KILL", victim["pid"])
    cluster.wait(job, "COMPLETED", timeout=300)
    assert runs.weights("elastic") == expected
    metrics = read_metrics(runs.folder / "run by elastic")
    assert {row["life"] for row in metrics} == {0, 1} and min(row["step"] for row in metrics if row["life"] == 1) > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "number", "status"),
    [
        ("mpi.sh", signal.SIGTERM, 11),
        pytest.param("torchrun.sh", signal.SIGUSR1, 1, marks=LONG),
        pytest.param("deepspeed.sh", signal.SIGUSR1, 1, marks=LONG),
    ],
)
def test_a_signal_to_a_launcher_has_the_ranks_save_and_leaves_none_behind(
    runs: Runs, script: str, number: signal.Signals, status: int
) -> None:
    run_dir, log = runs.folder / f"run by {script}", runs.folder / f"{script}.log"
    env = os.environ | runs.by(script) | {"EXTRA": "--training.max_steps 300 --checkpoint.every_steps 300"}
    with open(log, "wb") as out:
        launcher = subprocess.Popen([ROOT / "launch" / script], env=env, stdout=out, stderr=out)
    end = time.monotonic() + 120
    while not (run_dir / "metrics.jsonl").exists() or len(read_metrics(run_dir)) < 2:
        assert time.monotonic() < end and launcher.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    launcher.send_signal(number)
    assert launcher.wait(60) == status, log.read_text()[-3000:]
    events = [json.loads(line) for line in (run_dir / "ledger.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] in ("save", "requeue")] == ["save", "requeue"]
    while [rank for rank in runs.ranks(script) if is_alive(rank["pid"])]:  # mpirun does not wait for their last second
        assert time.monotonic() < end + 60, "a rank trains on without its launcher"
        time.sleep(0.1)


@pytest.mark.parametrize("script", ["local.sh", "mpi.sh", "torchrun.sh", "deepspeed.sh"])
@pytest.mark.parametrize("ranks", ["0", "two", "-1", "1.5", "08"])
def test_a_number_of_ranks_that_is_none_is_one_sentence_and_status_2(runs: Runs, script: str, ranks: str) -> None:
    done = runs.here("nobody", script, RANKS=ranks)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"RANKS={ranks}: give a whole number of processes, at least 1.\n"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"NODES": "2:"}, "NODES=2:: give a whole number of machines, or min:max."),
        ({"NODES": "2"}, "NODES=2: set RDZV_ENDPOINT=host:port of the first machine, the same on all."),
        (
            {"NODES": "2", "RDZV_ENDPOINT": "a:1", "NODE_RANK": "0", "RESTARTS": "3"},
            "RESTARTS=3 needs machines that number themselves: unset NODE_RANK.",
        ),
    ],
)
def test_machines_that_cannot_meet_are_one_sentence_and_status_2(runs: Runs, settings: dict, sentence: str) -> None:
    done = runs.here("nobody", "torchrun.sh", **settings)
    assert (done.returncode, done.stderr) == (2, sentence + "\n")
