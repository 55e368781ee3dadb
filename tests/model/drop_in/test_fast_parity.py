"""A head of transformers gives the same outputs and gradients after `jadeberta.fast`."""

from typing import Any

import pytest
import torch

from tests.model.drop_in.conftest import HEADS, make_batch, make_pair

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"position_buckets": -1, "conv_kernel_size": 0, "share_att_key": False},
    {"position_biased_input": True, "type_vocab_size": 2, "embedding_size": 16, "norm_rel_ebd": "none"},
]
FURTHER: list[dict[str, Any]] = [
    {"pos_att_type": ["c2p"]}, {"pos_att_type": ["p2c"], "share_att_key": False}, {"pos_att_type": []},
    {"relative_attention": False}, {"relative_attention": False, "pos_att_type": [], "position_biased_input": True},
    {"conv_kernel_size": 5, "conv_groups": 2, "conv_act": "tanh"}, {"pos_att_type": "c2p|p2c", "max_relative_positions": 16},
    {"legacy": False}, {"num_hidden_layers": 1}, {"pos_att_type": ["p2p", "c2p"]}, {"position_buckets": 256},
]  # fmt: skip


def largest_difference(found: Any, expected: Any) -> float:
    """Over the tensors of two outputs, which must have the same fields."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        return float((found - expected).detach().abs().max())
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        return max(largest_difference(found[name], expected[name]) for name in expected)
    assert len(found) == len(expected)
    return max(largest_difference(a, b) for a, b in zip(found, expected, strict=True))


def assert_same(slow: Any, quick: Any, batch: dict[str, torch.Tensor], within: float = 1e-7) -> None:
    """All outputs, at padding too, and all gradients."""
    models = slow.train(), quick.train()
    expected, found = (model(**batch, output_hidden_states=True) for model in models)
    assert largest_difference(found, expected) < within
    for output in (expected, found):
        loss = output.get("loss")
        weights = torch.linspace(-1, 1, output[0].numel(), dtype=output[0].dtype).view_as(output[0])
        (loss if loss is not None else (output[0] * weights).sum()).backward()
    theirs = {name: p.grad for name, p in slow.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in quick.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, gradient in theirs.items():
        assert float((ours[name] - gradient).abs().max()) < within * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=["published", "no-buckets", "absolute-positions"])
def test_every_head_has_transformers_outputs_and_gradients(head, changes) -> None:
    slow, quick = make_pair(head, **changes)
    assert_same(slow, quick, make_batch(head, 17, left=4, right=6))


@pytest.mark.parametrize("changes", FURTHER, ids=str)
def test_every_configuration_has_transformers_outputs_and_gradients(changes) -> None:
    assert_same(*make_pair("ForMaskedLM", **changes), make_batch("ForMaskedLM", 12, left=2, right=3))


@pytest.mark.parametrize(("length", "left", "right"), [(1, 0, 0), (2, 1, 1), (33, 0, 0), (64, 63, 63), (9, 9, 9)])
def test_every_length_and_padding_has_transformers_outputs_and_gradients(length, left, right) -> None:
    batch = make_batch("ForMaskedLM", length, left, right)
    assert_same(*make_pair("ForMaskedLM"), batch)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int32])
def test_a_mask_may_have_any_type_and_may_be_left_out(kind) -> None:
    slow, quick = make_pair("Model", conv_kernel_size=0)
    ids, mask = make_batch("Model", 11, 3, 4).values()
    with torch.no_grad():
        assert largest_difference(quick(ids, mask.to(kind)), slow(ids, mask.to(kind))) < 1e-7
        assert largest_difference(quick(ids), slow(ids)) < 1e-7


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("states", [True, False])
def test_outputs_have_transformers_form(return_dict, states, masked_lm) -> None:
    batch = make_batch("ForMaskedLM", 6)
    with torch.no_grad():
        expected, found = (m(**batch, return_dict=return_dict, output_hidden_states=states) for m in masked_lm)
    assert largest_difference(found, expected) < 1e-7


def test_embeddings_and_positions_may_be_given(masked_lm) -> None:
    slow, quick = make_pair("Model", position_biased_input=True, type_vocab_size=2)
    ids, mask = make_batch("Model", 7, 2, 3).values()
    given = {
        "inputs_embeds": slow.embeddings.word_embeddings(ids).detach(),
        "token_type_ids": ids % 2,
        "position_ids": torch.arange(7).flip(0)[None],
        "attention_mask": mask,
    }
    with torch.no_grad():
        assert largest_difference(quick(**given), slow(**given)) < 1e-7


def test_gradient_checkpointing_gives_the_same_gradients_with_dropout() -> None:
    _, quick = make_pair("ForMaskedLM", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2)
    batch = make_batch("ForMaskedLM", 10, 2, 3)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(3)
        quick.zero_grad()
        quick.train()(**batch).loss.backward()
        return [p.grad.clone() for p in quick.parameters() if p.grad is not None]

    plain = gradients()
    calls: list[int] = []
    quick.deberta.encoder.layer[1].attention.register_forward_hook(lambda *_: calls.append(1))
    quick.gradient_checkpointing_enable({"use_reentrant": False})
    assert all(torch.equal(a, b) for a, b in zip(gradients(), plain, strict=True)) and len(calls) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers_are_no_further_from_fp64_than_transformers(dtype) -> None:
    exact, _ = make_pair("Model")
    ids, mask = make_batch("Model", 40, 5, 9).values()
    seen = mask.bool()
    with torch.no_grad():
        truth = exact(ids, mask)[0][seen]
        slow, quick = ((model(ids, mask)[0][seen].double() - truth).norm() for model in make_pair("Model", dtype))
    assert quick <= 1.2 * slow


def test_autocast_gives_transformers_loss_up_to_its_rounding() -> None:
    slow, quick = make_pair("ForMaskedLM", torch.float32)
    batch = make_batch("ForMaskedLM", 20, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (model(**batch).loss for model in (slow, quick))
    found.backward()
    assert abs(float(found - expected)) < 0.03 and all(p.grad.isfinite().all() for p in quick.parameters() if p.grad is not None)
