"""`jadeberta.fast`: checks a model of transformers, then gives its modules our classes. Needs torch and transformers alone."""

from typing import Any, TypeVar

import transformers
from torch import nn
from transformers.models.deberta_v2 import modeling_deberta_v2 as theirs

from jadeberta.errors import ConfigError
from jadeberta.model.attention.triton import require as require_triton
from jadeberta.model.deberta import ATTENTION_BACKENDS, FastEncoder
from jadeberta.model.drop_in.fast_heads import HEADS
from jadeberta.model.drop_in.fast_modules import FAST_CLASSES, UNSEEN, TritonDisentangledSelfAttention, make_fast

OLDEST = (4, 50)
"""The oldest transformers whose layers return what these classes return. The tests run with 5.23; 4.57 was tried by hand from a
checkout."""
Model = TypeVar("Model", bound=nn.Module)


def fast(model: Model, attention: str = "sdpa") -> Model:
    """Gives a DeBERTa V2 of transformers the attention of jadeberta, in place, and returns it.

    State dict, configuration, outputs and losses stay transformers' own, up to rounding; memory no longer grows with S squared, and
    dropout in training draws other masks. The forward pass takes one argument more: `documents`, integers [B, S], the number of the
    document within a packed row, 0 = padding; attention, convolution and absolute positions then stay inside each document. A second
    call changes nothing.

    Args:
        model: DebertaV2Model, or DebertaV2For MaskedLM, SequenceClassification, TokenClassification, QuestionAnswering or MultipleChoice;
            or any module that holds a DebertaV2Model, which then gets the attention, while `documents` is for whoever calls it.
        attention: sdpa; fused (Triton kernels, on a GPU); or eager, which gives transformers' own classes back.

    Raises:
        ConfigError: the model holds no DebertaV2Model, or one that this attention cannot compute, or `attention` is unknown or cannot
            run here; the model is then as it was. A forward pass raises it for what is not supported: output_attentions, masks of
            another shape than [B, S], arguments that the model does not know.
    """
    if attention not in ATTENTION_BACKENDS:
        raise ConfigError(f"jadeberta.fast: attention is {attention!r}; it may be {', '.join(ATTENTION_BACKENDS)}.")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"jadeberta.fast takes a model of transformers, and this is a {type(model).__name__}. Load it first.")
    if isinstance(model, FastEncoder):
        raise ConfigError(f"{type(model).__name__} is jadeberta's own and fast already; it takes packed rows as document_ids.")
    check_version(transformers.__version__)
    encoders: list[Any] = [module for module in model.modules() if isinstance(module, theirs.DebertaV2Model)]
    if not encoders:
        raise ConfigError(
            f"jadeberta.fast takes DeBERTa V2 of transformers, and this {type(model).__name__} holds no DebertaV2Model."
        )
    for module in model.modules():
        check_head(module)
    for encoder in encoders:
        check_encoder(encoder, attention)
    for encoder in encoders:
        make_fast(encoder, attention)
    for module in model.modules():
        for slow, quick in HEADS.items():
            if type(module) in (slow, quick):
                module.__class__ = slow if attention == "eager" else quick
    return model


def check_version(version: str) -> None:
    """Raises ConfigError for a transformers that is too old."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(f"jadeberta.fast needs transformers {oldest} or newer, and this is {version}. Install a newer one.")


def check_head(module: nn.Module) -> None:
    """Raises ConfigError for a subclass of a head, whose forward pass might not pass `documents` on."""
    for slow, quick in HEADS.items():
        if isinstance(module, slow) and type(module) not in (slow, quick):
            raise ConfigError(
                f"{type(module).__name__} is a subclass of {slow.__name__}, whose forward jadeberta.fast does not know. Give it the "
                "encoder alone: jadeberta.fast(model.deberta)."
            )


def check_encoder(encoder: Any, attention: str) -> None:
    """Raises ConfigError where `fast` cannot compute what an encoder computes."""
    quick = {*FAST_CLASSES.values(), TritonDisentangledSelfAttention}
    for module in encoder.modules():
        for slow in FAST_CLASSES:
            if isinstance(module, slow) and type(module) is not slow and type(module) not in quick:
                raise ConfigError(
                    f"{type(module).__name__} changes {slow.__name__} of transformers, and jadeberta.fast would leave the change out. Use "
                    "the class of transformers."
                )
    config = encoder.config
    if config.output_attentions and attention != "eager":
        raise ConfigError(f"config.output_attentions is set. {UNSEEN.format('output_attentions')}")
    for module in encoder.modules():
        if not isinstance(module, theirs.DisentangledSelfAttention):
            continue
        dropout = module.dropout
        if type(dropout) not in (nn.Dropout, nn.Identity):
            raise ConfigError(
                f"the attention's dropout is a {type(dropout).__name__}, and jadeberta.fast takes torch.nn.Dropout."
            )
        if isinstance(dropout, nn.Dropout) and dropout.p >= 1:
            raise ConfigError("attention_probs_dropout_prob is 1, which leaves no attention; jadeberta.fast takes less than 1.")
        if attention == "fused":
            require_triton(module.attention_head_size)
