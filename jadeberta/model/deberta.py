"""DeBERTa V2 for masked language modelling: Hugging Face's parameters and state dict with a forward pass of its own.

Knows the attention backends and packed documents; knows nothing of training. The model is that of He et al. 2021, arXiv:2006.03654.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import DebertaV2Config, DebertaV2ForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from jadeberta.errors import ConfigError
from jadeberta.model.attention.module import SdpaSelfAttention, TritonSelfAttention
from jadeberta.model.attention.relative_positions import forget_lengths
from jadeberta.model.attention.triton import require as require_triton
from jadeberta.model.convolution import TapConvolution, convolve
from jadeberta.model.loss import MaskedSums, masked_sums
from jadeberta.model.packed_rows import mask_padding, positions_in_documents
from jadeberta.model_constants import IGNORED

ATTENTION_BACKENDS = ("eager", "sdpa", "fused")
ATTENTION_MODULES = {"eager": DisentangledSelfAttention, "sdpa": SdpaSelfAttention, "fused": TritonSelfAttention}


class FastEncoder:
    """What the models of this program share: `self.deberta` with a choice of attention, packed documents and recomputation."""

    config: Any
    deberta: Any
    training: bool
    recompute = False
    """Whether backward recomputes the activations of each layer instead of keeping them."""
    row_length: int | None = None
    """S that `set_rows` was last given; None before."""

    def set_rows(self, length: int, attention: str | None = None) -> None:
        """Prepares the model for rows of another length, and for another attention if one is given; parameters stay as they are.

        What was computed and compiled for other rows is forgotten, so that no memory of theirs is kept: the next step compiles anew.
        A call that changes nothing does nothing.

        Args:
            length: S, tokens.
            attention: one of ATTENTION_BACKENDS; None keeps the present one.

        Raises:
            ConfigError: the rows are longer than the model's, or the attention is unknown, cannot run here or not at this length. The
                model is then as it was.
        """
        attention = attention or self.attention_backend
        if (length, attention) == (self.row_length, self.attention_backend):
            return
        if not 1 <= length <= self.config.max_position_embeddings:
            raise ConfigError(
                f"rows of {length} tokens do not fit the model, whose max_position_embeddings is {self.config.max_position_embeddings}."
            )
        require_attention(attention, self.config, length)
        self.row_length = length
        self._choose_attention(attention)
        forget_lengths()
        torch.compiler.reset()

    def _choose_attention(self, attention: str) -> None:
        """Sets the classes of the modules; the parameters stay the same, only the forward pass changes."""
        encoder: Any = self.deberta.encoder
        for layer in encoder.layer:
            layer.attention.self.__class__ = ATTENTION_MODULES[attention]
        if encoder.conv is not None:
            encoder.conv.conv.__class__ = torch.nn.Conv1d if attention == "eager" else TapConvolution
        self.attention_backend = attention

    def encode(
        self, input_ids: torch.Tensor, document_ids: torch.Tensor | None, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the hidden states of the last layer, [B, S, hidden_size].

        Args:
            input_ids: int64 [B, S].
            document_ids: integers [B, S], 0 = padding; tokens of equal numbers see each other. None: no padding, one text per row.
            positions: int64 [B, S], of each token for the absolute position embeddings; None counts through the row.
        """
        encoder: Any = self.deberta.encoder
        present = None if document_ids is None else document_ids != 0
        embedded = hidden = self.deberta.embeddings(input_ids, position_ids=positions, mask=present)
        table = encoder.get_rel_embedding()
        seeds = self._dropout_seeds(len(encoder.layer), input_ids.device)
        for i, layer in enumerate(encoder.layer):
            if self.recompute and self.training:
                hidden = checkpoint(run_layer, layer, hidden, table, document_ids, seeds[i], use_reentrant=False)
            else:
                hidden = run_layer(layer, hidden, table, document_ids, seeds[i])
            if i == 0 and encoder.conv is not None:
                hidden = convolve(encoder.conv, embedded, hidden, document_ids)
        return hidden

    def encode_rows(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, document_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Returns `encode` of rows with padding and documents, [B, S, hidden_size]; arguments as of `DebertaForMaskedLM.forward`."""
        # Relative positions need nothing: a distance inside a document is the same wherever the document lies.
        positions = None
        if document_ids is not None and self.config.position_biased_input:
            positions = positions_in_documents(document_ids)
        return self.encode(input_ids, mask_padding(attention_mask, document_ids), positions)

    def _dropout_seeds(self, layers: int, device: torch.device) -> torch.Tensor:
        """A dropout seed for each layer from torch's generator, int64 [layers]; zeros if nothing is dropped."""
        if not self.training or not self.config.attention_probs_dropout_prob:
            return torch.zeros(layers, dtype=torch.int64, device=device)
        return torch.randint(2**62, (layers,), device=device)


class DebertaForMaskedLM(FastEncoder, DebertaV2ForMaskedLM):
    """DebertaV2ForMaskedLM with `document_ids`, a head that can run on the masked positions only, and a choice of attention."""

    def __init__(self, config: DebertaV2Config, attention: str = "sdpa") -> None:
        """Builds the model with freshly initialised weights.

        Args:
            config: Hugging Face's.
            attention: one of ATTENTION_BACKENDS.

        Raises:
            ConfigError: the attention is unknown, or cannot run here.
        """
        require_attention(attention, config)
        super().__init__(config)
        self._choose_attention(attention)

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
        """Computes loss and logits, or the sums that training needs.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 = token, 0 = padding; None: no padding.
            document_ids: integers [B, S], the number of the document within the row, 0 = padding. Attention and convolution then stay
                inside each document, so that a packed row gives the same result as its documents alone.
            labels: int64 tokens to predict, -100 = none; [B, S], or [M] with `masked_index`.
            masked_index: int64 [M], positions in the flattened [B * S]; the head then runs on these positions only.
            z_loss: the weight of `masked_loss`; sums over the labels are then returned instead of mean and logits.
            ignored: arguments of Hugging Face's forward that have no effect here.

        Returns:
            `.loss`, the mean cross-entropy over labels (None without labels), and `.logits`, [B, S, vocab] or [M, vocab];
            MaskedSums if `z_loss` is given.

        Raises:
            ConfigError: `document_ids` with eager attention, whose convolution mixes documents.
        """
        if self.attention_backend == "eager":
            if document_ids is not None:
                raise ConfigError(
                    "model.attention 'eager' cannot keep documents apart; choose 'sdpa', 'fused' or data.packing 'concat'."
                )
            hidden = self.deberta(input_ids, attention_mask=attention_mask).last_hidden_state
        else:
            hidden = self.encode_rows(input_ids, attention_mask, document_ids)
        if masked_index is not None:
            hidden = hidden.flatten(0, 1).index_select(0, masked_index)
        logits = self.predict(hidden)
        if z_loss is not None:
            assert labels is not None
            return masked_sums(logits.flatten(0, -2), labels.flatten(), z_loss)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
        return MaskedLMOutput(loss=loss, logits=logits)

    def predict(self, hidden: torch.Tensor) -> torch.Tensor:
        """Runs the language model's head on hidden states [..., hidden_size]; logits, [..., vocab]."""
        return self.cls(hidden) if self.legacy else self.lm_predictions(hidden, self.deberta.embeddings.word_embeddings)


def run_layer(
    layer: Any, hidden: torch.Tensor, table: torch.Tensor | None, document_ids: torch.Tensor | None, seed: torch.Tensor
) -> torch.Tensor:
    """Runs one layer of the encoder, [B, S, hidden_size] to the same shape.

    Args:
        layer: of Hugging Face's encoder.
        hidden: the layer's input, [B, S, hidden_size].
        table: relative position embeddings, [2 * span, hidden_size].
        document_ids: integers [B, S], or None; as for `SdpaSelfAttention.context`.
        seed: int64 [], of the attention dropout.
    """
    context = layer.attention.self.context(hidden, table, document_ids, seed)
    attended = layer.attention.output(context, hidden)
    return layer.output(layer.intermediate(attended), attended)


def require_attention(attention: str, config: DebertaV2Config, length: int | None = None) -> None:
    """Raises ConfigError if an attention is unknown, or cannot run on this machine, with these heads or at this length."""
    if attention not in ATTENTION_BACKENDS:
        raise ConfigError(f"model.attention is '{attention}'; it may be {', '.join(ATTENTION_BACKENDS)}.")
    if attention == "fused":
        require_triton(config.attention_head_size, length)
