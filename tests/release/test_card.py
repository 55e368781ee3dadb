"""The card: what others counted and scored is read from their files, tied by hash, and hostile names stay text."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jadeberta.errors import CheckpointError
from jadeberta.release.card import Further, _training, write_card
from jadeberta.release.card_tables import jglue_section, preprocessing_section, read_jglue, refuse_foreign_scores
from jadeberta.release.export import _licence, attempts_with_steps
from jadeberta.release.markdown import in_table, in_text, in_yaml
from jadeberta.shards import INDEX_NAME, ShardIndex
from tests.helpers import make_shards

HOSTILE = "a|b\n# <script>alert(1)</script> [x](http://e.vil) `c` \"': - \u2028 &amp; ![i](j) \ud800"
SETTINGS = {
    "training.lr": 1e-3, "training.global_batch_size": 8, "training.optimizer": "adamw", "training.adam_beta1": 0.9,
    "training.adam_beta2": 0.999, "training.adam_eps": 1e-6, "training.weight_decay": 0.01, "training.max_grad_norm": 1.0,
    "training.whole_word_mask": True, "training.mask_probability": 0.15, "model.hidden_dropout_prob": 0.1,
    "model.attention_probs_dropout_prob": 0.1, "data.packing": "concat",
}  # fmt: skip
FIGURES = {"accuracy": 0.5, "loss": 2.0, "unigram_accuracy": 0.1, "masked_tokens": 100, "sequences": 16}


def state_of(shards: Path, name: str = "web") -> dict[str, Any]:
    index = ShardIndex.load(shards / INDEX_NAME)
    training = {"schedule": "linear", "warmup_steps": 1, "micro_batch_size": 1, "lr": 1e-3}
    return {
        "step": 3, "tokens": 99, "precision": "fp32", "world_size": 1, "zero_stage": 1, "seed": 1, "versions": {"torch": "2"},
        "settings": SETTINGS, "recipe": {"data": {"shards": str(shards)}, "training": training, "phases": []},
        "fingerprints": {"shards": index.fingerprint, "tokenizer": index.tokenizer_sha256},
        "data": {
            "corpora": {name: {"documents": 1, "sequences": 2, "tokens": 3, "repeats": 1}}, "sequence_length": 512, "vocab_size": 99,
            "segmenter": {"engine": "mecab", "version": name}, "normaliser": "nfkc-space-2", "sentence_splitter": "x",
        },
    }  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    made = make_shards(tmp_path / "shards", {"web": (4, 1)})
    extract = {"web": {"documents": 12, "dropped": {"too|short": 5}, "files": {"jawiki-20221020.xml": {}}}}
    segment = {"web": {"sentences": 1234, "bytes": 56789, "quarantined": {"timeout": 2}}}
    tokenizer = {"sha256": ShardIndex.load(made / INDEX_NAME).tokenizer_sha256, "coverage": {"one_piece": 0.99}}
    report = {"extract": extract, "segment": segment, "tokenizer": tokenizer}
    (made / "report.json").write_text(json.dumps({stage: {"result": result} for stage, result in report.items()}))
    return made


def test_counts_are_those_of_the_report_and_a_missing_one_says_so(shards: Path) -> None:
    text = preprocessing_section(state_of(shards))
    assert "| web | 12 | 1,234 | 56,789 | " in text and "too\\|short 5" in text and "sentences, timeout 2" in text
    assert "jawiki-20221020.xml" in text and "words of one token: 99.00%, unknown tokens: not known" in text and "sha256" in text
    report = json.loads((shards / "report.json").read_text())
    del report["segment"]
    (shards / "report.json").write_text(json.dumps(report))
    assert "| web | 12 | not known | not known | " in preprocessing_section(state_of(shards))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("{", "is damaged"), ("[]", "is damaged"), ('{"tokenizer": {"result": {"sha256": "0"}}}', "of another tokenizer"), (None, "was no")],
)  # fmt: skip
def test_a_report_of_others_gives_no_number(shards: Path, damage: str | None, reason: str) -> None:
    (shards / "report.json").unlink()
    if damage is not None:
        (shards / "report.json").write_text(damage)
    text = preprocessing_section(state_of(shards))
    assert reason in text and "| web |" not in text


def test_counts_of_other_shards_are_left_out(shards: Path) -> None:
    state = state_of(shards)
    state["fingerprints"]["shards"] = "0" * 64
    assert "not those of the training" in preprocessing_section(state)


def test_a_start_that_was_refused_is_no_attempt(shards: Path, tmp_path: Path) -> None:
    ledger: list[dict[str, Any]] = [{"event": "start", "attempt": n, "time": float(n)} for n in range(4)]
    ledger += [{"event": "resume", "attempt": 1}, {"event": "resume", "attempt": 2}, {"event": "save", "attempt": 0}]
    (tmp_path / "metrics.jsonl").write_text('{"step":1,"attempt":0,"life":0}\n{"step":2,"attempt":1}\n{"step":3,"att')
    steps = attempts_with_steps(tmp_path / "metrics.jsonl")
    assert steps == {0, 1} and attempts_with_steps(tmp_path / "none") == frozenset()
    assert "| attempts | 2, of which 1 resumed from a checkpoint |" in _training(state_of(shards), ledger, "trained", steps)


def results(**changes: Any) -> dict[str, Any]:
    chosen = {
        "lr": 2e-5,
        "epochs": 3,
        "seeds": [1, 2],
        "mean": {"valid": {"accuracy": 0.75}},
        "deviation": {"valid": {"accuracy": 0.01}},
    }
    base = {
        "task": "jnli",
        "model": {"sha256": "f" * 64},
        "chosen": chosen,
        "rule": "One setting.",
        "files": {"valid": "a/valid-v1.3.json"},
    }
    return base | changes


def write_results(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results(**changes)))
    return folder


def test_jglues_scores_are_shown_with_how_they_were_found(tmp_path: Path) -> None:
    found = read_jglue([write_results(tmp_path / "jnli")])
    assert "| jnli | accuracy | 0.7500 | 0.0100 | 2e-05 | 3 | 2 | 1.3 | `jnli/results.json` " in jglue_section(found)
    refuse_foreign_scores(found, {"f" * 64})
    with pytest.raises(CheckpointError, match=r"jnli/results\.json: scores of other weights"):
        refuse_foreign_scores(found, {"0" * 64})
    assert "Not measured" in jglue_section(None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": None}, "no setting is chosen"), ({"chosen": {}}, "KeyError"), ({"model": {}}, "not the results"), ({"task": []}, None),
        ({"chosen": results()["chosen"] | {"mean": {"valid": {"accuracy": float("nan")}}}}, "no numbers"),
        ({"model": None}, "not the results"),
    ],
)  # fmt: skip
def test_results_that_are_none_are_refused(tmp_path: Path, changes: dict, reason: str | None) -> None:
    folder = write_results(tmp_path / "out", **changes)
    if reason is None:
        assert read_jglue([folder])  # any name of a task is text
        return
    with pytest.raises(CheckpointError, match=reason):
        read_jglue([folder])


def test_a_missing_or_second_result_of_a_task_is_refused(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "out")
    with pytest.raises(CheckpointError, match="a second result of jnli"):
        read_jglue([folder, folder])
    with pytest.raises(CheckpointError, match="No such file"):
        read_jglue([tmp_path / "none"])


def test_hostile_names_stay_text_in_markdown_and_yaml(shards: Path, tmp_path: Path) -> None:
    evaluation = {"mask_probability": 0.15, "corpora": {HOSTILE: FIGURES}, "all": FIGURES}
    card = tmp_path / "README.md"
    config = {"num_hidden_layers": 2, "hidden_size": 8}
    scores = [results(task=HOSTILE, file=HOSTILE, file_sha256="0" * 64)]
    write_card(
        card, config, state_of(shards, HOSTILE), [], evaluation, [("|x|", 0.5)], "trained", "[MASK]", Further("cc-by-4.0", scores)
    )
    text = card.read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    read = yaml.safe_load(front)
    shown = HOSTILE.replace("\ud800", "\ufffd")
    assert read["datasets"] == [shown] and read["license"] == "cc-by-4.0" and read["metrics"] == ["accuracy"]
    assert [r["dataset"]["name"] for r in read["model-index"][0]["results"]] == [f"held-out {shown}", f"JGLUE {shown}"]
    assert "<script>" not in body and not re.search(r"(?<!\\)\]\(http", body) and "\n# <" not in body and "http://" not in body
    rows = [line for line in body.splitlines() if "alert" in line and line.startswith("|")]
    assert rows and len({line.replace("\\|", "").count("|") for line in rows if "0.5000" in line}) == 1


def test_what_is_not_known_is_said(shards: Path, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    write_card(card, {"num_hidden_layers": 2, "hidden_size": 8}, state_of(tmp_path / "shards"), [], None, [("x", 0.5)])
    text = card.read_text(encoding="utf-8")
    assert (
        "Masked accuracy: not measured." in text and "## JGLUE\n\nNot measured." in text and "## Licence\n\nNot stated." in text
    )
    assert "license" not in yaml.safe_load(text.split("---\n")[1])


def test_a_licence_is_a_key_of_the_hub() -> None:
    assert _licence("cc-by-sa-4.0") == "cc-by-sa-4.0"
    for wrong in ("", "MIT licence", "mit\nx: y", "[a]", "a" * 60):
        with pytest.raises(argparse.ArgumentTypeError, match="no key of a licence"):
            _licence(wrong)


def test_names_are_shortened_and_kept_on_one_line() -> None:
    assert in_text("a\nb") == "a b" and in_table("") == "-" and len(in_text("x" * 500)) == 200
    assert yaml.safe_load(in_yaml("[MASK]: \u2028")) == "[MASK]: \u2028"
