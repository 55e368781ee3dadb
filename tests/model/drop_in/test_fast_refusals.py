"""What `jadeberta.fast` cannot do it refuses in a sentence, and the model is then as it was."""

import pytest
import torch
import transformers
from torch import nn

import jadeberta
from jadeberta.errors import ConfigError
from jadeberta.model import build
from jadeberta.model.drop_in.fast_model import check_version
from tests.model.drop_in.conftest import SIZES, make_batch, make_pair, make_slow

IDS, MASK = make_batch("Model", 6, 1, 1).values()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_attentions": True}, "keeps no attention weights"),
        ({"head_mask": torch.ones(3)}, "knows no argument head_mask"),
        ({"document_ids": MASK}, "knows no argument document_ids"),
        ({"attention_mask": MASK[:, None] * MASK[:, :, None]}, r"attention_mask of the shape of the rows, \[3, 6\]"),
        ({"attention_mask": MASK[:, None, None]}, "attention_mask of the shape"),
        ({"attention_mask": MASK[:, :4]}, "attention_mask of the shape"),
        ({"attention_mask": MASK[0]}, "attention_mask of the shape"),
        ({"attention_mask": MASK * 2}, r"1 \(token\) and 0 \(padding\)"),
        ({"attention_mask": MASK * 0.5}, r"1 \(token\) and 0 \(padding\)"),
    ],
)
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_an_argument_that_would_have_no_effect_is_refused(head, given, message, masked_lm) -> None:
    quick = masked_lm[1] if head == "ForMaskedLM" else masked_lm[1].deberta
    with pytest.raises(ConfigError, match=message):
        quick(IDS, **given)


def test_arguments_that_ask_for_nothing_are_taken(masked_lm) -> None:
    quick = masked_lm[1]
    assert torch.equal(quick(IDS, output_attentions=False, head_mask=None, use_cache=False).logits, quick(IDS).logits)


def test_both_or_neither_of_tokens_and_embeddings_are_refused_as_in_transformers(masked_lm) -> None:
    for model in masked_lm:
        with pytest.raises(ValueError, match="input_ids"):
            model()
        with pytest.raises(ValueError, match="input_ids"):
            model(IDS, inputs_embeds=torch.zeros(3, 6, 24, dtype=torch.float64))


class OwnModel(transformers.DebertaV2Model):
    def forward(self, *args, **kwargs):
        return None


class OwnHead(transformers.DebertaV2ForMaskedLM):
    pass


def changed(model: nn.Module, **changes) -> nn.Module:
    for name, value in changes.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "a path", "takes a model of transformers, and this is a str"),
        (lambda: nn.Linear(2, 2), "holds no DebertaV2Model"),
        (lambda: transformers.BertModel(transformers.BertConfig(vocab_size=9, hidden_size=12, num_hidden_layers=1)), "no DebertaV2Model"),
        (lambda: build(transformers.DebertaV2Config(**SIZES)), "jadeberta's own and fast already"),
        (lambda: OwnModel(transformers.DebertaV2Config(**SIZES)), "OwnModel changes DebertaV2Model"),
        (lambda: OwnHead(transformers.DebertaV2Config(**SIZES)), r"jadeberta.fast\(model.deberta\)"),
        (lambda: make_slow("Model", attention_probs_dropout_prob=1.0), "less than 1"),
        (lambda: make_slow("Model", output_attentions=True, attn_implementation="eager"), "config.output_attentions is set"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_fast_is_refused_and_unchanged(make, message) -> None:
    model = make()
    classes = [type(module) for module in model.modules()] if isinstance(model, nn.Module) else []
    with pytest.raises(ConfigError, match=message):
        jadeberta.fast(model)
    assert not classes or [type(module) for module in model.modules()] == classes


def test_an_attention_that_is_unknown_or_cannot_run_here_is_refused() -> None:
    with pytest.raises(ConfigError, match="eager, sdpa, fused"):
        jadeberta.fast(make_slow("Model"), attention="flash")
    with pytest.raises(ConfigError, match="heads of 32, 64, 128"):
        jadeberta.fast(make_slow("Model"), attention="fused")


def test_attention_used_directly_refuses_what_it_does_not_compute() -> None:
    _, quick = make_pair("Model")
    attention, hidden = quick.encoder.layer[0].attention.self, torch.zeros(3, 6, 24, dtype=torch.float64)
    for given in ({"output_attentions": True}, {"query_states": hidden}, {"relative_pos": MASK}):
        with pytest.raises(ConfigError):
            attention(hidden, MASK, rel_embeddings=quick.encoder.get_rel_embedding(), **given)
    with pytest.raises(ConfigError, match="takes a mask of the rows"):
        quick.encoder(hidden, MASK[:, None] * MASK[:, :, None])
    quick.z_steps = 2
    with pytest.raises(ConfigError, match="z_steps is 2"):
        quick(IDS)


@pytest.mark.parametrize("version", ["4.49.0", "4.9", "3.0.2"])
def test_a_transformers_that_is_too_old_is_refused(version) -> None:
    with pytest.raises(ConfigError, match=r"needs transformers 4.50 or newer"):
        check_version(version)
    for newer in ("4.50.0", "4.57.6", "5.0.0rc1", "5.23.0", "6.0.dev0"):
        check_version(newer)


def test_the_package_names_what_it_lacks() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quick'"):
        _ = jadeberta.quick
    assert "fast" in dir(jadeberta)
