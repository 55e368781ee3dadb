"""DeBERTa V2 for masked language modelling: Hugging Face's parameters and state dict, our way through them.

Knows the attention backends and packed documents; knows nothing of training.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import DebertaV2Config, DebertaV2ForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput

from jadeberta.data.masking import IGNORED
from jadeberta.errors import ConfigError
from jadeberta.model.attention.module import FusedSelfAttention, LeanSelfAttention
from jadeberta.model.attention.triton import require as require_fused
from jadeberta.model.convolution import TapConvolution, convolve
from jadeberta.model.loss import MaskedSums, masked_sums

ATTENTION_BACKENDS = ("eager", "sdpa", "fused")


class DebertaForMaskedLM(DebertaV2ForMaskedLM):
    """DebertaV2ForMaskedLM with `document_ids`, a head on chosen positions only, and a choice of attention."""

    recompute = False
    """Whether the activations of each layer are made again in backward instead of kept."""

    def __init__(self, config: DebertaV2Config, attention: str = "sdpa") -> None:
        """Raises ConfigError for an attention that is unknown or not available."""
        if attention not in ATTENTION_BACKENDS:
            raise ConfigError(f"model.attention is '{attention}'; it may be {', '.join(ATTENTION_BACKENDS)}.")
        if attention == "fused":
            require_fused(config.attention_head_size)
        super().__init__(config)
        self.attention_backend = attention
        if attention != "eager":
            encoder: Any = self.deberta.encoder
            for layer in encoder.layer:
                # The same parameters, another forward.
                layer.attention.self.__class__ = FusedSelfAttention if attention == "fused" else LeanSelfAttention
            if encoder.conv is not None:
                encoder.conv.conv.__class__ = TapConvolution

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_index: torch.Tensor | None = None,
        z_loss: float | None = None,
        **ignored: object,
    ) -> MaskedLMOutput | MaskedSums:
        """Loss and logits, or the sums that training needs.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 = token, 0 = padding; None: no padding.
            document_ids: [B, S], number of the document within the row, 0 = padding; given, attention and convolution stay inside
                each document, so that a packed row gives each document what it gets alone.
            labels: the tokens to predict, -100 = none; [B, S], or [M] with `masked_index`.
            masked_index: int64 [M], places in the flattened [B * S]; given, the head runs on these alone.
            z_loss: given, sums over the labels are returned instead of mean and logits; the weight of `masked_loss`.

        Returns:
            `.loss`, the mean cross-entropy over labels (None without labels), and `.logits`, [B, S, vocab] or [M, vocab];
            with `z_loss` MaskedSums, as training needs them.

        Raises:
            ConfigError: `document_ids` with eager attention, whose convolution leaks across documents.
        """
        if self.attention_backend == "eager":
            if document_ids is not None:
                raise ConfigError(
                    "model.attention 'eager' cannot keep documents apart; choose 'sdpa', 'fused' or data.packing 'concat'."
                )
            hidden = self.deberta(input_ids, attention_mask=attention_mask).last_hidden_state
        else:
            hidden = self.encode(input_ids, documents_of(attention_mask, document_ids))
        if masked_index is not None:
            hidden = hidden.flatten(0, 1).index_select(0, masked_index)
        logits = self.cls(hidden) if self.legacy else self.lm_predictions(hidden, self.deberta.embeddings.word_embeddings)
        if z_loss is not None:
            assert labels is not None
            return masked_sums(logits.flatten(0, -2), labels.flatten(), z_loss)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
        return MaskedLMOutput(loss=loss, logits=logits)

    def encode(self, input_ids: torch.Tensor, documents: torch.Tensor | None) -> torch.Tensor:
        """Hidden states of the last layer, [B, S, hidden_size].

        Args:
            input_ids: int64 [B, S].
            documents: integers [B, S], 0 = padding; tokens of equal numbers see each other. None: each row is one text without padding.
        """
        encoder: Any = self.deberta.encoder
        present = None if documents is None else documents != 0
        embedded = hidden = self.deberta.embeddings(input_ids, mask=present)
        table = encoder.get_rel_embedding()
        seeds = self._dropout_seeds(len(encoder.layer), input_ids.device)
        for i, layer in enumerate(encoder.layer):
            if self.recompute and self.training:
                hidden = checkpoint(run_layer, layer, hidden, table, documents, seeds[i], use_reentrant=False)
            else:
                hidden = run_layer(layer, hidden, table, documents, seeds[i])
            if i == 0 and encoder.conv is not None:
                hidden = convolve(encoder.conv, embedded, hidden, documents)
        return hidden

    def _dropout_seeds(self, layers: int, device: torch.device) -> torch.Tensor:
        """One of torch's generator for each layer, int64 [layers]; zeros where nothing is dropped."""
        if not self.training or not self.config.attention_probs_dropout_prob:
            return torch.zeros(layers, dtype=torch.int64, device=device)
        return torch.randint(2**62, (layers,), device=device)


def run_layer(
    layer: Any, hidden: torch.Tensor, table: torch.Tensor | None, documents: torch.Tensor | None, seed: torch.Tensor
) -> torch.Tensor:
    """One of the encoder's layers, [B, S, hidden_size] -> the same; arguments as for LeanSelfAttention.context."""
    context = layer.attention.self.context(hidden, table, documents, seed)
    attended = layer.attention.output(context, hidden)
    return layer.output(layer.intermediate(attended), attended)


def documents_of(attention_mask: torch.Tensor | None, document_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Document numbers with padding at 0, [B, S]; None where every row is one text without padding.

    Padding sees padding: what it gets is nobody's input, and no row of scores is empty.
    """
    if document_ids is None:
        return None if attention_mask is None else (attention_mask != 0).long()
    return document_ids if attention_mask is None else document_ids * (attention_mask != 0).to(document_ids.dtype)
