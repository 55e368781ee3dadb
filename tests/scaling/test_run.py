"""The life of a scaling test with a Slurm that is played: what is submitted, waited for, taken up again, and said of failures."""

import json
from pathlib import Path

import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError, InputError
from jadeberta.scaling.cli import main
from jadeberta.scaling.launchers import LocalLauncher, SlurmLauncher
from jadeberta.scaling.points import Point, lay_out, points_of, recipe_of
from jadeberta.scaling.points_dir import PointsDir, Settings
from jadeberta.scaling.run import PointRunner
from tests.helpers import ROOT, make_recipe, make_shards

DEMO = str(ROOT / "recipes" / "demo.yaml")


class PlayedSlurm:
    """Jobs that end at the third look, well unless their point is in `bad`; `silent` looks get no answer, of others it knows nothing."""

    def __init__(self, bad: tuple[int, ...] = (), silent: int = 0) -> None:
        self.bad, self.silent = bad, silent
        self.started: list[Point] = []
        self.looks: dict[str, int] = {}
        self.most = 0

    def start(self, point: Point, directory: Path) -> str:
        self.started.append(point)
        job = str(100 + len(self.started))
        self.looks[job] = 0
        (directory / "job.log").write_text("working\nConfigError: no GPU here.\nsrun: error: task 0\n")
        if point.nodes not in self.bad:
            (directory / "will-be-done").touch()
        return job

    def states(self, jobs: list[str]) -> dict[str, str] | None:
        self.most = max(self.most, len(jobs))
        if self.silent:
            self.silent -= 1
            return None
        known = [job for job in jobs if job in self.looks]
        for job in known:
            self.looks[job] += 1
        return {job: "RUNNING" if self.looks[job] < 3 else "COMPLETED" for job in known}


@pytest.fixture
def test_of_three(tmp_path):
    recipe = load_recipe(DEMO)
    series = lay_out(8, [1, 2, 4], 1, ["strong"], [1], [2])
    points_dir = PointsDir(tmp_path / "out")
    return points_dir, {p: recipe_of(recipe, p, str(points_dir.point(p)), 20) for p in points_of(series)}


def runner(points_dir: PointsDir, recipes: dict, slurm: PlayedSlurm, at_once: int = 9) -> PointRunner:
    """Time passes by finishing what was started."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert len(pauses) < 100
        for point in recipes:
            if (points_dir.point(point) / "will-be-done").exists():
                (points_dir.point(point) / "DONE").touch()

    made = PointRunner(points_dir, slurm, recipes, at_once, pause)  # type: ignore[arg-type]
    made.pauses = pauses  # type: ignore[attr-defined]
    return made


def test_every_point_is_submitted_once_and_waited_for(test_of_three) -> None:
    points_dir, recipes = test_of_three
    slurm = PlayedSlurm()
    assert runner(points_dir, recipes, slurm).run() == {}
    assert slurm.started == list(recipes) and slurm.most == 3
    assert all(points_dir.is_done(p) for p in recipes)
    again = PlayedSlurm()
    assert runner(points_dir, recipes, again).run() == {} and again.started == []


def test_at_most_so_many_jobs_are_in_the_queue(test_of_three) -> None:
    points_dir, recipes = test_of_three
    slurm = PlayedSlurm()
    assert runner(points_dir, recipes, slurm, at_once=1).run() == {}
    assert slurm.most == 1 and len(slurm.started) == 3


def test_a_failed_job_is_a_failed_point_with_its_reason_and_the_others_go_on(test_of_three) -> None:
    points_dir, recipes = test_of_three
    failed = runner(points_dir, recipes, PlayedSlurm(bad=(2,))).run()
    (name,) = failed
    assert "-2x1-" in name and "ConfigError: no GPU here." in failed[name] and "job 102 COMPLETED" in failed[name]
    again = PlayedSlurm()
    assert runner(points_dir, recipes, again).run() == {}
    assert [p.nodes for p in again.started] == [2]


def test_a_controller_that_does_not_answer_fails_no_point(test_of_three, capsys) -> None:
    points_dir, recipes = test_of_three
    waiting = runner(points_dir, recipes, PlayedSlurm(silent=20))
    assert waiting.run() == {}
    assert capsys.readouterr().err.count("does not answer") == 1
    assert max(waiting.pauses) == 15 and len(waiting.pauses) > 20  # type: ignore[attr-defined]


def test_a_test_that_was_interrupted_waits_for_its_jobs_again(test_of_three) -> None:
    points_dir, recipes = test_of_three
    first, second, _ = recipes
    for point, job in ((first, "7"), (second, "8")):
        points_dir.prepare(point, recipes[point])
        points_dir.write_job(point, job)
        (points_dir.point(point) / "will-be-done").touch()
    slurm = PlayedSlurm()
    slurm.looks["7"] = 0  # and of 8 nobody knows any more
    assert runner(points_dir, recipes, slurm).run() == {}
    assert [p.nodes for p in slurm.started] == [2, 4]


def test_a_point_of_another_recipe_is_refused(test_of_three) -> None:
    points_dir, recipes = test_of_three
    point = next(iter(recipes))
    points_dir.prepare(point, recipes[point])
    points_dir.check(point, recipes[point])
    recipes[point].training.lr = 0.5
    with pytest.raises(ConfigError, match="Name another --out"):
        points_dir.check(point, recipes[point])


def test_a_test_may_grow_by_series_but_not_change_its_steps(tmp_path) -> None:
    points_dir = PointsDir(tmp_path)
    strong, weak = (lay_out(8, [1, 2], 1, [mode], [1], [2]) for mode in ("strong", "weak"))
    points_dir.write_settings(Settings("r.yaml", 60, 20, 100, strong))
    points_dir.write_settings(Settings("r.yaml", 60, 20, 100, weak))
    assert points_dir.read_settings().series == strong + weak
    with pytest.raises(ConfigError, match="begun with steps 60, not 30"):
        points_dir.write_settings(Settings("r.yaml", 30, 20, 100, weak))


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Programs sbatch and squeue that write down how they were called and answer what is in a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue"):
        (folder / name).write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" "RUN_DIR=$RUN_DIR" > {folder}/{name}.called\n'
            f"cat {folder}/{name}.err >&2 2>/dev/null; cat {folder}/{name}.out 2>/dev/null; exit $(cat {folder}/{name}.rc)\n"
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answers(name: str, out: str = "", err: str = "", rc: int = 0) -> None:
        for ending, text in (("out", out), ("err", err), ("rc", str(rc))):
            (folder / f"{name}.{ending}").write_text(text)

    return folder, answers


POINT = Point(1, 4, 8, 18, 2304)


def test_a_job_is_asked_for_with_the_points_sizes_and_the_users_options(fake_slurm, tmp_path) -> None:
    folder, answers = fake_slurm
    answers("sbatch", out="1234;cluster\n")
    place = tmp_path / "a folder, with comma"
    assert SlurmLauncher("--partition=gpu --comment='two words'").start(POINT, place) == "1234"
    called = (folder / "sbatch.called").read_text().splitlines()
    assert {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--partition=gpu", "--comment=two words"} <= set(called)
    assert "--gpus-per-node=0" in SlurmLauncher("", on_cpus=True).command(POINT, place)
    assert called[-2] == str(ROOT / "slurm" / "scaling.sh") and called[-1] == f"RUN_DIR={place}"


def test_what_sbatch_refuses_is_told_in_its_words(fake_slurm, tmp_path) -> None:
    _, answers = fake_slurm
    answers("sbatch", err="sbatch: error: invalid partition specified: gpuu\n", rc=1)
    with pytest.raises(ConfigError, match=r"refuses zero1-4x8.*invalid partition specified: gpuu"):
        SlurmLauncher("").start(POINT, tmp_path)


def test_squeue_tells_states_and_what_it_forgot_from_a_controller_that_is_away(fake_slurm) -> None:
    _, answers = fake_slurm
    answers("squeue", out="7 RUNNING\n8 NODE_FAIL\n")
    assert SlurmLauncher("").states(["7", "8", "9"]) == {"7": "RUNNING", "8": "NODE_FAIL"}
    answers("squeue", err="slurm_load_jobs error: Invalid job id specified\n", rc=1)
    assert SlurmLauncher("").states(["7"]) == {}
    answers("squeue", err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", rc=1)
    assert SlurmLauncher("").states(["7"]) is None


def test_without_slurm_the_other_way_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    shards = ["--data.shards", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"no sbatch on this machine.*--local"):
        main(["run", "--config", DEMO, "--out", str(tmp_path / "out"), "--nodes", "1,2", "--gpus-per-node", "1", *shards])


def test_a_dry_run_lists_the_points_and_touches_nothing(tmp_path, capsys) -> None:
    arguments = ["--config", str(ROOT / "recipes/large.yaml"), "--out", str(tmp_path / "out"), "--nodes", "1,2", "--zero", "1,2"]
    assert main(["run", *arguments, "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 7 and "zero2-2x8-micro18-batch4608" in listed[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nodes", "1,3", "--gpus-per-node", "1"], "World sizes that fit: 1, 2;"),
        (["--nodes", "1", "--modes", "big"], "'big' is no mode; strong, weak are"),
        (["--nodes", "1", "--zero", "4"], "4 is no stage of ZeRO"),
        (["--nodes", "1", "--gpus-per-node", "1", "--steps", "20"], "--warm-up 20 leaves nothing of --steps 20"),
        (["--nodes", "1", "--training.max_step", "5"], "did you mean training.max_steps"),
        ([], "--nodes"),
    ],
)
def test_bad_options_are_one_sentence_before_anything_is_submitted(tmp_path, arguments, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        main(["run", "--config", DEMO, "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_test_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no scaling\.json"):
        main(["report", str(tmp_path)])
    with pytest.raises(ConfigError, match="neither 'run' nor 'report'"):
        main(["plot"])


@pytest.mark.long
def test_on_this_machine_the_points_run_as_ranks_and_a_test_can_grow(tmp_path, capsys) -> None:
    shards = make_shards(tmp_path / "shards", {"a": (60, 1)})
    recipe = make_recipe(
        tmp_path / "tiny.yaml", shards, tmp_path / "run", training={"global_batch_size": 4, "micro_batch_size": 1}
    )
    out = tmp_path / "a test"
    test = [
        "run",
        "--config",
        str(recipe),
        "--out",
        str(out),
        "--gpus-per-node",
        "1",
        "--steps",
        "6",
        "--warm-up",
        "2",
        "--local",
    ]
    assert main([*test, "--nodes", "1,2", "--modes", "strong"]) == 0
    assert main([*test, "--nodes", "1", "--modes", "weak"]) == 0
    printed = capsys.readouterr().out
    assert "strong: the same global batch, ZeRO 1" in printed and "weak: the same batch per rank, ZeRO 1" in printed
    report = json.loads((out / "report.json").read_bytes())
    rows = {(row["mode"], row["nodes"]): row for row in report["rows"]}
    assert {key: row["accumulation"] for key, row in rows.items()} == {("strong", 1): 4, ("strong", 2): 2, ("weak", 1): 4}
    for row in rows.values():
        parts = row["compute_s"] + row["communication_s"] + row["data_s"]
        assert parts == pytest.approx(row["step_s"]) and row["memory_bytes"] > 2**26 and row["predicted_step_s"] > 0
    assert rows["strong", 1] == rows["weak", 1] | {"mode": "strong"} and rows["strong", 1]["efficiency"] == 1
    assert report["missing"] == [] and report["parameters"] == 6976
    assert len((out / "report.csv").read_text().splitlines()) == 4
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("points/*/checkpoints"))


@pytest.mark.slow
@pytest.mark.long
def test_a_point_that_cannot_train_is_named_with_its_error(tmp_path, capsys) -> None:
    recipe = make_recipe(
        tmp_path / "tiny.yaml", tmp_path / "no shards", tmp_path / "run", training={"global_batch_size": 4, "micro_batch_size": 1}
    )
    sizes = ["--nodes", "1", "--gpus-per-node", "1", "--steps", "6", "--warm-up", "2"]
    assert main(["run", "--config", str(recipe), "--out", str(tmp_path / "out"), *sizes, "--local"]) == 1
    printed = capsys.readouterr().err
    assert "FAILED zero1-1x1-micro1-batch4: job here COMPLETED: ShardError: " in printed and "job.log" in printed


def test_a_local_point_takes_its_ranks_from_nodes_and_gpus() -> None:
    assert LocalLauncher().command(POINT, Path("x"))[-3:] == ["--ranks", "32", "--"]
