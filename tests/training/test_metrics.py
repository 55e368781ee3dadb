"""Figures about a run: FLOPs against torch's own counter, and files that survive a cut line."""

import orjson
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.model import build
from jadeberta.training.ledger import Ledger, next_attempt
from jadeberta.training.metrics import MetricsWriter, training_flops_per_token
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT


@pytest.mark.parametrize("head_share", [1.0, 0.25])
def test_flops_per_token_equal_what_torch_counts_in_hugging_faces_model(head_share) -> None:
    config = ModelConfig(
        vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, attention_head_size=16, intermediate_size=128,
        max_position_embeddings=128, position_buckets=32, pooler_hidden_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = build(config.hugging_face(), attention="eager")
    ids = torch.randint(5, 500, (3, 128))
    index = torch.arange(int(3 * 128 * head_share))
    with FlopCounterMode(display=False) as counter:
        model(ids, masked_index=index, labels=ids.flatten()[index]).loss.backward()
    expected = counter.get_total_flops() / ids.numel()
    assert training_flops_per_token(config, 128, 3, head_share) == pytest.approx(expected, rel=0.01)


def test_the_large_model_costs_2_352_gflop_a_token_with_the_whole_head_and_2_180_with_the_masked() -> None:
    model = load_recipe(ROOT / "recipes/large.yaml").model
    assert training_flops_per_token(model, 512, 18, 1.0) / 1e9 == pytest.approx(2.352, abs=0.001)
    assert training_flops_per_token(model, 512, 18, 0.15) / 1e9 == pytest.approx(2.180, abs=0.001)


def test_a_line_cut_by_a_kill_is_left_out_and_spoils_no_later_line(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, 0).write("start")
    with open(path, "ab") as f:
        f.write(b'{"event": "sa')
    Ledger(path, 1).write("start")
    assert [(row["event"], row["attempt"], row["life"]) for row in read_jsonl(path)] == [("start", 0, 0), ("start", 1, 1)]
    assert next_attempt(path) == 2


def test_metrics_are_appended_after_a_cut_line(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')
    writer = MetricsWriter(tmp_path, sinks=[], first_step=1)
    writer.write({"step": 2})
    writer.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert orjson.loads((tmp_path / "metrics.jsonl").read_bytes().splitlines()[-1]) == {"step": 2}
