"""Replaced-token detection equals a formula in fp64 over Hugging Face's modules, one document at a time; its draws are those of softmax."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from transformers import DebertaV2ForMaskedLM, DebertaV2Model

from jadeberta.data.masking import IGNORED
from jadeberta.errors import ConfigError
from jadeberta.model.replaced_tokens import ReplacedTokenModel, build_replaced_token_model, fill_places
from jadeberta.model.sampling import sample_tokens
from tests.helpers import TINY_MODEL

LENGTH, VOCABULARY, MASK = 20, 64, 4
CONFIG = {
    **TINY_MODEL, "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "type_vocab_size": 0,
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm",
    "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu", "max_relative_positions": -1, "legacy": True,
    "initializer_range": 0.3, "hidden_size": 24, "attention_head_size": 12, "pooler_hidden_size": 24,
}  # fmt: skip
"""Heads of 12: Hugging Face scales the scores by an fp32 square root, which of 3 x 12 is exact."""
TABLE = "deberta.embeddings.word_embeddings.weight"
POSITIONS = "deberta.embeddings.position_embeddings.weight"


def batch(documents: bool) -> dict[str, torch.Tensor]:
    """Two rows; of documents, with padding after the second row's."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, VOCABULARY, (2, LENGTH), generator=generator)
    places = torch.tensor([[8, 20], [11, 17]])
    ids = 1 + (torch.arange(LENGTH) >= places[:, :1]).long()
    ids[torch.arange(LENGTH) >= places[:, 1:]] = 0
    if not documents:
        ids = torch.ones_like(ids)
    tokens[ids == 0] = 0
    masked = torch.tensor([2, 5, 9, 21, 30, 36])
    labels = tokens.flatten()[masked]
    inputs = tokens.flatten().index_fill(0, masked, MASK).view_as(tokens)
    fill = {"masked_index": torch.tensor([0, 0]), "labels": torch.tensor([IGNORED] * 2), "draws": torch.tensor([7, 8])}
    draws = torch.randint(-(2**62), 2**62, masked.shape, generator=generator)
    found = {"input_ids": inputs, "document_ids": ids, "attention_mask": (ids != 0).long()}
    for name, values in (("masked_index", masked), ("labels", labels), ("draws", draws)):
        found[name] = torch.cat([values, fill[name]])
    return found if documents else found | {"document_ids": None, "attention_mask": None}


def drawn_by_hand(logits: np.ndarray, key: int) -> int:
    """Gumbel's maximum with a hash written in Python's integers."""
    scores = []
    for token, logit in enumerate(logits.tolist()):
        x = (token * 0x9E3779B9 + key) & 0xFFFFFFFF
        for second in ((key >> 32) & 0xFFFFFFFF, 0):
            x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
            x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
            x = ((x ^ (x >> 16)) + second) & 0xFFFFFFFF
        scores.append(logit - np.log(-np.log(((x >> 9) + 0.5) / 2**23)))
    return int(np.argmax(scores))


def by_formula(
    model: ReplacedTokenModel, leaves: dict[str, torch.Tensor], given: dict[str, torch.Tensor], sharing: str, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed losses of generator and discriminator, and the rows with the drawn tokens."""
    generator = DebertaV2ForMaskedLM(model.generator.config).double().eval()
    encoder = DebertaV2Model(model.discriminator.config).double().eval()
    of_generator = {n.removeprefix("generator."): p for n, p in leaves.items() if n.startswith("generator.")}
    own = {n.removeprefix("discriminator."): p for n, p in leaves.items() if n.startswith("discriminator.")}
    for name in (TABLE, POSITIONS):
        if name in of_generator:
            base = of_generator[name]
            own[name] = {
                "gdes": lambda b=base, n=name: b.detach() + own[n],
                "es": lambda b=base: b,
                "nes": lambda n=name: own[n],
            }[sharing]()
    of_encoder = {n.removeprefix("deberta."): p for n, p in own.items() if n.startswith("deberta.")}
    head = {n.removeprefix("mask_predictions."): p for n, p in own.items() if n.startswith("mask_predictions.")}
    ids = given["document_ids"] if given["document_ids"] is not None else torch.ones_like(given["input_ids"])
    real = given["labels"] != IGNORED
    targets = dict(zip(given["masked_index"][real].tolist(), given["labels"][real].tolist(), strict=True))
    keys = dict(zip(given["masked_index"][real].tolist(), given["draws"][real].tolist(), strict=True))
    of_masked, of_tokens = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    rows = given["input_ids"].clone()
    for row in range(2):
        for document in (1, 2):
            places = (ids[row] == document).nonzero().flatten()
            if not len(places):
                continue
            text = given["input_ids"][row, places][None]
            logits = functional_call(generator, of_generator, (text,)).logits[0]
            replaced, is_replaced = text.clone(), torch.zeros(len(places), dtype=torch.float64)
            for i, place in enumerate((row * LENGTH + places).tolist()):
                if place in targets:
                    of_masked = of_masked - logits[i].log_softmax(-1)[targets[place]]
                    replaced[0, i] = drawn_by_hand((logits[i] / temperature).detach().numpy(), keys[place])
                    is_replaced[i] = float(replaced[0, i] != targets[place])
            rows[row, places] = replaced[0]
            hidden = functional_call(encoder, of_encoder, (replaced,)).last_hidden_state[0]
            states = F.layer_norm(hidden + hidden[0], (24,), head["LayerNorm.weight"], head["LayerNorm.bias"], 1e-7)
            states = F.gelu(states @ head["dense.weight"].T + head["dense.bias"])
            scores = (states @ head["classifier.weight"].T + head["classifier.bias"])[:, 0]
            p = torch.sigmoid(scores)
            of_tokens = of_tokens - (is_replaced * p.log() + (1 - is_replaced) * (1 - p).log()).sum()
    return of_masked, of_tokens, rows


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("sharing", ["gdes", "es", "nes"])
def test_losses_and_every_gradient_are_those_of_the_formula(sharing, documents) -> None:
    # With absolute positions too, which are shared as the words are.
    config = CONFIG | {"position_biased_input": documents}
    model = build_replaced_token_model(config, 1, sharing, temperature=1.5, seed=3).double()
    if sharing == "gdes":  # as after some training: what the discriminator adds is no longer 0
        for name in ("word_embeddings", "position_embeddings")[: 1 + documents]:
            torch.nn.init.normal_(getattr(model.discriminator.deberta.embeddings, name).weight.data, std=0.2)
    given = batch(documents)
    leaves = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    of_masked, of_tokens, rows = by_formula(model, leaves, given, sharing, 1.5)
    tokens = 2 * LENGTH - 3 * documents
    (of_masked / 6 + 50 * of_tokens / tokens).backward()

    sums = model(**given)
    assert sums.loss.item() == pytest.approx(of_masked.item(), rel=1e-12)
    assert sums.discriminator_loss.item() == pytest.approx(of_tokens.item(), rel=1e-12)
    original, replaced = fill_places(*(given[k] for k in ("input_ids", "masked_index", "labels")), given["labels"].clamp(min=0))
    assert original.equal(replaced) and (original == MASK).sum() == (given["labels"] == MASK).sum()
    assert sums.replaced.item() == (rows != original).sum().item() > 0
    (sums.loss / 6 + 50 * sums.discriminator_loss / tokens).backward()
    assert {n for n, p in model.named_parameters()} == leaves.keys()
    for name, parameter in model.named_parameters():
        expected = leaves[name].grad if leaves[name].grad is not None else torch.zeros_like(leaves[name])
        found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(
            found,
            expected,
            rtol=1e-9,
            atol=1e-12 * max(1.0, expected.abs().max().item()),
            msg=lambda text, n=name: f"{n}: {text}",
        )
        if expected.abs().max() > 0:
            assert found.abs().max() > 0, name


def test_the_discriminators_loss_reaches_the_generators_embeddings_only_where_they_are_one_table() -> None:
    for sharing, reaches in (("gdes", False), ("es", True), ("nes", False)):
        model = build_replaced_token_model(CONFIG, 1, sharing, seed=3)
        model(**batch(False)).discriminator_loss.backward()
        grads = {n for n, p in model.named_parameters() if n.startswith("generator.") and p.grad is not None and p.grad.any()}
        assert grads == ({f"generator.{TABLE}"} if reaches else set())


def test_gdes_starts_as_plain_sharing() -> None:
    gdes, es = (build_replaced_token_model(CONFIG, 1, sharing, seed=3)(**batch(True)) for sharing in ("gdes", "es"))
    assert gdes.discriminator_loss.equal(es.discriminator_loss) and gdes.loss.equal(es.loss)


def test_a_drawn_token_that_is_the_texts_own_counts_as_original() -> None:
    model = build_replaced_token_model(CONFIG, 1, "gdes", temperature=1e-6, seed=3)
    given = batch(False)
    with torch.no_grad():
        own = model.generator(given["input_ids"], masked_index=given["masked_index"]).logits.argmax(-1)
    given["labels"] = torch.where(given["labels"] == IGNORED, IGNORED, own)
    assert model(**given).replaced.item() == 0


def test_draws_follow_the_softmax_at_a_temperature_and_each_key_draws_for_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 12, generator=generator)
    keys = torch.randint(-(2**63), 2**63 - 1, (20_000,), generator=generator)
    for temperature in (0.5, 1.0, 2.0):
        drawn = sample_tokens(logits.expand(len(keys), -1), keys, temperature)
        expected = 20_000 * (logits[0] / temperature).softmax(-1)
        statistic = ((torch.bincount(drawn, minlength=12) - expected) ** 2 / expected).sum().item()
        assert statistic < 31.3  # 99.9% of chi-squared with 11 degrees of freedom
    many = 2 * torch.randn(50, 12, generator=generator)
    whole = sample_tokens(many, keys[:50])
    assert whole.equal(torch.cat([sample_tokens(many[i : i + 7], keys[i : min(i + 7, 50)]) for i in range(0, 50, 7)]))
    # Both halves of a key count.
    assert not whole.equal(sample_tokens(many, keys[:50] ^ (1 << 40))) and not whole.equal(sample_tokens(many, keys[:50] ^ 1))


def test_hugging_faces_attention_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match="'sdpa' or 'fused'"):
        build_replaced_token_model(CONFIG, 1, "gdes", attention="eager")


def loss_and_gradients(run: Any, model: ReplacedTokenModel, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    sums = run(**given)
    (sums.loss + 50 * sums.discriminator_loss).backward()
    counts = [sums.correct, sums.replaced, sums.replaced_found, sums.original_found]
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [sums.loss.detach(), sums.discriminator_loss.detach(), *counts, *gradients]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_the_compiled_pair_is_one_graph_with_the_same_tokens_losses_and_gradients(backend: str) -> None:
    torch._dynamo.reset()
    model = build_replaced_token_model(CONFIG, 1, "gdes")
    model.set_rows(LENGTH)
    given = batch(True)
    expected = loss_and_gradients(model, model, given)
    found = loss_and_gradients(torch.compile(model, backend=backend, fullgraph=True, dynamic=False), model, given)
    assert len(found) == len(expected) > 40
    assert [n.item() for n in found[2:6]] == [n.item() for n in expected[2:6]]
    floor = 1e-5 * max(tensor.float().norm() for tensor in expected)
    for ours, plain in zip(found, expected, strict=True):
        assert (ours - plain).float().norm() <= 1e-3 * plain.float().norm() + floor
