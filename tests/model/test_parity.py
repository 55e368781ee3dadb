"""The model is Hugging Face's DebertaV2ForMaskedLM: same loss, same gradients, same state dict."""

import copy

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from jadeberta.errors import ConfigError
from jadeberta.model import build, load

SMALL = {
    "vocab_size": 211, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "attention_head_size": 16,
    "intermediate_size": 96, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 512,
    "type_vocab_size": 0, "layer_norm_eps": 1e-7, "relative_attention": True, "max_relative_positions": -1, "position_buckets": 32,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    "conv_kernel_size": 3, "conv_act": "gelu", "pad_token_id": 0, "pooler_hidden_size": 64,
}  # fmt: skip


def make_pair(dtype: torch.dtype = torch.float32, **changes):
    """Hugging Face's model and ours with the same random weights (not only the initial ones, where biases are zero)."""
    config = DebertaV2Config(**{**SMALL, **changes})
    torch.manual_seed(0)
    reference = DebertaV2ForMaskedLM(config).to(dtype)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    ours = build(copy.deepcopy(config)).to(dtype)
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def make_batch(length: int, padding: int = 0):
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(5, 211, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        ids[1, -padding:], mask[1, -padding:] = 0, 0
    labels = torch.where((torch.rand(ids.shape, generator=generator) < 0.3) & (mask == 1), ids, -100)
    labels[0, 0] = ids[0, 0]
    return ids, mask, labels


def assert_same_training(reference, ours, batch, relative: float) -> None:
    """Loss and every gradient, each against its own norm."""
    ids, mask, labels = batch
    padded = not mask.all()
    expected = reference(ids, attention_mask=mask, labels=labels)
    found = ours(ids, attention_mask=mask if padded else None, labels=labels)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=relative)
    expected.loss.backward()
    found.loss.backward()
    theirs = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    assert {n for n, p in ours.named_parameters() if p.grad is not None} == theirs.keys()
    # Some gradients are zero but for rounding (a key bias shifts a whole row of scores): for these the model's own scale counts.
    floor = 1e-2 * relative * max(g.norm().item() for g in theirs.values())
    found_gradients = {n: p.grad for n, p in ours.named_parameters()}
    for name, expected_gradient in theirs.items():
        error = (found_gradients[name] - expected_gradient).norm().item()
        assert error <= relative * expected_gradient.norm().item() + floor, name


@pytest.mark.parametrize("changes", [
    {}, {"share_att_key": False}, {"pos_att_type": ["c2p"]}, {"pos_att_type": ["p2c"]}, {"pos_att_type": []}, {"position_buckets": -1},
    {"conv_kernel_size": 0}, {"conv_kernel_size": 5, "conv_groups": 2}, {"norm_rel_ebd": "none"}, {"position_biased_input": True},
    {"position_buckets": 256}, {"max_relative_positions": 16, "position_buckets": -1}, {"share_att_key": False, "pos_att_type": ["p2c"]},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("length,padding", [(2, 0), (31, 7)])
def test_every_configuration_has_hugging_faces_loss_and_gradients(changes, length, padding) -> None:
    assert_same_training(*make_pair(**changes), make_batch(length, padding), 1e-5)


@pytest.mark.parametrize("dtype,relative", [(torch.float32, 1e-5), (torch.float64, 1e-7)], ids=str)
@pytest.mark.parametrize("length,padding", [(1, 0), (2, 1), (31, 0), (200, 50), (511, 0), (512, 100)])
def test_every_length_has_hugging_faces_loss_and_gradients(length, padding, dtype, relative) -> None:
    """Hugging Face takes the scale's square root in fp32 whatever the dtype: of fp64 its own error of 6e-8 remains."""
    assert_same_training(*make_pair(dtype, num_hidden_layers=2), make_batch(length, padding), relative)


def test_bf16_is_no_further_from_fp64_than_hugging_faces_bf16() -> None:
    exact = make_pair(torch.float64)[0]
    ids, mask, labels = make_batch(200, 30)
    exact(ids, attention_mask=mask, labels=labels).loss.backward()
    truth = {n: p.grad for n, p in exact.named_parameters()}

    def distance(model) -> float:
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        return sum((p.grad.double() - truth[n]).square().sum().item() for n, p in model.named_parameters()) ** 0.5

    eager, ours = (distance(model) for model in make_pair(torch.bfloat16))
    assert ours <= eager


def test_head_on_masked_positions_gives_the_same_loss_as_the_whole_head() -> None:
    _, ours = make_pair()
    ids, _, labels = make_batch(64)
    index = (labels.flatten() != -100).nonzero().squeeze(1)
    whole = ours(ids, labels=labels)
    chosen = ours(ids, labels=labels.flatten()[index], masked_index=index)
    assert chosen.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    torch.testing.assert_close(chosen.logits, whole.logits.flatten(0, 1)[index])


def test_eager_backend_is_hugging_faces_own_module() -> None:
    reference, _ = make_pair()
    eager = build(reference.config, attention="eager")
    eager.load_state_dict(reference.state_dict())
    ids, mask, _ = make_batch(31, 7)
    assert torch.equal(eager(ids, attention_mask=mask).logits, reference(ids, attention_mask=mask).logits)
    with pytest.raises(ConfigError, match="keep documents apart"):
        eager(ids, document_ids=mask)


@pytest.mark.parametrize("kernel", [0, 3, 5])
def test_a_packed_row_gives_each_document_what_it_gets_alone(kernel) -> None:
    _, ours = make_pair(torch.float64, conv_kernel_size=kernel)
    ids, _, _ = make_batch(60)
    documents = torch.tensor([[1] * 20 + [2] * 25 + [3] * 15, [1] * 40 + [2] * 12 + [0] * 8])
    ids[documents == 0] = 0
    packed = ours(ids, document_ids=documents).logits
    for row in range(2):
        for document in documents[row].unique():
            if document:
                places = documents[row] == document
                alone = ours(ids[row, places][None]).logits[0]
                assert (packed[row, places] - alone).abs().max() < 1e-9


@pytest.mark.parametrize("heads", [["p2c", "c2p"], []], ids=str)
@pytest.mark.parametrize("recompute", [False, True])
def test_absolute_positions_restart_at_each_packed_document(heads, recompute) -> None:
    _, ours = make_pair(torch.float64, position_biased_input=True, pos_att_type=heads)
    ours.train().recompute = recompute
    ids, _, _ = make_batch(60)
    documents = torch.tensor([[1] * 20 + [2] * 25 + [3] * 15, [1] * 40 + [2] * 12 + [0] * 8])
    ids[documents == 0] = 0
    labels = torch.where(documents != 0, ids, -100)
    weight = ours.deberta.embeddings.position_embeddings.weight

    def run(rows: torch.Tensor, of: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ours.zero_grad()
        logits = ours(rows, document_ids=of).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum").backward()
        return logits.detach(), weight.grad.clone()

    packed, gradient = run(ids, documents, labels)
    alone = torch.zeros_like(gradient)
    for row in range(2):
        for document in documents[row].unique():
            if document:
                places = documents[row] == document
                own = torch.ones(1, int(places.sum()), dtype=torch.int64)
                logits, part = run(ids[row, places][None], own, labels[row, places][None])
                assert (packed[row, places] - logits[0]).abs().max() < 1e-9
                alone += part
    assert (gradient - alone).abs().max() < 1e-8 and not gradient[40:].any()


def test_without_document_ids_documents_do_see_each_other() -> None:
    _, ours = make_pair()
    ids, _, _ = make_batch(40)
    changed = ids.clone()
    changed[:, 30:] = (changed[:, 30:] - 5 + 1) % 206 + 5
    assert (ours(ids).logits[:, :20] - ours(changed).logits[:, :20]).abs().max() > 1e-4


def test_saved_model_loads_in_hugging_face_and_back(tmp_path) -> None:
    _, ours = make_pair()
    ours.eval().save_pretrained(tmp_path)
    reference = DebertaV2ForMaskedLM.from_pretrained(tmp_path).eval()
    ids, _, _ = make_batch(50)
    torch.testing.assert_close(reference(ids).logits, ours(ids).logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(load(tmp_path).eval()(ids).logits, ours(ids).logits)


def test_an_unknown_attention_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="eager, sdpa, fused"):
        build(DebertaV2Config(**SMALL), attention="flash")


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (build(DebertaV2Config(**SMALL), seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["deberta.embeddings.word_embeddings.weight"], other["deberta.embeddings.word_embeddings.weight"])


def test_a_length_first_seen_in_inference_mode_can_be_trained_on() -> None:
    """The places of a length are kept for the process; tensors made in inference mode cannot be part of a backward pass."""
    _, ours = make_pair()
    batch = dict(zip(("input_ids", "attention_mask", "labels"), make_batch(77), strict=True))
    with torch.inference_mode():
        ours(**batch)
    ours(**batch).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters() if p.requires_grad)
