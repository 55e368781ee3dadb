"""What a model is compared with: baselines without pre-training, other models and published rows in one table."""

import json
from pathlib import Path

import orjson
import pytest

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.cli import main
from jadeberta.finetune.comparison.trivial import dice, grams, trivial_scores
from jadeberta.finetune.jglue_files import JglueRow, read_rows
from jadeberta.finetune.tasks import TASKS
from tests.finetune import toy_model as toy
from tests.helpers import SHARED_DATA

JGLUE = SHARED_DATA / "jglue"


def test_dice_of_runs_is_that_counted_by_hand() -> None:
    assert grams("Ａ bc") == {"A", "b", "c", "Ab", "bc", "Abc"}
    assert dice(grams("abc"), grams("ab")) == 2 * 3 / (6 + 3) and dice(set(), set()) == 0


@pytest.mark.skipif(not JGLUE.is_dir(), reason=f"JGLUE's own files are not in {JGLUE}")
def test_overlap_of_characters_reaches_what_is_known_of_jsts() -> None:
    """0.63 and 0.67 without any training; a model below it has learnt nothing."""
    rows = read_rows(JGLUE / "jsts-v1.3/valid-v1.3.json", TASKS["jsts"])
    found = trivial_scores(TASKS["jsts"], {"train": rows[:300], "valid": rows})
    assert found["character overlap"]["valid"]["pearson"] == pytest.approx(0.630, abs=0.006)
    assert found["character overlap"]["valid"]["spearman"] == pytest.approx(0.672, abs=0.002)
    assert "majority" not in found, "a constant correlates with nothing"


def test_the_bag_of_characters_learns_what_a_character_decides_and_gives_the_same_again() -> None:
    rows = [JglueRow(str(n), (str(n),), (f"{'良' if n % 3 else '悪'}い本{n}",), float(n % 3 > 0)) for n in range(240)]
    both = [trivial_scores(TASKS["marc-ja"], {"train": rows[:200], "valid": rows[200:]}) for _ in range(2)]
    assert both[0] == both[1] and both[0]["bag of characters"]["valid"]["accuracy"] == 1
    assert both[0]["majority"]["valid"]["accuracy"] == sum(row.label for row in rows[200:]) / 40


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    """Two models, one of them the control, on two tasks."""
    folder = tmp_path_factory.mktemp("table")
    for task in ("jnli", "jsquad"):
        toy.write_task(folder / "data", task, train=12, valid=6)
        for name, more in (("model", ()), ("control", ("--from-random",))):
            out = ["--out", str(folder / name / task), "--setting", "1e-3,1", "--batch-size", "8", "--max-length", "32"]
            assert main(["--task", task, "--model", str(model), "--data", str(folder / "data"), *out, *more]) == 0
    return folder


def test_results_of_models_and_tasks_are_one_table_beside_baselines_and_published_rows(trained, capsys) -> None:
    assert main(["table", str(trained / "model"), str(trained / "control/jnli")]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header == ["model", "jnli accuracy", "jsquad EM", "jsquad F1", "jsquad EM (scripts)", "jsquad F1 (scripts)"]
    rows = {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines[2:])}
    means = {
        task: json.loads((trained / "model" / task / "results.json").read_text())["chosen"]["mean"]["valid"]
        for task in ("jnli", "jsquad")
    }
    assert rows["model"] == [f"{means['jnli']['accuracy']:.3f}", *(f"{value:.3f}" for value in means["jsquad"].values())]
    assert rows["model, random weights"][1:] == ["-"] * 4 and rows["without pre-training: majority"][0] == "0.333"
    assert rows["published: DeBERTa V2 large"] == ["0.924", "-", "-", "0.912", "0.959"], "measured by the scripts' definition"
    assert rows["published: NICT BERT base (JGLUE)"] == ["0.909", "0.897", "0.947", "-", "-"]
    assert main(["table", "--json", str(trained / "model")]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert found["models"]["model"]["jsquad"] == means["jsquad"] and found["published"]["LUKE base"] == {
        "jnli": {"accuracy": 0.912, "accuracy_1.1": 0.912}
    }


def test_all_tasks_whose_files_are_there_run_each_in_its_folder(trained, model, tmp_path, capsys) -> None:
    options = ["--task", "all", "--model", str(model), "--setting", "1e-3,1"]
    assert main([*options, "--data", str(trained / "data"), "--out", str(tmp_path / "all")]) == 0
    assert "NOTE: jsts is left out" in capsys.readouterr().out
    assert sorted(path.parent.name for path in (tmp_path / "all").glob("*/results.json")) == ["jnli", "jsquad"]
    with pytest.raises(ConfigError, match="--max-length is for one task"):
        main([*options, "--data", str(trained / "data"), "--max-length", "32"])
    with pytest.raises(InputError, match="no task of JGLUE there"):
        main([*options, "--data", str(tmp_path)])


def test_results_that_are_not_comparable_are_not_in_one_table(trained, tmp_path) -> None:
    found = orjson.loads((trained / "model/jnli/results.json").read_bytes())
    for name, change, message in (
        ("twice", {}, "are both of jnli and model"),
        ("data", {"data": {"valid": "0"}, "model_directory": "/other"}, "was scored on another dev file of jnli"),
        ("broken", {"data": None}, "not readable as results of finetune"),
    ):
        other = tmp_path / name
        other.mkdir()
        (other / "results.json").write_bytes(orjson.dumps(found | change))
        with pytest.raises((ConfigError, InputError), match=message):
            main(["table", str(trained / "model"), str(other)])
    with pytest.raises(InputError, match=r"no results.json there or in its folders"):
        main(["table", str(tmp_path / "twice" / "..") + "/none"])


def test_baselines_stand_in_the_results_and_are_not_computed_twice(trained, model, capsys, monkeypatch) -> None:
    found = orjson.loads((trained / "model/jnli/results.json").read_bytes())
    assert set(found["trivial"]) == {"majority", "bag of characters"}
    monkeypatch.setattr("jadeberta.finetune.experiment.trivial_scores", None)
    out = ["--out", str(trained / "model/jnli"), "--setting", "1e-3,1", "--batch-size", "8", "--max-length", "32"]
    assert main(["--task", "jnli", "--model", str(model), "--data", str(trained / "data"), *out]) == 0
    assert "without pre-training" in capsys.readouterr().out
