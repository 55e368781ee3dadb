"""A card never shows the figures of some rows as if they were of all."""

import json
import math
import os
from pathlib import Path

import pytest

from jadeberta.errors import CheckpointError, NothingToResume
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.release.card import _evaluation
from jadeberta.release.export import read_evaluation

FIGURES = {"accuracy": 0.5, "loss": 2.0, "unigram_accuracy": 0.1, "masked_tokens": 100, "sequences": 16}


def evaluation(**changes: object) -> dict:
    return {"mask_probability": 0.15, "corpora": {"web": FIGURES}, "all": FIGURES} | changes


def test_figures_of_all_held_out_rows_are_said_to_be_that() -> None:
    for whole in (evaluation(), evaluation(limit=0, sequences_available=16, is_partial=False, split="valid")):
        assert "\nMasked tokens of held-out documents (15% masked).\n" in _evaluation(whole)


@pytest.mark.parametrize("limit", [8, 0])
def test_figures_of_a_part_say_so_with_both_numbers(limit: int) -> None:
    text = _evaluation(evaluation(limit=limit, sequences_available=4096, is_partial=True))
    assert "**a part of the held-out documents**, 16 of 4,096 sequences" in text
    assert ("at most 8 of each corpus" in text) == bool(limit)


def test_figures_of_training_rows_are_not_called_held_out() -> None:
    assert "Masked tokens of training documents, not held-out ones" in _evaluation(evaluation(split="train"))


def test_the_interval_of_an_accuracy_stands_beside_it_and_a_missing_one_is_said_to_be_missing() -> None:
    measured = FIGURES | {"interval": {"accuracy": [0.45, 0.55], "loss": [1.9, 2.1]}}
    text = _evaluation(evaluation(all=measured))
    assert "| web | 0.5000 | not measured |" in text and "| all | 0.5000 | 0.4500 to 0.5500 |" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"all": FIGURES | {"interval": [0.4, 0.6]}}, "interval is"),
        ({"all": FIGURES | {"interval": {"accuracy": [0.4]}}}, "interval is"),
        ({"all": FIGURES | {"interval": {"accuracy": [0.4, math.nan]}}}, "all: end 2 of the interval of accuracy is nan"),
        ({"mask_probability": "0.15"}, "mask_probability is 0.15"),
        ({"mask_probability": True}, "mask_probability is True"),
        ({"limit": 1.5}, "limit is 1.5"),
        ({"all": FIGURES | {"accuracy": math.nan}}, "all: accuracy is nan"),
        ({"corpora": {"web": FIGURES | {"loss": None}}}, "web: loss is None"),
        ({"all": FIGURES | {"masked_tokens": -1}}, "all: masked_tokens is -1"),
        ({"all": {"accuracy": 1}}, "figures are missing in it"),
        ({"corpora": []}, "not the JSON of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_figures_that_are_none_are_refused_before_the_release_is_made(changes: dict, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(evaluation(**changes)))
    with pytest.raises(CheckpointError, match=f"{reason}.*; make it anew with 'jadeberta evaluate mlm --output'"):
        read_evaluation(path)


def test_an_evaluation_that_is_no_file_of_json_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "null").write_text("null")
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in {
        "pipe": "a pipe or a device", "deep": "not the JSON of", "null": "not the JSON of", "loop": "cannot be read", "none": "No such file"
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=reason) as refused:
            read_evaluation(tmp_path / name)
        assert "Errno" not in str(refused.value) and "NoneType" not in str(refused.value)


def test_a_whole_evaluation_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(evaluation(limit=8, sequences_available=16)))
    assert read_evaluation(path) == evaluation(limit=8, sequences_available=16)


def test_a_run_whose_checkpoints_are_damaged_is_refused_without_an_option_that_nobody_gave(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{")
    with pytest.raises(NothingToResume, match=r"checkpoints: no checkpoint there can be trusted\. Name another run; "):
        resolve_checkpoint(tmp_path)
