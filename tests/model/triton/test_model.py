"""A model with fused attention is Hugging Face's, compiles in one graph, recomputes to the same bits, and says where it cannot run."""

import copy
import os
from typing import Any

import pytest
import torch
from transformers import DebertaV2Config

from jadeberta.config import load_recipe
from jadeberta.config.row_lengths import FUSED_LENGTH, offsets_fit
from jadeberta.errors import ConfigError
from jadeberta.model import build, load
from jadeberta.model.attention.dispatch import attend
from tests.helpers import ROOT
from tests.model.test_parity import SMALL, assert_same_training, make_batch, make_pair
from tests.model.triton.cases import Case, inputs_of, settled

SIZES = {"num_attention_heads": 2, "attention_head_size": 32, "num_hidden_layers": 2}
CHANGES = [
    {}, {"share_att_key": False, "pos_att_type": ["p2c"]}, {"pos_att_type": []}, {"position_buckets": -1}, {"pos_att_type": ["c2p"]},
]  # fmt: skip


def fused_pair(**changes):
    """Hugging Face's model, and ours with fused attention and the same weights."""
    reference, ours = make_pair(**SIZES, **changes)
    fused = build(copy.deepcopy(ours.config), attention="fused")
    fused.load_state_dict(ours.state_dict())
    return reference, fused


def same_training(changes: dict[str, Any], form: str, length: int, padding: int) -> None:
    with settled(Case((form, form))):
        assert_same_training(*fused_pair(**changes), make_batch(length, padding), 1e-5)


@pytest.mark.parametrize("form", ["fused", "tables"])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_loss_and_gradients_are_hugging_faces(changes, form, interpreted) -> None:
    interpreted(same_training, changes, form, 31, 7)


def packed_alone(form: str) -> float:
    """The largest difference between a document in a packed row and the same document alone."""
    _, ours = fused_pair()
    ids, _, _ = make_batch(40)
    documents = torch.tensor([[1] * 20 + [2] * 20, [1] * 12 + [2] * 20 + [0] * 8])
    ids[documents == 0] = 0
    with settled(Case((form, form))), torch.no_grad():
        packed = ours(ids, document_ids=documents).logits
        alone = ours(ids[1, 12:32][None]).logits[0]
    return (packed[1, 12:32] - alone).abs().max().item()


@pytest.mark.parametrize("form", ["fused", "tables"])
def test_a_packed_row_gives_a_document_what_it_gets_alone(form, interpreted) -> None:
    assert interpreted(packed_alone, form) < 1e-5


def trained(ways: list[str]) -> dict[str, tuple[float, dict[str, torch.Tensor]]]:
    """Loss and gradients of one training step with dropout, by way of running it, and the number of graphs that were compiled."""
    from torch._dynamo.testing import CompileCounterWithBackend

    _, ours = fused_pair(attention_probs_dropout_prob=0.1)
    ours.train()
    ids, _, labels = make_batch(32)
    found = {}
    for way in ways:
        counter = CompileCounterWithBackend("aot_eager")
        ours.recompute = way == "recomputed"
        run = torch.compile(ours, backend=counter, fullgraph=True, dynamic=False) if way == "compiled" else ours
        ours.zero_grad()
        torch.manual_seed(3)
        loss = run(ids, labels=labels).loss
        loss.backward()
        assert counter.frame_count == int(way == "compiled")
        found[way] = (loss.item(), {n: p.grad.clone() for n, p in ours.named_parameters() if p.grad is not None})
    return found


def test_recomputed_and_compiled_steps_drop_the_same_weights_and_give_the_same_gradients(interpreted) -> None:
    found = interpreted(trained, ["plain", "recomputed", "compiled"])
    loss, gradients = found["plain"]
    assert found["recomputed"][0] == loss
    assert all(torch.equal(found["recomputed"][1][name], g) for name, g in gradients.items())
    assert found["compiled"][0] == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found["compiled"][1][name], gradient, rtol=1e-4, atol=1e-6)


def registered(case: Case) -> dict[str, str]:
    """What torch's own checks say of the operator."""
    from jadeberta.model.attention.triton import _attention

    given = inputs_of(case)
    names = ("qkv", "position_keys", "position_queries", "bucket_ids", "document_ids")
    arguments = (*(given[name] for name in names), torch.tensor(case.seed), case.dropout, given["scale"])
    return torch.library.opcheck(_attention, arguments)


@pytest.mark.parametrize("case", [Case(length=9, documents=True, dropout=0.1), Case(length=9, terms=("p2c",))], ids=str)
def test_the_operator_keeps_torchs_rules(case, interpreted) -> None:
    assert set(interpreted(registered, case).values()) == {"SUCCESS"}


def refusal(dtype: torch.dtype, length: int) -> str:
    inputs = inputs_of(Case(length=length, batch=1, heads=1, dtype=dtype))
    try:
        attend(**inputs, seed=torch.tensor(0), dropout=0.0, use_triton=True)
    except ConfigError as e:
        return str(e)
    return ""


def test_a_dtype_or_a_length_that_no_kernel_takes_is_refused(interpreted) -> None:
    assert "takes fp32, fp16 and bf16, not torch.float64" in interpreted(refusal, torch.float64, 8)
    assert "takes rows of up to 8192 tokens, not of 8193" in interpreted(refusal, torch.float32, 8193)


def test_offsets_of_32_bits_reach_for_the_longest_row_of_any_model_that_fits_a_gpu_and_no_further() -> None:
    assert offsets_fit(batch=4096, length=FUSED_LENGTH, heads=16, size=64) and offsets_fit(64, FUSED_LENGTH, heads=256, size=64)
    assert not offsets_fit(2**31 // (16 * FUSED_LENGTH), FUSED_LENGTH, heads=16, size=64)
    assert not offsets_fit(1, FUSED_LENGTH, heads=1400, size=64) and not offsets_fit(1, 46_400, heads=1, size=32)


@pytest.mark.skipif(torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="the kernels can run here")
def test_without_a_gpu_it_is_refused_before_anything_is_built(monkeypatch) -> None:
    config = DebertaV2Config(**{**SMALL, **SIZES})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="'fused' needs a GPU, and torch finds none on this machine"):
        load(config, attention="fused")


def test_without_triton_it_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="'fused' needs Triton"):
        build(DebertaV2Config(**{**SMALL, **SIZES}), attention="fused")


def test_a_model_that_was_not_moved_to_the_gpu_is_refused_when_called(monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="the model is on 'cpu': move it there"):
        attend(**inputs_of(Case(length=4)), seed=torch.tensor(0), dropout=0.0, use_triton=True)


def test_heads_that_no_kernel_takes_are_refused_by_model_and_recipe() -> None:
    with pytest.raises(ConfigError, match=r"takes heads of 32, 64, 128, and this model's are of 16\. Choose 'sdpa'"):
        build(DebertaV2Config(**SMALL), attention="fused")
    options = ("--model.attention", "fused", "--model.num_attention_heads", "8", "--model.attention_head_size", "128")
    assert load_recipe(ROOT / "recipes/large.yaml", options).model.attention == "fused"
    with pytest.raises(ConfigError, match=r"takes a model.attention_head_size of 32, 64, 128, not 16"):
        load_recipe(ROOT / "recipes/large.yaml", (*options[:3], "64", options[4], "16"))
    with pytest.raises(ConfigError, match=r"rows of up to 8192 tokens, and model.max_position_embeddings is 8320"):
        load_recipe(ROOT / "recipes/large.yaml", (*options, "--model.max_position_embeddings", "8320"))
