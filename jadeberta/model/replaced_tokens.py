"""Replaced-token detection: a generator that fills masked places, and a discriminator that tells which tokens are not the text's own.

The method is ELECTRA's (Clark et al. 2020, arXiv:2003.10555) with the sharing of embeddings of DeBERTa V3 (He et al. 2021,
arXiv:2111.09543). The head and the tokens that count are those of microsoft's code. Knows nothing of training.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DebertaV2Config, DebertaV2Model
from transformers.activations import ACT2FN
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2PreTrainedModel
from transformers.utils import ModelOutput

from jadeberta.errors import ConfigError
from jadeberta.model.deberta import DebertaForMaskedLM, FastEncoder, require_attention
from jadeberta.model.loss import masked_loss
from jadeberta.model.packed_rows import positions_in_documents
from jadeberta.model.sampling import sample_tokens
from jadeberta.model_constants import IGNORED

Sharing = Literal["gdes", "es", "nes"]
PAIR_KEY = "replaced_tokens"
"""Key of a checkpoint's config.json that says how its two models belong together."""
SHARED_TABLES = ("word_embeddings", "position_embeddings")


class AddedEmbedding(nn.Embedding):
    """An embedding that is added to another model's, whose gradient stops here (GDES, DeBERTa V3, section 3.3)."""

    base: tuple[nn.Embedding]
    """The other one; in a tuple, so that its weight is no parameter of this module."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the sum of both embeddings of each number, [..., width]."""
        return F.embedding(input, self.base[0].weight.detach()) + super().forward(input)


class ReplacedTokenHead(nn.Module):
    """One logit a token; above 0: replaced. Each token is seen together with the first one of its text, as in microsoft's code."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: torch.Tensor, document_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Returns logits, [B, S].

        Args:
            hidden: states of the last layer, [B, S, hidden_size].
            document_ids: integers [B, S]; the first token is then that of the token's own document.
        """
        first = hidden[:, :1]
        if document_ids is not None:
            rows, length = document_ids.shape
            places = torch.arange(rows * length, device=hidden.device).view(rows, length)
            # An embedding, whose backward adds up in one order; that of a gather does not on GPUs.
            first = F.embedding(places - positions_in_documents(document_ids), hidden.flatten(0, 1))
        return self.classifier(self.act(self.dense(self.LayerNorm(hidden + first)))).squeeze(-1)


class ReplacedTokenDetector(FastEncoder, DebertaV2PreTrainedModel):
    """The discriminator: DebertaV2Model (`deberta.*`) with the head of replaced-token detection (`mask_predictions.*`)."""

    def __init__(self, config: DebertaV2Config, attention: str = "sdpa") -> None:
        """Builds the model with freshly initialised weights; arguments and errors are those of `DebertaForMaskedLM`."""
        require_attention(attention, config)
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.mask_predictions = ReplacedTokenHead(config)
        self.post_init()
        self._choose_attention(attention)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        **ignored: object,
    ) -> torch.Tensor:
        """Returns a logit for each token, [B, S]; above 0: replaced. Arguments as of `DebertaForMaskedLM`."""
        hidden = self.encode_rows(input_ids, attention_mask, document_ids)
        return self.mask_predictions(hidden, document_ids)


@dataclass
class ReplacedSums(ModelOutput):
    """The contribution of one micro-batch to a step of replaced-token detection."""

    loss: torch.Tensor | None = None
    """fp32 [], the generator's cross-entropy summed over the masked tokens, see `masked_loss`."""
    correct: torch.Tensor | None = None
    """int64 [], the number of masked tokens of which the generator finds the token likeliest."""
    discriminator_loss: torch.Tensor | None = None
    """fp32 [], the discriminator's binary cross-entropy summed over the tokens that are no padding, special ones included."""
    replaced: torch.Tensor | None = None
    """int64 [], the number of tokens that were replaced by another token."""
    replaced_found: torch.Tensor | None = None
    """int64 [], the number of these that the discriminator takes for replaced."""
    original_found: torch.Tensor | None = None
    """int64 [], the number of the other tokens that it takes for the text's own."""


class ReplacedTokenModel(nn.Module):
    """Generator and discriminator, trained together."""

    def __init__(
        self, config: DebertaV2Config, generator_layers: int, sharing: Sharing, temperature: float = 1.0, attention: str = "sdpa"
    ) -> None:
        """Builds both models with freshly initialised weights.

        Args:
            config: of the discriminator.
            generator_layers: layers of the generator, whose other sizes are the discriminator's.
            sharing: gdes: the discriminator's embeddings are the generator's, without their gradient, plus a table of its own that
                starts at 0; es: one table for both; nes: a table each.
            temperature: of the generator's distribution that tokens are drawn from.
            attention: sdpa or fused.

        Raises:
            ConfigError: the attention is eager or unknown, or cannot run here.
        """
        super().__init__()
        if attention == "eager":
            raise ConfigError(EAGER)
        self.config, self.temperature, self.sharing = config, temperature, sharing
        self.generator = DebertaForMaskedLM(generator_config(config, generator_layers), attention)
        self.discriminator = ReplacedTokenDetector(config, attention)
        self._share(sharing)

    def _share(self, sharing: Sharing) -> None:
        for name in SHARED_TABLES if sharing != "nes" else ():
            base: Any = getattr(self.generator.deberta.embeddings, name)
            own: Any = getattr(self.discriminator.deberta.embeddings, name)
            if base is None:
                continue
            if sharing == "es":
                own.weight = base.weight
            else:
                own.__class__ = AddedEmbedding
                own.base = (base,)
                nn.init.zeros_(own.weight)

    def settings(self) -> dict[str, Any]:
        """What a configuration says beside the discriminator's sizes; arguments of `build_replaced_token_model`."""
        layers = self.generator.config.num_hidden_layers
        return {"generator_layers": layers, "sharing": self.sharing, "temperature": self.temperature}

    @property
    def attention_backend(self) -> str:
        """That of both models."""
        return self.generator.attention_backend

    @property
    def recompute(self) -> bool:
        """Whether backward recomputes the activations of each layer instead of keeping them."""
        return self.generator.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.generator.recompute = self.discriminator.recompute = value

    def set_rows(self, length: int, attention: str | None = None) -> None:
        """Prepares both models for rows of another length, see `FastEncoder.set_rows`; raises its errors."""
        if attention == "eager":
            raise ConfigError(EAGER)
        self.generator.set_rows(length, attention)
        self.discriminator.set_rows(length, attention)

    def forward(
        self,
        input_ids: torch.Tensor,
        masked_index: torch.Tensor,
        labels: torch.Tensor,
        draws: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        z_loss: float = 0.0,
    ) -> ReplacedSums:
        """Returns the sums of a micro-batch; both losses are summed, not weighted.

        Args:
            input_ids: masked tokens, int64 [B, S].
            masked_index: int64 [M], positions in the flattened [B * S].
            labels: the tokens there, int64 [M]; IGNORED where the list was filled up.
            draws: random numbers of these places, int64 [M], see `sample_tokens`.
            attention_mask: [B, S], 1 = token, 0 = padding; None: no padding.
            document_ids: integers [B, S]; attention and heads then stay inside each document.
            z_loss: weight of the generator's z-loss, see `masked_loss`.
        """
        hidden = self.generator.encode_rows(input_ids, attention_mask, document_ids)
        logits = self.generator.predict(hidden.flatten(0, 1).index_select(0, masked_index))
        logits = wide(logits)
        loss = masked_loss(logits, labels, z_loss)
        sampled = sample_tokens(logits.detach(), draws, self.temperature)
        original, replaced_ids = fill_places(input_ids, masked_index, labels, sampled)
        is_replaced = replaced_ids != original
        found = wide(self.discriminator(replaced_ids, attention_mask, document_ids))
        present = torch.ones_like(is_replaced) if attention_mask is None else attention_mask != 0
        each = F.binary_cross_entropy_with_logits(found, is_replaced.to(found.dtype), reduction="none")
        says_replaced = found.detach() > 0
        return ReplacedSums(
            loss=loss,
            correct=(logits.detach().argmax(-1) == labels).sum(),
            discriminator_loss=torch.where(present, each, 0.0).sum(),
            replaced=is_replaced.sum(),
            replaced_found=(is_replaced & says_replaced).sum(),
            original_found=(present & ~is_replaced & ~says_replaced).sum(),
        )


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in fp32, or in fp64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def fill_places(
    input_ids: torch.Tensor, masked_index: torch.Tensor, labels: torch.Tensor, sampled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the rows before masking and with the sampled tokens, int64 [B, S] each.

    Args:
        input_ids: masked tokens, int64 [B, S].
        masked_index: int64 [M], positions in the flattened [B * S], each once but for those that filled the list up.
        labels: the tokens there, int64 [M]; IGNORED: the list was filled up.
        sampled: tokens to put there, int64 [M].
    """
    flat = input_ids.flatten()
    present = flat.index_select(0, masked_index)
    # Differences are added: what fills the list up points at a place that may be another's, and adds 0.
    changes = [torch.where(labels == IGNORED, 0, tokens - present) for tokens in (labels, sampled)]
    original, replaced = (flat.index_add(0, masked_index, change).view_as(input_ids) for change in changes)
    return original, replaced


def generator_config(config: DebertaV2Config, layers: int) -> DebertaV2Config:
    """The generator's: the discriminator's with another number of layers."""
    return DebertaV2Config(**config.to_dict() | {"num_hidden_layers": layers})


def published_parts(
    weights: dict[str, torch.Tensor], sharing: Sharing
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns the weights of discriminator and generator as models of their own, by transformers' names.

    Args:
        weights: every parameter of a ReplacedTokenModel, fp32, by name; shared ones once.
        sharing: of its embeddings. Under gdes the discriminator's table becomes the sum that it computes with.
    """
    generator = {n.removeprefix("generator."): t for n, t in weights.items() if n.startswith("generator.")}
    discriminator = {n.removeprefix("discriminator."): t for n, t in weights.items() if n.startswith("discriminator.")}
    for table in SHARED_TABLES if sharing != "nes" else ():
        name = f"deberta.embeddings.{table}.weight"
        if name in generator:
            discriminator[name] = generator[name] + discriminator[name] if sharing == "gdes" else generator[name]
    return discriminator, generator


def build_replaced_token_model(
    config: dict[str, Any],
    generator_layers: int,
    sharing: Sharing,
    temperature: float = 1.0,
    attention: str = "sdpa",
    seed: int = 0,
) -> ReplacedTokenModel:
    """Builds both models in fp32; their weights are a function of the sizes, the sharing and the seed alone.

    Args:
        config: keyword arguments of DebertaV2Config, of the discriminator.
        generator_layers: as for `ReplacedTokenModel`, like the rest.
        sharing: gdes, es or nes.
        temperature: of the generator.
        attention: sdpa or fused.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReplacedTokenModel(DebertaV2Config(**config), generator_layers, sharing, temperature, attention)


EAGER = (
    "training.objective 'rtd' needs model.attention 'sdpa' or 'fused': Hugging Face's own module would run twice and keep no documents "
    "apart."
)
