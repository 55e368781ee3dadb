"""slurm/finetune_jglue.sh, submitted as it stands: as an array with a task for each point, and again as a plain job."""

import json
import sys

import pytest

from tests.cluster.conftest import Cluster
from tests.finetune import toy_model as toy

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_an_array_trains_a_point_in_each_task_and_a_job_after_it_trains_nothing_again(cluster: Cluster, tmp_path) -> None:
    folder = tmp_path / "with spaces"
    model = toy.make_model(folder / "model")
    settings = {
        "TASK": "jnli", "MODEL": str(model), "DATA": str(toy.write_task(folder / "data", "jnli", train=32, valid=9)),
        "OUT": str(folder / "out"), "WHICH": "--setting 1e-3,1", "SEEDS": "1,2", "EXTRA": "--max-length 32",
        "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    small = ("--cpus-per-task=1", f"--output={folder}/%a.log", "slurm/finetune_jglue.sh")
    job = cluster.sbatch("--array=0-1", "--nodes=1", *small, **settings)
    for task in (0, 1):
        cluster.wait(f"{job}_{task}", "COMPLETED")
    found = json.loads((folder / "out/results.json").read_text())
    assert [trial["seed"] for trial in found["points"]] == [1, 2] and not any(trial["diverged"] for trial in found["points"])
    before = {path: path.stat().st_mtime_ns for path in (folder / "out/points").glob("*.json")}
    cluster.wait(cluster.sbatch(*small, **settings), "COMPLETED")
    assert len(before) == 2 and {path: path.stat().st_mtime_ns for path in before} == before
