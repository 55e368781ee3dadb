"""`make shards` on real Japanese text finds exactly the documents that are there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import CORPORA, ROOT

pytestmark = [
    pytest.mark.long,
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
