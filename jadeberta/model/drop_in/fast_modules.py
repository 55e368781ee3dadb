"""transformers' encoder of DeBERTa V2 with our attention: subclasses that change the forward pass and hold nothing of their own.

transformers' loop over the layers stays, and with it gradient checkpointing, hooks and wrappers around layers. Rows, integers [B, S], take
the place of its mask: tokens of equal numbers see each other, 0 is padding. NO_ROWS says that every token sees its whole row.
"""

from typing import Any

import torch
from torch import nn
from transformers.models.deberta_v2 import modeling_deberta_v2 as theirs

from jadeberta.errors import ConfigError
from jadeberta.model.attention.module import SdpaSelfAttention
from jadeberta.model.convolution import add_convolved, convolve_taps
from jadeberta.model.packed_rows import mask_padding, positions_in_documents

UNSEEN = "jadeberta.fast keeps no attention weights, so there is no {} to give. Use the model without jadeberta.fast for it."
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@torch.compiler.assume_constant_result
def narrow_root(x: int) -> float:
    """The square root in fp32, as transformers takes it whatever the dtype; an exact one would differ by 6e-8."""
    return float(torch.tensor(x, dtype=torch.float32).sqrt())


class DisentangledSelfAttention(SdpaSelfAttention):
    """Self-attention that is called as transformers' is, by `jadeberta.model.attention.dispatch`."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        output_attentions: bool = False,
        query_states: torch.Tensor | None = None,
        relative_pos: torch.Tensor | None = None,
        rel_embeddings: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Returns the context, [B, S, H * D], and None in the place of the weights.

        Args:
            hidden_states: [B, S, hidden_size].
            attention_mask: rows [B, S], or NO_ROWS.
            output_attentions: refused.
            query_states: refused.
            relative_pos: refused; distances are computed from the length.
            rel_embeddings: relative position embeddings, [2 * span, hidden_size].

        Raises:
            ConfigError: an argument is refused, or the mask has another shape.
        """
        if output_attentions:
            raise ConfigError(UNSEEN.format("output_attentions"))
        if query_states is not None or relative_pos is not None:
            raise ConfigError("jadeberta.fast takes no query_states and no relative_pos; leave them out.")
        rows = rows_or_none(attention_mask, hidden_states)
        seed = torch.zeros((), dtype=torch.int64, device=hidden_states.device)
        if self._dropped_share():
            # From torch's generator, which gradient checkpointing puts back before it computes a layer again.
            seed = torch.randint(2**62, (), device=hidden_states.device)
        return self.context(hidden_states, rel_embeddings, rows, seed), None

    def _attend(self, qkv: torch.Tensor, document_ids: torch.Tensor | None, *inputs: Any) -> torch.Tensor:
        context = super()._attend(qkv, document_ids, *inputs)
        if document_ids is None:
            return context
        # In transformers' model a padding token sees the whole row, all tokens alike. A head that reads the first token does read it where
        # padding is on the left.
        return torch.where((document_ids != 0)[:, :, None, None], context, qkv[:, :, 2].mean(1, keepdim=True))

    def _scale(self, terms: int) -> float:
        return 1 / narrow_root(self.attention_head_size * terms)

    def _dropped_share(self) -> float:
        # Not this module's own mode: Monte-Carlo dropout sets the dropout modules alone to training.
        return float(self.dropout.p) if isinstance(self.dropout, nn.Dropout) and self.dropout.training else 0.0

    def _run_apart(self, layers: list[Any]) -> bool:
        # Adapters, quantised layers and hooks do something else than a product with the weight.
        return super()._run_apart(layers) or not all(is_plain(layer, nn.Linear) for layer in layers)


class TritonDisentangledSelfAttention(DisentangledSelfAttention):
    """The same function in Triton kernels."""

    use_triton = True


class ConvLayer(theirs.ConvLayer):
    """The convolution beside the first layer, which keeps documents apart."""

    def forward(self, hidden_states: torch.Tensor, residual_states: torch.Tensor, input_mask: torch.Tensor) -> torch.Tensor:
        """Returns the first layer's output with the convolution of the embeddings added, [B, S, hidden_size].

        Args:
            hidden_states: embeddings, [B, S, hidden_size].
            residual_states: the first layer's output, likewise.
            input_mask: rows [B, S], or NO_ROWS.

        Raises:
            ConfigError: the mask has another shape.
        """
        rows = rows_or_none(input_mask, hidden_states)
        if is_plain(self.conv, nn.Conv1d) and not hasattr(self.conv.weight, "ds_id"):
            out = convolve_taps(self.conv, hidden_states, rows)
        else:
            # Its hooks, adapters and ZeRO-3's gathering of weights need the module's own pass, which sees the whole row.
            if rows is not None and bool(((rows != 0) & (rows != rows.amax(1, keepdim=True))).any()):
                raise ConfigError(
                    "jadeberta.fast cannot keep documents apart in a convolution that has hooks, adapters or ZeRO-3."
                )
            out = self.conv(hidden_states.transpose(1, 2)).transpose(1, 2)
        return add_convolved(self, out, residual_states, rows)


class DebertaV2Encoder(theirs.DebertaV2Encoder):
    """transformers' loop over the layers, which passes rows on as they are."""

    def get_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns rows as they are."""
        return attention_mask

    def get_rel_pos(self, hidden_states: Any, query_states: Any = None, relative_pos: Any = None) -> Any:
        """Returns `relative_pos`: attention computes distances itself."""
        return relative_pos


class DebertaV2Model(theirs.DebertaV2Model):
    """DebertaV2Model with our attention and packed rows; made by `jadeberta.fast`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        make_fast(self)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        documents: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Returns what transformers' DebertaV2Model returns.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 = token, 0 = padding; None: no padding.
            token_type_ids: int64 [B, S].
            position_ids: int64 [B, S]; None counts through the row, or through each document.
            inputs_embeds: [B, S, embedding_size], in the place of `input_ids`.
            output_attentions: refused.
            output_hidden_states: whether the states of all layers are returned; None takes the config's answer.
            return_dict: a BaseModelOutput or a tuple; None takes the config's answer.
            documents: integers [B, S], the number of the document within the row, 0 = padding. Attention, convolution and absolute
                positions stay inside each document, so that a packed row gives the same states as its documents alone.
            others: refused, unless None or False.

        Raises:
            ConfigError: an argument is refused, or has the wrong shape.
            ValueError: not exactly one of `input_ids` and `inputs_embeds` is given, as in transformers.
        """
        refuse_unknown(others)
        if output_attentions if output_attentions is not None else self.config.output_attentions:
            raise ConfigError(UNSEEN.format("output_attentions"))
        if self.z_steps > 1:
            raise ConfigError(f"jadeberta.fast runs each layer once, and the model's z_steps is {self.z_steps}. Set it to 0.")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You have to specify either input_ids or inputs_embeds, and not both")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if input_ids is not None:
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask if documents is None else documents)
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        check_row_tensor("attention_mask", attention_mask, given)
        check_row_tensor("documents", documents, given)
        mask, rows = attention_mask, mask_padding(attention_mask, documents)
        if documents is not None:
            assert rows is not None
            mask = rows != 0
            if position_ids is None and self.config.position_biased_input:
                position_ids = positions_in_documents(documents)
        if rows is not None and is_one_text(rows):
            rows = None
        embedded = self.embeddings(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            mask=mask,
            inputs_embeds=inputs_embeds,
        )
        return self.encoder(
            embedded,
            embedded.new_empty(0) if rows is None else rows,  # NO_ROWS
            output_hidden_states=output_hidden_states,
            output_attentions=False,
            return_dict=self.config.return_dict if return_dict is None else return_dict,
        )


FAST_CLASSES = {
    theirs.DebertaV2Model: DebertaV2Model,
    theirs.DebertaV2Encoder: DebertaV2Encoder,
    theirs.ConvLayer: ConvLayer,
    theirs.DisentangledSelfAttention: DisentangledSelfAttention,
}
"""Ours for each class of transformers'."""


def make_fast(model: nn.Module, attention: str = "sdpa") -> None:
    """Gives the modules of an encoder their fast classes; parameters, buffers and state dict stay as they are.

    Args:
        model: a DebertaV2Model of transformers, or one that is fast already.
        attention: sdpa, fused, or eager for transformers' own classes.
    """
    for module in model.modules():
        for slow, quick in FAST_CLASSES.items():
            if isinstance(module, slow):
                module.__class__ = slow if attention == "eager" else quick
        if attention == "fused" and type(module) is DisentangledSelfAttention:
            module.__class__ = TritonDisentangledSelfAttention


def rows_or_none(rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor | None:
    """Returns rows [B, S] for hidden states [B, S, hidden_size], None for NO_ROWS, an empty vector; raises ConfigError for other shapes."""
    if rows.dim() == 1 and not rows.numel():
        return None
    if rows.shape != hidden.shape[:2]:
        shape = list(hidden.shape[:2])
        raise ConfigError(
            f"jadeberta.fast takes a mask of the rows, {shape}, and this one is {list(rows.shape)}. For packed rows pass documents."
        )
    return rows


def check_row_tensor(name: str, value: torch.Tensor | None, given: torch.Tensor) -> None:
    """Raises ConfigError unless `value` is None or as `attention_mask` and `documents` must be, [B, S] for input [B, S, ...]."""
    if value is None:
        return
    shape = list(given.shape[:2])
    if not isinstance(value, torch.Tensor) or list(value.shape) != shape:
        found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ConfigError(
            f"jadeberta.fast takes {name} of the shape of the rows, {shape}, and this is {found}. For packed rows pass documents."
        )
    if name == "documents":
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise ConfigError(f"documents are the numbers of documents, integers {shape}, and these are {value.dtype}.")
    elif value.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(((value == 0) | (value == 1)).all()):
        # Not on a GPU, which would have to be waited for.
        raise ConfigError("jadeberta.fast takes an attention_mask of 1 (token) and 0 (padding); for packed rows pass documents.")


def is_one_text(rows: torch.Tensor) -> bool:
    """Whether rows [B, S] are known to have one document and no padding each, which needs no masking. A GPU is not waited for."""
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(((rows == rows[:, :1]) & (rows != 0)).all())


def is_plain(layer: Any, kind: type) -> bool:
    """Whether a module does nothing but what its class does: it is no subclass, and has no hooks."""
    return type(layer) is kind and not any(getattr(layer, hooks) for hooks in HOOKS)


def refuse_unknown(others: dict[str, Any]) -> None:
    """Raises ConfigError for arguments that the model does not know, unless they ask for nothing."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise ConfigError(f"jadeberta.fast knows no argument {name}, which would have no effect; leave it out.")
