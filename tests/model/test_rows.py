"""A model changes its row length and its attention between two steps, with the weights it has and nothing left of the old rows."""

import copy

import pytest
import torch
from transformers import DebertaV2Config

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.model import build
from jadeberta.model.attention import relative_positions
from tests.helpers import ROOT
from tests.model.test_parity import SMALL, assert_same_training, make_batch, make_pair


def test_rows_and_attention_change_with_the_weights_kept_and_nothing_left_of_the_old_length() -> None:
    reference, ours = make_pair(num_hidden_layers=2)
    names = [name for name, _ in ours.named_parameters()]
    for length, attention in ((31, "sdpa"), (70, "eager"), (70, "sdpa"), (40, None)):
        ours.set_rows(length, attention)
        assert ours.row_length == length and ours.attention_backend == (attention or "sdpa")
        assert relative_positions._distance_buckets.cache_info().currsize == 0
        assert_same_training(reference, ours, make_batch(length, 5), 1e-5)
        reference.zero_grad(), ours.zero_grad()
    assert [name for name, _ in ours.named_parameters()] == names
    ours.set_rows(40)
    assert relative_positions._distance_buckets.cache_info().currsize == 1, "nothing changed, so nothing is computed again"


def test_a_compiled_step_follows_every_change_of_rows_and_attention(monkeypatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)  # more changes than torch compiles one function anew for
    _, ours = make_pair(num_hidden_layers=1)
    uncompiled = copy.deepcopy(ours)
    compiled = torch.compile(ours.forward, fullgraph=True, dynamic=False, backend="eager")
    for length, attention in ((24, "sdpa"), (40, "sdpa"), (40, "eager"), (24, "sdpa")):
        ours.set_rows(length, attention)
        uncompiled.set_rows(length, attention)
        ids, _, labels = make_batch(length)
        assert compiled(ids, labels=labels).loss.item() == pytest.approx(uncompiled(ids, labels=labels).loss.item(), rel=1e-6)


def test_rows_or_an_attention_that_the_model_cannot_take_leave_it_as_it_was() -> None:
    ours = build(DebertaV2Config(**SMALL))
    ours.set_rows(128)
    for length, attention, words in (
        (513, None, "rows of 513 tokens do not fit the model, whose max_position_embeddings is 512"),
        (0, None, "rows of 0 tokens"),
        (256, "flash", "eager, sdpa, fused"),
        (256, "fused", "takes heads of 32, 64, 128"),
    ):
        with pytest.raises(ConfigError, match=words):
            ours.set_rows(length, attention)
        assert (ours.row_length, ours.attention_backend) == (128, "sdpa")


def test_distances_without_a_bucket_are_refused_by_the_recipe() -> None:
    with pytest.raises(ConfigError, match="max_relative_positions to 130 or more, or to -1"):
        load_recipe(ROOT / "recipes/large.yaml", ("--model.max_relative_positions", "129"))
    assert load_recipe(ROOT / "recipes/large.yaml", ("--model.max_relative_positions", "130"))


def test_a_phase_whose_attention_takes_no_such_rows_or_no_documents_is_refused_with_its_number(tmp_path) -> None:
    small = "model: {hidden_size: 64, num_attention_heads: 4, attention_head_size: 16, max_position_embeddings: 256}\n"
    path = tmp_path / "recipe.yaml"
    for phases, rest, words in (
        (
            "[{steps: 2}, {steps: 2, sequence_length: 300}]",
            "",
            "phases, entry 2: sequence_length is 300, but model.max_position_embeddings",
        ),
        ("[{steps: 4, attention: fused}]", "", "takes a model.attention_head_size of 32, 64, 128, not 16"),
        (
            "[{steps: 2}, {steps: 2, attention: fused, global_batch_size: 8388608, micro_batch_size: 8388608}]",
            "model: {hidden_size: 64, num_attention_heads: 2, attention_head_size: 32}\n",
            r"counts in 32 bits, too few for a micro-batch of 8388608 rows of 512 tokens \(phases, entry 2: sequence_length\) x 2 heads",
        ),
        ("[{steps: 4, attention: eager}]", "data: {packing: documents}\n", "data.packing 'documents' needs model.attention"),
    ):
        path.write_text(
            f"{'' if rest.startswith('model') else small}{rest}training: {{max_steps: 4, warmup_steps: 0}}\nphases: {phases}\n",
            encoding="utf-8",
        )
        with pytest.raises(ConfigError, match=words):
            load_recipe(path)


def test_a_phase_of_short_rows_may_be_fused_in_a_model_that_takes_longer_ones_than_the_kernels(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    phases = "[{steps: 2, sequence_length: 512, attention: fused}, {steps: 2, sequence_length: 16384}]"
    path.write_text(f"model: {{max_position_embeddings: 16384}}\ntraining: {{max_steps: 4, warmup_steps: 0}}\nphases: {phases}\n")
    assert [phase.attention for phase in load_recipe(path).phases] == ["fused", None]
