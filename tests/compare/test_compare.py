"""Models on the same texts: paired intervals, the sentences that differ, the course of a run, and a page that shows them escaped."""

import json
import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from jadeberta.checkpoint.manifest import manifest_bytes
from jadeberta.compare.compare_command import main
from jadeberta.compare.compare_page import page
from jadeberta.compare.compared import course_of, is_decided, kept_checkpoints, most_different, pairs_of
from jadeberta.compare.jglue_results import read_jglue
from jadeberta.compare.text_files import RawText
from jadeberta.compare.text_scores import Sentence, TextScore
from jadeberta.errors import CheckpointError, ConfigError, InputError
from jadeberta.utils.files import file_sha256
from jadeberta.utils.paths import names_of
from tests.compare.toy_encoders import write_model
from tests.finetune import toy_model as toy

HOSTILE = "<script>alert(1)</script>犬がいる。"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release `ours`, a BERT `theirs`, a run of two checkpoints, and texts."""
    folder = tmp_path_factory.mktemp("compare")
    toy.make_model(folder / "ours")
    write_model(folder / "theirs", "bert")
    for step in (2, 4):
        write_checkpoint(folder / "ours", folder / f"run/checkpoints/step-{step:08d}", step)
    (folder / "a.txt").write_text(f"{HOSTILE}\n猫がいる。\n\n公園は広い。\n")
    return folder


def write_checkpoint(release: Path, directory: Path, step: int) -> None:
    """A checkpoint whose weights are those of a release and a little noise that grows with the step."""
    directory.mkdir(parents=True)
    for path in release.iterdir():
        if path.suffix != ".safetensors" and path.name != "pretraining_text.json":
            shutil.copyfile(path, directory / path.name)
    generator = torch.Generator().manual_seed(step)
    weights = {
        name: w + 0.01 * step * torch.randn(w.shape, generator=generator)
        for name, w in load_file(release / "model.safetensors").items()
    }
    save_file(weights, directory / "model.safetensors")
    fragments = {name: {"start": 0, "shape": list(w.shape)} for name, w in weights.items()}
    masters = {f"master.{name}": w.flatten() for name, w in weights.items()}
    save_file(masters, directory / "optimizer-00001-of-00001.safetensors", {"fragments": json.dumps(fragments)})
    state = {"data": toy.ORIGIN, "settings": {"data.packing": "concat"}, "fingerprints": {"tokenizer": "a" * 64}, "step": step}
    (directory / "state.json").write_text(json.dumps(state))
    files = {path.name: (path.stat().st_size, file_sha256(path)) for path in directory.iterdir()}
    (directory / "manifest.json").write_bytes(manifest_bytes(step, files))


def test_a_run_a_release_and_another_model_are_set_beside_each_other(folder: Path, tmp_path: Path, capsys) -> None:
    written = tmp_path / "out/compare.html"
    models = [str(folder / name) for name in ("run", "ours", "theirs")]
    arguments = [*models, "--texts", str(folder / "a.txt"), "--segmenter", "none", "--page", str(written)]
    assert main([*arguments, "--output", str(tmp_path / "o.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "o.json").read_text())
    assert [model["name"] for model in found["models"]] == ["run", "ours", "theirs"]
    assert [point["step"] for point in found["models"][0]["course"]] == [2, 4] and found["models"][1]["course"] == []
    assert found["models"][0]["course"][1]["bits_per_character"] == found["models"][0]["bits_per_character"]
    assert found["models"][0]["bits_per_character"] != found["models"][1]["bits_per_character"]
    pair = found["differences"][1]
    assert (pair["first"], pair["second"]) == ("run", "theirs")
    one, other = (found["models"][n]["bits_per_character"] for n in (0, 2))
    assert pair["bits_per_character"]["difference"] == pytest.approx(one - other)
    assert len(found["sentences"]) == 3 and any("<script>" in s["sentence"] for s in found["sentences"])
    html = written.read_text()
    assert "&lt;script&gt;alert(1)" in html and "<script>alert" not in html and "猫がいる。" in html
    assert "default-src 'none'" in html and "step 4" in html and "The models were not asked for the same words" in html
    assert "http://" not in html.replace("http://www.w3.org", "") and "src=" not in html


def score(bits: float, correct: int = 1) -> TextScore:
    return TextScore(4, bits, 0, 0, 0.0, correct, 2, 2, [Sentence(0, 4, 4, bits)])


def test_a_small_difference_on_every_document_is_decided_though_the_intervals_of_both_overlap() -> None:
    bits = np.random.default_rng(0).uniform(4, 40, 100).tolist()
    texts = [RawText("a", str(n), "一二三。") for n in range(100)]
    (pair,) = pairs_of(["one", "other"], texts, [[score(b) for b in bits], [score(b + 0.2) for b in bits]])
    difference = pair["bits_per_character"]
    assert difference["difference"] == pytest.approx(-0.05) and difference["interval"] == pytest.approx([-0.05, -0.05])
    assert is_decided(pair, "bits_per_character") and not is_decided(pair, "accuracy")


def test_the_sentences_that_differ_most_come_first_and_equal_ones_not_at_all() -> None:
    texts = [RawText("a", str(n), f"文{n}。") for n in range(30)]
    found = most_different(texts, [[score(float(n)) for n in range(30)], [score(2.0 * n) for n in range(30)]])
    assert [entry["document"] for entry in found] == [str(n) for n in range(29, 9, -1)]
    assert found[0]["bits_per_character"] == [29 / 4, 58 / 4] and found[0]["sentence"] == "文29。"
    same = [score(1.0) for _ in texts]
    assert most_different(texts, [same, same]) == []


def test_of_many_checkpoints_the_first_and_the_last_are_measured(folder: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 6):
        write_checkpoint(folder / "ours", tmp_path / f"checkpoints/step-{step:08d}", step)
    (tmp_path / "checkpoints/step-00000006/manifest.json").unlink()  # cannot be trusted
    kept = kept_checkpoints(tmp_path, 3)
    assert [int(path.name[5:]) for path in kept] == [1, 3, 5] and len(kept_checkpoints(tmp_path, 6)) == 5
    figures = {"bits_per_character": 1.0, "accuracy": 0.5, "interval": {}}
    course = course_of(kept, lambda path: None if path == kept[1] else figures)
    assert [point["step"] for point in course] == [1, 5]
    assert [path.name for path in kept_checkpoints(folder / "run", 1)] == ["step-00000004"]
    assert kept_checkpoints(folder / "run", 0) == [] and kept_checkpoints(folder / "ours", 6) == []


def test_a_kept_checkpoint_that_cannot_be_opened_is_refused_before_anything_is_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    weights = tmp_path / "run/checkpoints/step-00000002/model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])  # of the right size, which is all that is checked of large files
    monkeypatch.setattr("jadeberta.compare.compared.verify", lambda directory, small_only: [])
    monkeypatch.setattr("jadeberta.compare.compare_command.score_with_progress", None)
    with pytest.raises(CheckpointError, match="step-00000002"):
        main([str(tmp_path / "run"), str(folder / "ours"), "--texts", str(folder / "a.txt")])


def test_names_are_the_shortest_that_tell_models_apart() -> None:
    assert names_of([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert names_of([Path("/a/release"), Path("/b/release")]) == ["a/release", "b/release"]


@pytest.mark.parametrize(
    ("models", "options", "kind", "reason"),
    [
        (["ours"], [], ConfigError, "one model alone cannot be compared"),
        (["ours", "ours"], [], ConfigError, "a model is named twice"),
        (["ours", "theirs"], [], ConfigError, "Name the segmenter of its pre-training"),
        (["ours", "theirs"], ["--segmenter", "none", "none", "none"], ConfigError, "--segmenter names 3 for 2 models"),
        (["ours", "theirs"], ["--segmenter", "mecab", "none", "--jglue", "/nowhere"], InputError, "no results.json below it"),
        (["ours", "theirs"], ["--checkpoints", "-1"], ConfigError, "--checkpoints is -1"),
        (["ours", "theirs"], ["--checkpoints", "1"], ConfigError, "--checkpoints is 1; it must be 0, or at least 2"),
        (["ours", "theirs"], ["--page", "/"], ConfigError, "^--page /: is a directory"),
        (["ours", "theirs"], ["--page", "/tmp/./x", "--output", "/tmp/x"], ConfigError, "--page and --output are both"),
        (["ours", "missing"], ["--segmenter", "none"], CheckpointError, "no such directory"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    models: list[str], options: list[str], kind: type[Exception], reason: str, folder: Path
) -> None:
    with pytest.raises(kind, match=reason) as refused:
        main([*(str(folder / name) for name in models), "--texts", str(folder / "a.txt"), *options])
    assert type(refused.value) is kind and "\n" not in str(refused.value)


def test_results_of_jglue_are_shown_by_task(tmp_path: Path) -> None:
    chosen = {"mean": {"valid": {"accuracy": 0.5}}, "seeds": [0, 1], "lr": 5e-5, "epochs": 3}
    for name, content in (
        ("a", {"task": "jnli", "model_directory": "/m/one", "chosen": chosen}),
        ("b", {"task": "jnli", "model_directory": "/m/two", "chosen": None}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(orjson.dumps(content))
    found = read_jglue(tmp_path)
    assert found["jnli"]["models"]["/m/one"]["scores"] == {"accuracy": 0.5} and "/m/two" not in found["jnli"]["models"]
    figures = {"bits_per_character": 1.0, "accuracy": 0.5, "interval": {"bits_per_character": None, "accuracy": None}}
    model = figures | {
        "name": "one", "words": "words", "unknown_characters": 0, "changed_characters": 0, "parameters": 1, "characters": 4,
        "files": {"a": figures | {"documents": 1}}, "course": [],
    }  # fmt: skip
    html = page({"models": [model], "documents": 1, "differences": [], "sentences": [], "jglue": found})
    assert "accuracy 0.5000" in html and "(no interval)" in html
    (tmp_path / "a/results.json").write_text("{}")
    with pytest.raises(InputError, match="not the result of 'jadeberta finetune'"):
        read_jglue(tmp_path)
