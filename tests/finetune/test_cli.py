"""`jadeberta finetune` from files to results: every task is learnt, points are kept, and what cannot be compared is not mixed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from jadeberta.checkpoint.manifest import MANIFEST_NAME, manifest_bytes
from jadeberta.checkpoint.state_dict import save_tensors
from jadeberta.errors import ConfigError, InputError, NumericsError
from jadeberta.finetune import experiment
from jadeberta.finetune.cli import main
from jadeberta.finetune.jglue_files import find_files
from jadeberta.finetune.pretrained import build, load_pretrained
from jadeberta.finetune.tasks import TASKS
from jadeberta.finetune.trainer import Diverged
from jadeberta.utils.files import file_sha256
from tests.finetune import toy_model as toy
from tests.fork_server import fork_server
from tests.helpers import ROOT

LEARNS = ["--setting", "5e-3,5", "--batch-size", "8", "--max-length", "32"]
HURRIES = ["--batch-size", "16", "--max-length", "32"]
"""For tests that are not about what is learnt."""


def run(model: Path, data: Path, out: Path, *options: str, task: str = "jnli") -> dict:
    """The results of a good end."""
    assert main(["--task", task, "--model", str(model), "--data", str(data), "--out", str(out), *options]) == 0
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("jglue")
    for task in TASKS:
        toy.write_task(folder, task, train=90, valid=30)
    return folder


# JNLI learns as MARC-ja does, with a second text, and JCoLA with other labels.
@pytest.mark.parametrize("task", [pytest.param(t, marks=pytest.mark.long) if t in ("jnli", "jcola") else t for t in TASKS])
def test_each_task_is_learnt_by_a_small_model(model, data, tmp_path, capsys, task) -> None:
    found = run(model, data, tmp_path / "out", *LEARNS, task=task)
    (trial,) = found["points"]
    assert set(trial["scores"]) == {"valid"} and set(trial["scores"]["valid"]) == {*TASKS[task].metrics, *TASKS[task].also}
    assert trial["scores"]["valid"][TASKS[task].chosen_by] > 0.9
    assert (
        trial["rows"] == {"train": 90, "valid": 30}
        and trial["steps"] == 5 * math.ceil(trial["examples"] / 8)
        and trial["versions"]["torch"]
    )
    assert found["segmenter"]["engine"] == "mecab" and found["model"]["sha256"] == load_pretrained(model).sha256
    assert found["data"]["train"] == file_sha256(find_files(data, TASKS[task])["train"])
    rows = (tmp_path / "out/predictions" / f"{trial['name']}-valid.jsonl").read_text().splitlines()
    assert len(rows) == 30 and set(json.loads(rows[0])) == {"id", "predicted", "wanted"}
    printed = capsys.readouterr().out
    assert "DeBERTa V2 large" in printed and "One setting: nothing was chosen." in printed


def test_a_grid_is_summed_up_chosen_by_its_rule_and_what_is_done_is_not_done_again(model, data, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    train = toy.write_pairs_apart(tmp_path / "train.json", 90)
    options = ["--setting", "5e-3,1", "--setting", "1e-4,1", "--seeds", "1,2", "--choose-on", "fold", *HURRIES]
    options += ["--train", str(train)]
    first = run(model, data, out, *options)
    assert [p["name"] for p in first["points"]] == [f"lr-{lr}-epochs-1-seed-{s}" for lr in ("0.0001", "0.005") for s in (1, 2)]
    assert all(
        set(p["scores"]) == {"valid", "fold"} and p["rows"] == {"train": 81, "fold": 9, "valid": 30} for p in first["points"]
    )
    means = {s["lr"]: s["mean"]["fold"]["accuracy"] for s in first["settings"]}
    assert first["chosen"]["mean"]["fold"]["accuracy"] == max(means.values())
    assert "the scores on valid played no part" in first["rule"] and "±" in capsys.readouterr().out
    removed, kept = out / "points/lr-0.005-epochs-1-seed-1.json", out / "points/lr-0.005-epochs-1-seed-2.json"
    predicted = (out / "predictions/lr-0.005-epochs-1-seed-1-fold.jsonl").read_bytes()
    before = kept.stat().st_mtime_ns
    removed.unlink()
    again = run(model, data, out, *options)
    assert kept.stat().st_mtime_ns == before and removed.exists()
    assert [p["scores"] for p in again["points"]] == [p["scores"] for p in first["points"]]
    assert (out / "predictions/lr-0.005-epochs-1-seed-1-fold.jsonl").read_bytes() == predicted
    assert "points to train on cpu: 1" in capsys.readouterr().out


def test_points_of_a_job_array_share_a_directory_and_the_last_one_sums_up(model, data, tmp_path) -> None:
    options = ["--setting", "1e-3,1", "--setting", "1e-4,1", "--pool", "7", *HURRIES]
    assert len(run(model, data, tmp_path, *options, "--point", "0")["points"]) == 1
    assert len(run(model, data, tmp_path, *options, "--point", "1")["points"]) == 2
    with pytest.raises(ConfigError, match="--point 2: there are 2 points, 0 to 1"):
        run(model, data, tmp_path, *options, "--point", "2")
    with pytest.raises(ConfigError, match="give each its own --point"):
        run(model, data, tmp_path, *options)


def test_points_of_another_model_data_set_or_conduct_are_not_mixed_in(model, data, tmp_path) -> None:
    options = ["--setting", "1e-3,1", *HURRIES]
    run(model, data, tmp_path / "out", *options)
    with pytest.raises(ConfigError, match=r"was made with conduct.max_length 32, this is 24. Name another --out"):
        run(model, data, tmp_path / "out", *options, "--max-length", "24")
    other = toy.write_task(tmp_path / "other", "jnli", train=60)
    with pytest.raises(ConfigError, match=r"was made with data.train "):
        run(model, other, tmp_path / "out", *options)
    (tmp_path / "out/points/lr-0.001-epochs-1-seed-42.json").write_text("{")
    with pytest.raises(InputError, match=r"seed-42.json: not readable as a point"):
        run(model, data, tmp_path / "out", *options)


def test_a_second_process_in_the_same_directory_is_refused(model, data, tmp_path) -> None:
    hold = (
        "import pathlib, sys; from jadeberta.shards import DirectoryLock; "
        "lock = DirectoryLock(pathlib.Path(sys.argv[1]), 'x'); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} on .* works there already"):
            run(model, data, tmp_path, "--setting", "1e-3,1", *HURRIES)
        holder.kill()


def test_after_a_kill_finished_points_stay_and_the_rest_is_trained(model, data, tmp_path) -> None:
    options = ["--setting", "1e-3,1", "--setting", "1e-4,15", *HURRIES]
    arguments = ["finetune", "--task", "jnli", "--model", str(model), "--data", str(data), "--out", str(tmp_path), *options]
    first = tmp_path / "points/lr-0.001-epochs-1-seed-42.json"
    with open(tmp_path / "log", "wb") as log:
        process = fork_server("").start(arguments, dict(os.environ), log.fileno(), log.fileno())
    end = time.monotonic() + 120
    while not first.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "results.json").exists()
    before = first.read_bytes()
    assert len(run(model, data, tmp_path, *options)["points"]) == 2 and first.read_bytes() == before


def test_a_dry_run_reads_everything_numbers_the_points_and_writes_nothing(model, data, tmp_path, capsys) -> None:
    arguments = [
        "--task",
        "jsquad",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--grid",
        "--dry-run",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "rows: train 90, valid 30; pieces allow EM 1.0000 on valid" in printed
    assert "point 0  lr-5e-05-epochs-3-seed-42" in printed and "point 5  lr-2e-05-epochs-4-seed-42" in printed
    assert not (tmp_path / "out").exists()


def test_a_test_set_beside_the_others_is_scored_too(model, data, tmp_path) -> None:
    folder = shutil.copytree(data / "marc_ja-v1.3", tmp_path / "marc_ja-v1.3")
    shutil.copyfile(folder / "valid-v1.3.json", folder / "test-v1.3.json")
    (trial,) = run(model, tmp_path, tmp_path / "out", "--setting", "1e-3,1", *HURRIES, task="marc-ja")["points"]
    assert trial["scores"]["test"] == trial["scores"]["valid"]


@pytest.mark.parametrize("task", ["marc-ja", "jsquad"])
def test_a_test_set_without_labels_is_predicted_and_not_scored(model, data, tmp_path, capsys, task) -> None:
    """JGLUE's own script takes the labels of MARC-ja's test set away."""
    name = TASKS[task].folder
    folder = shutil.copytree(data / f"{name}-v1.3", tmp_path / f"{name}-v1.3")
    toy.write_unlabelled(folder / "test-v1.3.json", task, 7)
    (trial,) = run(model, tmp_path, tmp_path / "out", "--setting", "1e-3,1", *HURRIES, task=task)["points"]
    assert set(trial["scores"]) == {"valid"} and trial["not_scored"] == ["test"] and trial["rows"]["test"] == 7
    rows = [json.loads(line) for line in (tmp_path / "out/predictions" / f"{trial['name']}-test.jsonl").read_text().splitlines()]
    assert len(rows) == 7 and all(set(row) == {"id", "predicted"} for row in rows)
    assert "without labels, predicted and not scored: test" in capsys.readouterr().out


def test_both_files_named_need_no_folder_and_truncated_rows_are_counted(model, data, tmp_path) -> None:
    files = [f"--{split}={data / f'jsts-v1.3/{split}-v1.3.json'}" for split in ("train", "valid")]
    options = ["--task", "jsts", "--model", str(model), "--out", str(tmp_path), "--setting", "1e-3,1", "--batch-size", "16"]
    assert main([*options, "--max-length", "8", *files]) == 0
    (trial,) = json.loads((tmp_path / "results.json").read_text())["points"]
    assert trial["truncated_rows"] == {"train": 90, "valid": 30}


def test_a_kept_model_is_loaded_by_transformers_and_predicts_what_was_recorded(model, data, encoder, tmp_path) -> None:
    name = run(model, data, tmp_path, *LEARNS, task="marc-ja")["points"][0]["name"]
    assert not (tmp_path / "models").exists()
    run(model, data, tmp_path, *LEARNS, "--save-models", task="marc-ja")  # a finished point without its model is trained again
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "models" / name).eval()
    assert (
        kept.config.id2label == {0: "positive", 1: "negative"} and (tmp_path / "models" / name / "pretraining_text.json").exists()
    )
    rows = toy.rows_of("marc-ja", 6)
    recorded = [json.loads(r) for r in (tmp_path / f"predictions/{name}-valid.jsonl").read_text().splitlines()]
    for row, record in zip(rows, recorded, strict=False):
        ids = torch.tensor([[encoder.cls, *encoder([row["sentence"]])[row["sentence"]].ids, encoder.sep]])
        assert kept.config.id2label[int(kept(ids).logits.argmax())] == record["predicted"]


def make_checkpoint(model: Path, directory: Path) -> Path:
    """A checkpoint whose working weights are bf16 and whose masters are the model's, in two pieces; the average is twice that."""
    directory.mkdir(parents=True)
    masters = load_file(model / "model.safetensors")
    save_tensors(directory / "model.safetensors", {n: t.bfloat16() for n, t in masters.items()}, {"format": "pt"})
    for rank in range(2):
        pieces, places = {}, {}
        for name, tensor in masters.items():
            cut = tensor.numel() // 2
            piece = tensor.flatten()[:cut] if rank == 0 else tensor.flatten()[cut:]
            pieces |= {f"master.{name}": piece.clone(), f"ema.{name}": 2 * piece}
            places[name] = {"start": rank * cut, "shape": list(tensor.shape)}
        save_tensors(directory / f"optimizer-{rank + 1:05d}-of-00002.safetensors", pieces, {"fragments": json.dumps(places)})
    (directory / "state.json").write_bytes(orjson.dumps({"data": toy.ORIGIN}))
    shutil.copyfile(model / "spm.model", directory / "spm.model")
    config = json.loads((model / "config.json").read_text()) | {"dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(config))
    files = {path.name: (path.stat().st_size, file_sha256(path)) for path in directory.iterdir()}
    (directory / MANIFEST_NAME).write_bytes(manifest_bytes(1, files))
    return directory


def test_a_run_fine_tunes_with_its_master_weights_as_its_export_does(model, tmp_path) -> None:
    make_checkpoint(model, tmp_path / "checkpoints/step-00000001")
    exported, of_run = load_pretrained(model), load_pretrained(tmp_path)
    assert of_run.sha256 == exported.sha256 and of_run.origin == exported.origin
    assert of_run.tokenizer_sha256 == exported.tokenizer_sha256
    average = load_pretrained(tmp_path, "ema").weights
    assert all(average[name].equal(2 * weight) for name, weight in exported.weights.items())
    assert {p.dtype for p in build(of_run, TASKS["jnli"], 1).parameters()} == {torch.float32}


def test_a_model_that_does_not_say_its_engine_needs_the_option(model, data, tmp_path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    (other / "pretraining_text.json").unlink()
    with pytest.raises(ConfigError, match="does not say which word segmenter"):
        run(other, data, tmp_path / "out", "--setting", "1e-3,1", *HURRIES)
    assert run(other, data, tmp_path / "out", "--setting", "1e-3,1", "--segmenter", "mecab", *HURRIES)["points"]


@pytest.mark.parametrize(
    "options,message",
    [
        (["--setting", "3e-5"], "'3e-5' is not a learning rate and a number of epochs"),
        (["--setting", "3,4"], "'3,4' is not a learning rate and a number of epochs"),
        (["--seeds", "1,x"], "'1,x' is not a list of seeds"),
        (["--seeds", "4294967296"], "is not a list of seeds from 0 to 4294967295"),
        (["--grid", "--setting", "3e-5,4"], "not allowed with"),
        (["--max-length", "513"], "--max-length 513: must lie between 8 and 512"),
        (["--batch-size", "0"], "'0' is not a whole number above 0"),
        (["--weights", "ema"], "an export has one set of weights"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(model, data, tmp_path, options, message) -> None:
    with pytest.raises(Exception, match=message) as refusal:
        run(model, data, tmp_path / "out", *options)
    assert type(refusal.value).__module__ == "jadeberta.errors" and not (tmp_path / "out").exists()


def test_where_nothing_learnt_has_numbers_the_command_fails_and_says_so(model, data, tmp_path, capsys, monkeypatch) -> None:
    def diverge(*_: object) -> float:
        raise Diverged

    monkeypatch.setattr(experiment, "train", diverge)
    with pytest.raises(NumericsError, match="the loss was not finite at any point"):
        run(model, data, tmp_path, "--setting", "0.99,1", *HURRIES)
    assert "1 (1 diverged)" in capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["points"][0]["diverged"] and found["chosen"] is None
