"""The four stages on real Japanese text find exactly the documents that are there, and training on its shards learns."""

import json
from pathlib import Path

import pytest

from jadeberta.shards import INDEX_NAME, open_shards, verify
from preprocess.document_files import read_json
from tests.helpers import CORPORA, make_recipe, read_metrics, run_ranks
from tests.preprocess.conftest import Sample


@pytest.mark.slow
def test_sample_corpora_are_counted_as_their_makers_state_and_verify(sample: Sample) -> None:
    expected = json.loads((CORPORA / "expected_counts.json").read_text())
    report = read_json(sample.out / "report.json")
    documents = {name: corpus["documents"] for name, corpus in report["extract"]["result"].items()}
    assert documents == {
        "wikipedia": expected["wikipedia_articles"],
        "cc100": expected["cc100_documents"],
        "oscar2201": expected["oscar2201_kept"],
        "oscar2301": expected["oscar2301_kept"],
    }
    in_files = {name: sum(f["in_file"] for f in c["files"].values()) for name, c in report["extract"]["result"].items()}
    assert in_files["wikipedia"] == expected["wikipedia_pages_in_file"]
    assert (in_files["oscar2201"], in_files["oscar2301"]) == (expected["oscar2201_documents"], expected["oscar2301_documents"])
    for name, corpus in report["segment"]["result"].items():
        assert (corpus["documents"], corpus["quarantined"]) == (documents[name], {})
    index = open_shards(sample.out).index
    for name, corpus in index.corpora.items():
        assert corpus.valid[0].documents == documents[name] // 10
        assert corpus.valid[0].documents + sum(entry.documents for entry in corpus.train) == documents[name]
    assert index.vocab_size == 32000 and (sample.out / INDEX_NAME).is_file()
    assert verify(sample.out) == []


@pytest.mark.slow
def test_pretraining_on_the_sample_lowers_the_loss(sample: Sample, tmp_path: Path) -> None:
    recipe = make_recipe(
        tmp_path / "recipe.yaml",
        sample.out,
        tmp_path / "run",
        model={
            "vocab_size": 32000,
            "hidden_size": 64,
            "num_attention_heads": 1,
            "attention_head_size": 64,
            "intermediate_size": 256,
            "max_position_embeddings": 512,
        },
        preprocess={"vocab_size": 32000},
        training={
            "max_steps": 30,
            "warmup_steps": 8,
            "global_batch_size": 4,
            "micro_batch_size": 2,
            "lr": 5e-3,
            "precision": "fp32",
        },
        checkpoint={"every_steps": 30},
    )
    run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert losses[0] > 9.9  # ln(32,000) = 10.37
    assert sum(losses[-5:]) / 5 < losses[0] - 1.5
