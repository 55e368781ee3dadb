"""A race: what its file must say, the runs that follow from it, their equal FLOPs, and what is concluded from them."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.errors import ConfigError, InputError, NumericsError
from jadeberta.evaluation.mlm import evaluate_mlm
from jadeberta.model import build
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.race import race_commands, scores
from jadeberta.race.cli import main
from jadeberta.race.judgement import Budget, Result, judge, share_to_reach
from jadeberta.race.race_dir import RaceDir
from jadeberta.race.race_file import Race, read_race
from jadeberta.race.race_runs import Run, final_runs, recipe_of, scale_steps, target_flops, tune_runs
from jadeberta.race.scores import RowScores, characters_of, read_scores, score_run, split_heldout
from jadeberta.shards import open_shards
from jadeberta.training.optimizers.costs import update_flops
from tests.helpers import LENGTH, TINY_MODEL, make_recipe, make_shards

RACE = {
    "base": "BASE",
    "target": "plain",
    "contestants": {"plain": {}, "more": {"training.mask_probability": 0.3}, "wide": {"training.global_batch_size": 24}},
    "tune": {"training.lr": [1e-3, 2e-3]},
    "tune_budget": 0.5,
    "seeds": [1, 2],
    "budgets": [0.5, 1.0],
    "finalists": 1,
}


@pytest.fixture
def race_file(tmp_path: Path) -> Path:
    shards = make_shards(tmp_path / "shards", {"wiki": (24, 1), "web": (24, 1)}, TINY_MODEL["vocab_size"])
    training = {"max_steps": 20, "warmup_steps": 4, "schedule": "wsd", "decay_steps": 8}
    base = make_recipe(tmp_path / "base.yaml", shards, tmp_path / "run", training=training, logging={})
    content = yaml.safe_load(base.read_text())
    content["training"] |= {"global_batch_size": 12, "micro_batch_size": 1, "lr": 1e-3, "precision": "fp32"}
    base.write_text(yaml.safe_dump(content))
    path = tmp_path / "race.yaml"
    path.write_text(yaml.safe_dump(RACE | {"base": str(base)}, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "nobody"}, "target is 'nobody'; it must be one of the contestants"),
        ({"contestants": {}}, "contestants must be a mapping of names"),
        ({"contestants": ["plain"]}, "contestants must be a mapping of names"),
        ({"contestants": {"a/b": {}}}, "contestants must be a mapping of names"),
        ({"contestants": {"plain": 3}}, "contestants.plain must be a mapping of recipe keys"),
        ({"sizes": {"..": {}}}, "sizes must be a mapping of names"),
        ({"tune": {"training.lr": 1e-3}}, "tune must give a list of values"),
        ({"tune": {"training.lr": []}}, "tune must give a list of values"),
        ({"grids": {"more": {"training.lr": [1e-3]}}}, "grids.more has 1 settings and plain 2; every contestant gets as many"),
        ({"grids": {"nobody": {}}}, "'nobody' is none"),
        ({"grids": []}, "grids is no mapping"),
        ({"seeds": []}, "seeds must be a list of whole numbers"),
        ({"seeds": [1, 1]}, "seeds has the same number twice"),
        ({"seeds": [True]}, "seeds must be a list of whole numbers"),
        ({"budgets": [0]}, "budgets must be shares"),
        ({"budgets": [float("nan")]}, "budgets must be shares"),
        ({"budgets": 1.0}, "budgets must be shares"),
        ({"tune_budget": "half"}, "tune_budget must be shares"),
        ({"finalists": -1}, "finalists must be a number"),
        ({"colour": 1}, "unknown key colour"),
        ({"base": "nowhere.yaml"}, "no such recipe"),
        ({"base": 3}, "base must be the path of a recipe"),
    ],
)
def test_a_race_file_that_says_something_else_is_one_sentence(race_file: Path, change: dict, said: str) -> None:
    race_file.write_text(yaml.safe_dump(yaml.safe_load(race_file.read_text()) | change))
    with pytest.raises(ConfigError, match=said) as error:
        read_race(race_file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[1]", "a: [", "a: &a [*a]", "target: x", "\x00"])
def test_a_file_that_is_no_race_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "race.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"race\.yaml"):
        read_race(tmp_path / "race.yaml")


def test_a_race_that_is_no_file_is_one_sentence_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        ".": "a folder",
        "pipe": "a pipe",
        "none": r"cannot be read as a race \(No such file or directory\)",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            read_race(tmp_path / name)


@pytest.mark.parametrize("hours", ["nan", "-1", "inf", ""])
def test_a_limit_that_is_no_number_of_hours_is_refused(hours: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--hours: '.*' is not a number of at least 0"):
        main(["run", str(tmp_path), f"--hours={hours}"])


def test_the_grid_is_the_same_for_all_and_seeds_and_budgets_belong_to_the_test(race_file: Path) -> None:
    race = read_race(race_file)
    tuned = tune_runs(race)
    assert [run.name for run in tuned[:2]] == ["runs/one/plain/tune-0", "runs/one/plain/tune-1"]
    assert len(tuned) == 6 and {(run.seed, run.budget) for run in tuned} == {(1, 0.5)}
    chosen = {("one", run.contestant): run for run in tuned if run.number == 1}
    accuracies = {("one", "plain"): 0.1, ("one", "more"): 0.3, ("one", "wide"): 0.2}
    finals = final_runs(race, chosen, accuracies)
    assert [(run.contestant, run.budget, run.seed) for run in finals] == [
        ("plain", 1.0, 1), ("plain", 1.0, 2), ("more", 0.5, 1), ("more", 0.5, 2), ("more", 1.0, 1), ("more", 1.0, 2),
        ("wide", 0.5, 1), ("wide", 1.0, 1),
    ]  # fmt: skip
    assert all(run.settings == {"training.lr": 2e-3} for run in finals)


@pytest.mark.parametrize("contestant", ["plain", "more", "wide"])
@pytest.mark.parametrize("budget", [0.5, 1.0, 2.0])
def test_every_run_gets_the_flops_of_its_budget_to_within_a_step(race_file: Path, contestant: str, budget: float) -> None:
    race = read_race(race_file)
    goal = target_flops(race, "one", (), LENGTH)
    assert goal == flops_and_tokens(load_recipe(race.base), LENGTH)[0]
    recipe = recipe_of(race, Run("one", contestant, "final", budget, 5), goal, (), "run", LENGTH, 1)
    flops, tokens = flops_and_tokens(recipe, LENGTH)
    assert abs(flops - budget * goal) <= 0.51 * flops / recipe.training.max_steps
    training = recipe.training
    assert tokens == training.max_steps * training.global_batch_size * LENGTH
    assert (training.warmup_steps, training.decay_steps) == tuple(
        round(part * training.max_steps / 20) for part in (4, 8)
    ) or contestant != "plain"
    assert training.seed == 5 and recipe.evaluation.every_steps == max(1, training.max_steps // 10)


def test_phases_and_batch_warm_ups_are_scaled_too_and_no_phase_vanishes(tmp_path: Path) -> None:
    phases = [{"steps": 12, "warmup_steps": 4, "lr": 1e-3}, {"steps": 8}]
    recipe = load_recipe(
        make_recipe(tmp_path / "a.yaml", tmp_path, tmp_path, training={"max_steps": 20}, phases=phases, logging={})
    )
    scaled = scale_steps(recipe, 0.5)
    assert [(p.steps, p.warmup_steps) for p in scaled.phases] == [(6, 2), (4, None)] and scaled.training.max_steps == 10
    assert recipe.training.max_steps == 20 and recipe.phases[0].steps == 12
    with pytest.raises(ConfigError, match="leaves none to train"):
        scale_steps(recipe, 0.01)
    warm = load_recipe(make_recipe(tmp_path / "b.yaml", tmp_path, tmp_path, training={"batch_size_warmup": [[6, 2]]}, logging={}))
    assert scale_steps(warm, 2).training.batch_size_warmup == [[6, 4]]


def test_a_contestant_without_a_masked_accuracy_is_refused(race_file: Path) -> None:
    content = yaml.safe_load(race_file.read_text())
    content["contestants"]["rtd"] = {"training.objective": "rtd"}
    race_file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(
        ConfigError, match=r"runs/one/rtd/tune-0: training\.objective is rtd, and a race is judged by masked accuracy"
    ):
        main(["plan", str(race_file), "--out", str(race_file.parent / "out")])


@pytest.mark.parametrize(
    ("accuracies", "goal", "share"),
    [
        ([0.1, 0.2, 0.3], 0.2, 0.4),
        ([0.1, 0.2, 0.3], 0.05, 0.1),
        ([0.1, 0.2, 0.3], 0.15, 0.2),
        ([0.1, 0.2, 0.3], 0.31, None),
        ([0.3, 0.2, 0.1], 0.25, 0.1),
        ([0.1, 0.1, 0.3], 0.1, 0.1),
    ],
)
def test_the_share_that_reaches_an_accuracy(accuracies: list[float], goal: float, share: float | None) -> None:
    found = share_to_reach([0.1, 0.4, 1.6], accuracies, goal)
    assert found == (share if share is None else pytest.approx(share))


def rows_of(accuracy: float, seed: int, rows: int = 200) -> RowScores:
    draw = np.random.default_rng(seed)
    correct = draw.binomial(70, accuracy, rows).tolist()
    return RowScores(correct, [70] * rows, [70 * math.log(4)] * rows, [140] * rows)


def test_a_contestant_is_judged_against_the_target_with_an_interval() -> None:
    target = Result("one", "plain", {}, [Budget(1.0, 10, 10, 1, [rows_of(0.5, seed) for seed in range(3)])])
    fast = [Budget(share, 10 * share, 1, 1, [rows_of(p, n) for n in range(9)]) for share, p in ((0.25, 0.4), (1.0, 0.6))]
    slow = [Budget(share, 10 * share, 1, 1, [rows_of(p, 0)]) for share, p in ((0.25, 0.3), (1.0, 0.4))]
    easy = [Budget(0.25, 1, 1, 1, [rows_of(0.7, 0)])]
    results = [target, *(Result("one", name, {}, budgets) for name, budgets in (("fast", fast), ("slow", slow), ("easy", easy)))]
    judge(results, "plain")
    assert (target.share, target.interval) == (1.0, (1.0, 1.0))
    low, high = results[1].interval
    assert results[1].share == pytest.approx(0.5, abs=0.03) and low is not None and high is not None
    assert 0.42 < low < results[1].share < high < 0.58 and not results[1].is_bound
    assert results[2].share is None and results[2].interval == (None, None)
    assert results[3].share == 0.25 and results[3].is_bound
    assert target.budgets[0].bits_per_character == pytest.approx(1.0)  # two bits a token of two characters
    ends = target.budgets[0].interval
    assert ends[0] < target.budgets[0].accuracy < ends[1] and ends[1] - ends[0] < 0.03


def test_the_rows_of_the_test_are_not_those_that_settings_are_chosen_on() -> None:
    count, test = split_heldout({"a": range(9), "b": range(9, 13)})
    assert count == 1 and test == {"a": range(1, 9), "b": range(10, 13)}
    with pytest.raises(ConfigError, match="hold out 2 rows of a corpus; a race needs at least 3"):
        split_heldout({"a": range(2)})
    with pytest.raises(ConfigError, match="hold out 0 rows"):
        split_heldout({})


def test_the_scores_of_rows_add_up_to_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = make_shards(tmp_path / "shards", {"wiki": (4, 1)}, TINY_MODEL["vocab_size"])
    torch.manual_seed(0)
    model = build(ModelConfig(**TINY_MODEL).hugging_face()).eval()
    monkeypatch.setattr(scores, "load", lambda checkpoint, attention: model)
    monkeypatch.setattr(scores, "resolve_checkpoint", lambda path: path)
    monkeypatch.setattr(scores, "characters_of", lambda reader: np.full(TINY_MODEL["vocab_size"], 2.0))
    monkeypatch.setattr(scores, "split_heldout", lambda corpora: (0, corpora))
    score_run(tmp_path, str(shards), LENGTH, batch_size=2)
    found, whole = (
        read_scores(tmp_path),
        evaluate_mlm(model, open_shards(shards, "valid"), batch_size=3, mask_probability=0.15)["all"],
    )
    assert found is not None and len(found.masked) == 3
    assert sum(found.masked) == whole["masked_tokens"] and sum(found.characters) == 2 * whole["masked_tokens"]
    assert sum(found.correct) / sum(found.masked) == whole["accuracy"]
    assert sum(found.nats) / sum(found.masked) == pytest.approx(whole["loss"], rel=1e-6)


def test_characters_are_counted_whatever_the_pieces_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [b"\xff<pad>", "東京".encode(), " 京都".encode(), b"\xfe\xe6", b"\xfe\x9d", None, b" ", b"\xff[x]"]

    class Pieces:
        specials = frozenset({0, 7})

    Pieces.keys = keys  # type: ignore[attr-defined]
    monkeypatch.setattr(scores, "read_tokenizer_files", lambda folder: {})
    monkeypatch.setattr(scores, "read_vocabulary", lambda files, where: Pieces)

    class Shards:
        directory = Path("shards")

        class index:
            vocab_size = 9

    assert characters_of(Shards).tolist() == [0, 2, 2, 1, 0, 0, 0, 0, 0]  # type: ignore[arg-type]


def play(monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int]) -> list[str]:
    """Trainings that end at once, with the accuracy that their learning rate and masks stand for; some end with another status."""
    started: list[str] = []

    def start(directory: RaceDir, each: Run, ranks: int, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        recipe = load_recipe(directory.prepare(each))
        started.append(each.name)
        training, path = recipe.training, directory.path(each)
        if not (status := statuses.get(each.name, 0)):
            accuracy = 100 * training.lr + float(training.mask_probability) / 10 + each.budget / 10  # type: ignore[arg-type]
            figures = {"wiki": {"accuracy": accuracy, "loss": 1.0, "masked_tokens": 10}}
            event = {
                "event": "evaluation",
                "step": training.max_steps,
                "whole": True,
                "corpora": figures,
                "attempt": 0,
                "time": 5.0,
            }
            (path / "ledger.jsonl").write_text(
                json.dumps({"event": "start", "attempt": 0, "time": 1.0}) + "\n" + json.dumps(event) + "\n"
            )
            (path / "metrics.jsonl").write_text(json.dumps({"step": 1, "step_s": 2.5, "time": 4.0, "attempt": 0}) + "\n")
            (path / "DONE").touch()
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])

    def score(run_dir: Path, shards: str, length: int) -> None:
        accuracy = json.loads((run_dir / "ledger.jsonl").read_text().splitlines()[-1])["corpora"]["wiki"]["accuracy"]
        rows = {"correct": [round(1000 * accuracy)] * 5, "masked": [1000] * 5, "nats": [900.0] * 5, "characters": [1800] * 5}
        (run_dir / "test.json").write_text(json.dumps(rows))

    monkeypatch.setattr(race_commands, "_start", start)
    monkeypatch.setattr(race_commands, "score_run", score)
    monkeypatch.setattr(race_commands, "POLL_S", 0.02)
    return started


def test_a_race_from_its_file_to_the_page(race_file: Path, monkeypatch, capsys) -> None:
    out = race_file.parent / "out"
    # A setting whose numbers break is a result; one that is killed is done when the race is started again.
    statuses = {"runs/one/wide/tune-1": NumericsError.exit_status, "runs/one/more/tune-0": 9}
    started = play(monkeypatch, statuses)
    assert main(["plan", str(race_file), "--out", str(out)]) == 0
    listing = capsys.readouterr().out
    assert listing.count("runs/one/") == 6 and "--array=0-5 slurm/race.sh" in listing
    assert main(["run", str(out), "--at-once", "2"]) == 1
    assert len(started) == 6 and "more/tune-0: ended with status 9, see race.log" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"more/tune-0: is not done; the settings are chosen when the whole grid is"):
        main(["run", str(out), "--stage", "final"])
    statuses.clear()
    del started[:]
    assert main(["run", str(out), "--at-once", "2"]) == 0
    assert started[0] == "runs/one/more/tune-0" and len(started) == 1 + 8
    del started[:]
    assert main(["run", str(out)]) == 0 and started == []
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert "training" not in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    by_name = {result["contestant"]: result for result in report["results"]}
    # 0.2 + 0.015 + 0.1 is to be reached: with masks of 30% half the budget brings 0.28, the whole 0.33; the wide one had its lower rate.
    assert by_name["more"]["share"] == pytest.approx(math.exp(math.log(0.5) * (1 - 0.7)), rel=1e-6)
    assert by_name["more"]["settings"] == {"training.lr": 2e-3} and by_name["wide"]["settings"] == {"training.lr": 1e-3}
    assert by_name["wide"]["share"] is None and by_name["plain"]["share"] == 1.0
    assert [len(budget["seeds"]) for budget in by_name["more"]["budgets"]] == [2, 2] and len(
        by_name["wide"]["budgets"][0]["seeds"]
    ) == 1
    assert by_name["plain"]["budgets"][0]["seconds"] == 2.5 and len(report["grid"]) == 6
    page = (out / "report.html").read_text()
    assert "<svg" in page and "not reached" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page and "src=" not in page


def test_a_task_of_slurm_learns_its_run_and_an_ended_one_is_noted(race_file: Path, monkeypatch, capsys) -> None:
    out = race_file.parent / "out"
    play(monkeypatch, {})
    main(["plan", str(race_file), "--out", str(out)])
    capsys.readouterr()
    task = ["task", str(out), "--stage", "tune", "--number"]
    assert main([*task, "3"]) == 0
    lines = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["RUN_DIR"] == str(out / "runs/one/more/tune-1") and lines["SHARDS"] == str(race_file.parent / "shards")
    assert load_recipe(lines["RECIPE"]).training.lr == 2e-3
    with pytest.raises(ConfigError, match="the stage tune has the runs 0 to 5"):
        main([*task, "6"])
    assert main([*task, "3", "--ended", "11"]) == 11 and not (out / "runs/one/more/tune-1/FAILED").exists()
    assert main([*task, "3", "--ended", str(NumericsError.exit_status)]) == 0
    assert RaceDir(out).tune_accuracy(tune_runs(read_race(race_file))[3]) == 0.0


def test_a_race_that_was_begun_keeps_its_grid_and_may_get_more_contestants(race_file: Path, capsys) -> None:
    out = race_file.parent / "out"
    main(["plan", str(race_file), "--out", str(out)])
    content = yaml.safe_load(race_file.read_text())
    content["contestants"]["less"] = {"training.mask_probability": 0.1}
    race_file.write_text(yaml.safe_dump(content, sort_keys=False))
    main(["plan", str(race_file), "--out", str(out)])
    assert len(tune_runs(RaceDir(out).read()[0])) == 8
    race_file.write_text(yaml.safe_dump(content | {"tune": {"training.lr": [1e-3]}}))
    with pytest.raises(ConfigError, match="was begun with another tune"):
        main(["plan", str(race_file), "--out", str(out)])
    with pytest.raises(InputError, match=r"no race\.json of a race"):
        main(["report", str(race_file.parent)])
    (out / "race.json").write_text("[]")
    with pytest.raises(InputError, match=r"no race\.json of a race"):
        main(["run", str(out)])


def test_the_orthogonalisation_of_muon_costs_steps(race_file: Path) -> None:
    race = read_race(race_file)
    race.contestants["muon"] = {"training.optimizer": "muon"}
    goal = target_flops(race, "one", (), LENGTH)
    plain, muon = (recipe_of(race, Run("one", name, "final", 1.0, 1), goal, (), "run", LENGTH, 1) for name in ("plain", "muon"))
    (flops, tokens), (flops_of_plain, tokens_of_plain) = flops_and_tokens(muon, LENGTH), flops_and_tokens(plain, LENGTH)
    updates = muon.training.max_steps * update_flops(muon)
    assert updates > 0 and flops == pytest.approx(tokens * flops_of_plain / tokens_of_plain + updates)
    assert muon.training.max_steps <= plain.training.max_steps


def test_a_race_needs_no_grid(race_file: Path) -> None:
    race = Race("base", "a", {"a": {}})
    assert [run.settings for run in tune_runs(race)] == [{}]
