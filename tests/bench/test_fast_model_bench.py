"""The benchmark of `jadeberta.fast` times both models in each round, on batches with padding."""

import json
import sys

import pytest
import torch

from bench import fast_beside_transformers as bench


def test_both_models_are_timed_at_each_length_and_their_ratio_is_written(tmp_path, monkeypatch, capsys) -> None:
    options = ["--hidden", "64", "--layers", "1", "--lengths", "16", "24", "--tokens", "48", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["bench", *options, "--output", str(tmp_path / "out.json")])
    bench.main()
    document = json.loads((tmp_path / "out.json").read_text())
    assert [(row["length"], row["rows"]) for row in document["lengths"]] == [(16, 3), (24, 2)]
    for row in document["lengths"]:
        for way in ("predict", "step"):
            found = row[way]
            assert found["ratio"] == pytest.approx(found["transformers_s"] / found["fast_s"], rel=0.01)
            assert 0 < found["lowest"] <= found["highest"]
    met = all(row[way]["ratio"] >= 0.95 for row in document["lengths"] for way in ("predict", "step"))
    assert document["target"]["met"] == met and f"never slower than 0.95: {'yes' if met else 'NO'}" in capsys.readouterr().out


def test_a_ratio_above_one_says_that_fast_is_faster() -> None:
    found = bench.row_of({"transformers": [2.0, 4.0, 3.0], "fast": [1.0, 1.0, 3.0]})
    assert found == {"transformers_s": 3.0, "fast_s": 1.0, "ratio": 3.0, "lowest": 1.0, "highest": 4.0}


def test_rows_have_padding_without_labels() -> None:
    options = type("Options", (), {"tokens": 4000, "padding": 0.2})
    batch = bench.batch_of(100, options)  # type: ignore[arg-type]
    share = 1 - float(batch["attention_mask"].float().mean())
    assert batch["input_ids"].shape == (40, 100) and 0.1 < share < 0.3
    assert torch.equal(batch["labels"] == -100, batch["attention_mask"] == 0)
