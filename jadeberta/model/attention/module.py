"""The self-attention module: Hugging Face's parameters, one product for queries, keys and values, and our way through the scores."""

import math

import torch
import torch.nn.functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from jadeberta.model.attention.dispatch import attend
from jadeberta.model.attention.relative_positions import distance_slots, longest_run


class LeanSelfAttention(DisentangledSelfAttention):
    """Hugging Face's module with its parameters and another way through the same sums."""

    kernels = False
    """Whether the sums go through our Triton kernels."""

    def context(
        self,
        hidden: torch.Tensor,
        position_table: torch.Tensor | None,
        documents: torch.Tensor | None,
        seed: torch.Tensor,
    ) -> torch.Tensor:
        """The context of each token.

        Args:
            hidden: [B, S, hidden_size].
            position_table: relative position embeddings [2 * span, hidden_size], None without relative attention.
            documents: integers [B, S]; tokens of equal numbers see each other. None: every token sees its whole row.
            seed: int64 [], of the dropout.

        Returns:
            [B, S, H * D].
        """
        terms = [t for t in ("c2p", "p2c") if t in self.pos_att_type]
        scale = 1 / math.sqrt(self.attention_head_size * (1 + len(terms)))
        keys, queries, length = None, None, hidden.shape[1]
        qkv = self._project(hidden, "query_proj", "key_proj", "value_proj")
        slots, longest = torch.empty(0, dtype=torch.int64, device=hidden.device), 0
        if self.relative_attention and terms and position_table is not None:
            table = self.pos_dropout(position_table[: 2 * self.pos_ebd_size])
            keys, queries = self._project_positions(table, terms)
            sizes = (length, self.pos_ebd_size, self.position_buckets, self.max_relative_positions)
            slots, longest = distance_slots(*sizes, str(hidden.device)), longest_run(*sizes)
        dropout = self.dropout.p if self.training else 0.0
        return attend(qkv, keys, queries, slots, longest, documents, seed, dropout, scale, self.kernels).flatten(2)

    def _project(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        """[..., hidden_size] -> [..., len(names), H, D] through the named projections."""
        layers = [getattr(self, name) for name in names]
        if hasattr(layers[0].weight, "ds_id"):
            # ZeRO-3 brings a layer's weights together only while that layer itself runs.
            joined = torch.stack([layer(x) for layer in layers], dim=-2)
        else:
            weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            joined = F.linear(x, weight, bias).unflatten(-1, (len(layers), self.all_head_size))
        return joined.unflatten(-1, (self.num_attention_heads, self.attention_head_size))

    def _project_positions(self, table: torch.Tensor, terms: list[str]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The position table as keys and as queries, each [2 * span, H, D] or None where its term is not used."""
        names = {"c2p": "key_proj" if self.share_att_key else "pos_key_proj"}
        names["p2c"] = "query_proj" if self.share_att_key else "pos_query_proj"
        projected = self._project(table, *(names[term] for term in terms)).unbind(-3)
        by_term = dict(zip(terms, projected, strict=True))
        return by_term.get("c2p"), by_term.get("p2c")


class FusedSelfAttention(LeanSelfAttention):
    """The same through the kernels of `jadeberta.model.attention.triton`."""

    kernels = True
