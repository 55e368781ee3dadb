"""The benchmarks measure what they say: every way, part and stage is there, the bytes are right, and nothing is left behind.

Seconds are not looked at: they are the machine's.
"""

import json
import subprocess
import sys

import pytest

from bench.results_file import summarise
from tests.helpers import ROOT

pytestmark = pytest.mark.long

WAYS = [
    "jadeberta",
    "torch.save",
    "DeepSpeed save_checkpoint",
    "torch async_save, thread",
    "torch async_save, process",
]


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> dict:
    directory, output = tmp_path_factory.mktemp("bench"), tmp_path_factory.mktemp("out") / "checkpoint.json"
    command = [sys.executable, "bench/checkpoint.py", "--rounds", "1", "--directory", str(directory), "--output", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(directory.iterdir()) == []
    return json.loads(output.read_text()) | {"printed": result.stdout}


def test_every_way_to_save_is_timed_once_a_round(document) -> None:
    rows = document["parts"]["stall"]["rows"]
    assert [row["way"] for row in rows] == WAYS
    assert all(row["stall"]["count"] == row["durable"]["count"] == 1 for row in rows)
    assert all(0 < row["stall"]["median_s"] <= row["durable"]["median_s"] for row in rows)


def test_a_state_is_weights_masters_and_two_moments(document) -> None:
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024, "vocab_size": 32000}
    kind = {"relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    rest = {"norm_rel_ebd": "layer_norm", "position_biased_input": False, "conv_kernel_size": 3, "type_vocab_size": 0}
    theirs = DebertaV2ForMaskedLM(DebertaV2Config(**sizes, **kind, **rest))
    assert document["state_bytes"] == sum(p.numel() for p in theirs.parameters()) * (2 + 3 * 4)
    assert document["parts"]["overhead"]["compared_bytes"] * 7 == document["state_bytes"]


def test_steps_are_taken_quietly_and_beside_each_writer(document) -> None:
    cases = document["parts"]["beside"]["cases"]
    assert cases[0]["threads"] == 1
    assert document["parts"]["beside"]["bytes"] >= document["state_bytes"]
    for case in cases:
        assert [row["beside"] for row in case["rows"]] == ["quiet", "jadeberta, writing", "jadeberta, reading back", *WAYS[3:]]
        assert case["rows"][0]["step"]["count"] >= 1  # how many fit in beside a write is the machine's matter
        assert all(row["step"]["count"] == len(row["step"]["seconds"]) for row in case["rows"])


def test_both_loads_give_the_same_tensors(document) -> None:
    result = document["parts"]["load"]
    assert result["same_tensors"]
    assert [row["load"]["count"] for row in result["rows"]] == [1, 1, 1, 1]


def test_the_cost_of_a_step_is_the_sum_of_its_parts(document) -> None:
    result = document["parts"]["overhead"]
    assert len(result["rows"]) == 7
    assert result["step_s"] == pytest.approx(sum(row["call_s"] * row["calls_in_step"] for row in result["rows"]), rel=1e-3)


def test_every_target_is_printed_with_its_verdict(document) -> None:
    for part in document["parts"].values():
        for target in part["targets"]:
            assert target["met"] == (target["value"] is not None and target["value"] <= target["limit"])
            verdict = "met    " if target["met"] else "NOT MET"
            assert f"{verdict}  {target['target']}" in document["printed"]


def test_every_rank_of_every_stage_is_weighed_on_a_corpus_of_the_size_asked_for(tmp_path) -> None:
    output = tmp_path / "memory.json"
    command = [
        sys.executable,
        "bench/preprocess_memory.py",
        "--megabytes",
        "1",
        "--directory",
        str(tmp_path),
        "--output",
        str(output),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads(output.read_text())
    assert 1e6 <= document["text_bytes"] < 1.1e6 and document["distinct_words"] > 3000
    assert [row["stage"] for row in document["stages"]] == ["extract", "segment", "tokenizer", "pack"]
    assert all(len(row["peak_mib"]) == 2 and 20 < row["peak_mib"][1] <= row["peak_mib"][0] for row in document["stages"])
    assert list(tmp_path.iterdir()) == [output]


def test_every_way_through_a_step_is_timed_beside_the_eager_one(tmp_path) -> None:
    output = tmp_path / "step.json"
    command = [sys.executable, "bench/step.py", "--parts", "time", "--uncompiled", "--rounds", "2", "--output", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(output.read_text())["rows"]
    heads = ("whole head", "masked head")
    assert [row["way"] for row in rows[:4]] == [f"{way}, {head}" for way in ("Hugging Face eager", "sdpa") for head in heads]
    for other in ("disentangled-flash", "flashdeberta"):  # rows where it is installed and runs here, else its reason
        count = sum(row["way"].startswith(other) for row in rows[4:])
        assert count == (0 if f"no rows of {other}" in result.stdout else 2)
    for row in rows:
        assert row["rounds"] == 2 and row["tokens_per_second"] * row["seconds"] == pytest.approx(2 * 512, rel=1e-3)
        assert row["ratio"] * row["seconds"] == pytest.approx(rows[0]["seconds"], rel=1e-3)
        assert row["way"] in result.stdout
    assert output.with_suffix(".svg").read_text().count("<svg") == 1


def test_results_hold_medians_and_counts_in_place_of_single_measurements() -> None:
    row = {
        "seconds": [3.0, 1.23456, 1.0],
        "rounds": [1.0, 2.0, 3.0],
        "stall": {"median_s": 2.5, "seconds": [2.5]},
        "cpu_of_the_busiest": [1.0],
    }
    assert summarise(row) == {"seconds": 1.235, "rounds": 3, "stall": {"median_s": 2.5}}


def test_tracked_results_stay_small() -> None:
    lines = {
        path.name: path.read_text(encoding="utf-8").count("\n")
        for path in (ROOT / "bench/results").iterdir()
        if path.suffix == ".json"
    }
    assert lines and sum(lines.values()) < 1500, lines
