"""slurm/race.sh on a real Slurm: the run of a task is found, interrupted, requeued and trained to its end."""

from pathlib import Path

import pytest
import yaml

from jadeberta.race.cli import main
from jadeberta.race.race_dir import RaceDir
from tests.cluster.conftest import Cluster
from tests.cluster.slurm_runs import Run

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_task_of_a_race_that_is_interrupted_goes_on_to_its_end(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = Run(cluster, tmp_path)
    race = {"base": str(run.recipe), "target": "plain", "contestants": {"other": {"training.mask_probability": 0.3}, "plain": {}}}
    (tmp_path / "race.yaml").write_text(yaml.safe_dump(race, sort_keys=False))
    assert main(["plan", str(tmp_path / "race.yaml"), "--out", str(tmp_path / "race")]) == 0
    run.directory = tmp_path / "race/runs/one/plain/tune-0"
    job = run.submit(1, 1, script="slurm/race.sh", RACE=str(tmp_path / "race"), STAGE="tune", NUMBER="1")
    run.until_step(7)
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    run.until_ended(job, "COMPLETED")
    assert [e["action"] for e in run.endings] == ["requeue", "finish"] and run.done
    assert [m["step"] for m in run.metrics] == list(range(1, 61))
    done = [RaceDir(tmp_path / "race").is_done(each) for each in RaceDir(tmp_path / "race").runs("tune")]
    assert done == [False, True] and not (run.directory / "checkpoints").exists()
    wrong = run.submit(1, 1, script="slurm/race.sh", RACE=str(tmp_path / "race"), STAGE="tune", NUMBER="2")
    run.until_ended(wrong, "FAILED")
    assert "the stage tune has the runs 0 to 1" in run.printed and cluster.job(wrong)["ExitCode"] == "2:0"
