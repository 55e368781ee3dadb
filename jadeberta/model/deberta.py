"""DeBERTa V2 for masked language modelling: Hugging Face's parameters and state dict, our way through them.

Knows the attention backends and packed documents; knows nothing of training.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import DebertaV2Config, DebertaV2ForMaskedLM
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import ConvLayer

from jadeberta.errors import ConfigError
from jadeberta.model.attention import SkewedSelfAttention

ATTENTION_BACKENDS = ("eager", "sdpa", "fused")


class DebertaForMaskedLM(DebertaV2ForMaskedLM):
    """DebertaV2ForMaskedLM with `document_ids`, a head on chosen positions only, and a choice of attention."""

    def __init__(self, config: DebertaV2Config, attention: str = "sdpa") -> None:
        """Raises ConfigError for an attention that is unknown or not available."""
        if attention not in ATTENTION_BACKENDS:
            raise ConfigError(f"model.attention is '{attention}'; it may be {', '.join(ATTENTION_BACKENDS)}.")
        if attention == "fused":
            raise ConfigError(
                "model.attention 'fused' is not available in this version; choose 'sdpa' (same function) or 'eager'."
            )
        super().__init__(config)
        self.attention_backend = attention
        if attention == "sdpa":
            layers: Any = self.deberta.encoder.layer
            for layer in layers:
                layer.attention.self.__class__ = SkewedSelfAttention  # same parameters, another forward

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_index: torch.Tensor | None = None,
        **ignored: object,
    ) -> MaskedLMOutput:
        """Loss and logits.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 = token, 0 = padding; None: no padding.
            document_ids: [B, S], number of the document within the row, 0 = padding; given, attention and convolution stay inside
                each document, so that a packed row gives each document what it gets alone.
            labels: the tokens to predict, -100 = none; [B, S], or [M] with `masked_index`.
            masked_index: int64 [M], places in the flattened [B * S]; given, the head runs on these alone.

        Returns:
            `.loss`, the mean cross-entropy over labels (None without labels), and `.logits`, [B, S, vocab] or [M, vocab].

        Raises:
            ConfigError: `document_ids` with eager attention, whose convolution leaks across documents.
        """
        if self.attention_backend == "eager":
            if document_ids is not None:
                raise ConfigError("model.attention 'eager' cannot keep documents apart; choose 'sdpa' or data.packing 'concat'.")
            hidden = self.deberta(input_ids, attention_mask=attention_mask).last_hidden_state
        else:
            hidden = self.encode(input_ids, attention_mask, document_ids)
        if masked_index is not None:
            hidden = hidden.flatten(0, 1)[masked_index]
        logits = self.cls(hidden) if self.legacy else self.lm_predictions(hidden, self.deberta.embeddings.word_embeddings)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, document_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Hidden states of the last layer, [B, S, hidden_size]; arguments as for `forward`."""
        if document_ids is not None:
            attention_mask = document_ids != 0 if attention_mask is None else attention_mask.bool() & (document_ids != 0)
        allowed = allowed_pairs(attention_mask, document_ids)
        encoder: Any = self.deberta.encoder
        embedded = hidden = self.deberta.embeddings(input_ids, mask=attention_mask)
        table = encoder.get_rel_embedding()
        for i, layer in enumerate(encoder.layer):
            context = layer.attention.self.attend(hidden, table, allowed)
            attended = layer.attention.output(context, hidden)
            hidden = layer.output(layer.intermediate(attended), attended)
            if i == 0 and encoder.conv is not None:
                hidden = convolve(encoder.conv, embedded, hidden, attention_mask, document_ids)
        return hidden


def allowed_pairs(attention_mask: torch.Tensor | None, document_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Which query may look at which key, bool [B, 1, S or 1, S]; None where all may."""
    if document_ids is not None:
        return ((document_ids[:, :, None] == document_ids[:, None, :]) & (document_ids != 0)[:, None, :])[:, None]
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]


def convolve(
    layer: ConvLayer, embedded: torch.Tensor, residual: torch.Tensor, mask: torch.Tensor | None, document_ids: torch.Tensor | None
) -> torch.Tensor:
    """Hugging Face's ConvLayer, stopped at document boundaries where there are documents; [B, S, hidden_size]."""
    out = (
        layer.conv(embedded.transpose(1, 2)) if document_ids is None else _convolve_documents(layer.conv, embedded, document_ids)
    )
    out = out.transpose(1, 2)
    if mask is not None:
        out = out.masked_fill(~mask.bool().unsqueeze(-1), 0)
    out = layer.LayerNorm(residual + ACT2FN[layer.conv_act](layer.dropout(out)))
    return out if mask is None else out * mask.unsqueeze(-1).to(out.dtype)


def _convolve_documents(conv: torch.nn.Conv1d, embedded: torch.Tensor, document_ids: torch.Tensor) -> torch.Tensor:
    """One 1-wide convolution per tap over the shifted input, zeroed where the tap reaches into another document; [B, hidden, S]."""
    width, length = conv.kernel_size[0], embedded.shape[1]
    reach = (width - 1) // 2
    padded = F.pad(embedded, (0, 0, reach, reach))
    padded_ids = F.pad(document_ids, (reach, reach))
    out = None
    for tap in range(width):
        same = padded_ids[:, tap : tap + length] == document_ids  # [B, S]
        seen = (padded[:, tap : tap + length] * same.unsqueeze(-1).to(embedded.dtype)).transpose(1, 2)
        term = F.conv1d(seen, conv.weight[:, :, tap : tap + 1], groups=conv.groups)
        out = term if out is None else out + term
    assert out is not None
    return out if conv.bias is None else out + conv.bias[:, None]
