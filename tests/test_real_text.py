"""The whole path on real Japanese text: the four stages find exactly the documents that are there, and training on them learns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import CORPORA, ROOT, read_metrics, run_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CORPORA.is_dir(), reason="needs the sample corpora in ../shared/data/corpora, which the project does not ship"
    ),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of all sample corpora, made as a user would: make shards CORPORA=... OUT=... RECIPE=... RANKS=2."""
    out = tmp_path_factory.mktemp("real") / "shards"
    bin_ = Path(sys.executable).parent
    # The interpreter that runs the tests is the installed one: nothing is set up again.
    settings = [f"CORPORA={CORPORA}", f"OUT={out}", "RECIPE=recipes/demo.yaml", "RANKS=2", f"BIN={bin_}"]
    # Real text has more characters than the demo's vocabulary has pieces.
    settings.append("EXTRA=--preprocess.vocab_size 8000")
    result = subprocess.run(["make", "-o", "setup", "shards", *settings], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return out


def test_make_shards_finds_exactly_the_documents_of_the_sample(shards) -> None:
    expected = json.loads((CORPORA / "expected_counts.json").read_text())
    report = json.loads((shards / "report.json").read_text())
    extracted, segmented = report["extract"]["result"], report["segment"]["result"]
    assert extracted["wikipedia"]["documents"] == expected["wikipedia_articles"]
    assert sum(f["in_file"] for f in extracted["wikipedia"]["files"].values()) == expected["wikipedia_pages_in_file"]
    assert extracted["cc100"]["documents"] == expected["cc100_documents"]
    for part in ("2201", "2301"):
        corpus = extracted[f"oscar{part}"]
        assert corpus["documents"] == expected[f"oscar{part}_kept"]
        assert sum(f["in_file"] for f in corpus["files"].values()) == expected[f"oscar{part}_documents"]
    for name, packed in report["pack"]["result"].items():
        documents = packed["train"]["documents"] + packed["valid"]["documents"]
        # A document whose text is nothing but markup has no sentence and gives no tokens.
        assert 0 <= segmented[name]["documents"] - documents <= 0.01 * documents
        assert segmented[name]["sentences"] > 30_000 and sum(segmented[name]["quarantined"].values()) == 0


def test_pretraining_on_the_sample_lowers_the_loss(shards, tmp_path) -> None:
    recipe = ["--config", "recipes/demo.yaml", "--data.shards", str(shards), "--run.dir", str(tmp_path / "run")]
    small = [
        "--model.vocab_size",
        "8000",
        "--preprocess.vocab_size",
        "8000",
        "--model.hidden_size",
        "64",
        "--model.num_attention_heads",
        "1",
        "--model.intermediate_size",
        "256",
    ]
    steps = [
        "--training.max_steps",
        "40",
        "--training.warmup_steps",
        "10",
        "--training.global_batch_size",
        "8",
        "--training.lr",
        "5e-3",
        "--checkpoint.every_steps",
        "40",
    ]
    run_ranks(2, "pretrain", *recipe, *small, *steps, log=tmp_path / "log")
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert losses[0] > 8.5  # ln(8,000) = 8.99
    assert sum(losses[-5:]) / 5 < losses[0] - 1.5
