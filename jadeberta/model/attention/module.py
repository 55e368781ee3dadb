"""The self-attention modules: Hugging Face's parameters, one product for queries, keys and values, and `dispatch.attend`."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from jadeberta.model.attention.dispatch import attend
from jadeberta.model.attention.relative_positions import distance_buckets, largest_bucket


class SdpaSelfAttention(DisentangledSelfAttention):
    """Hugging Face's module, with its parameters, computed by `dispatch.attend` (recipe: `model.attention: sdpa`)."""

    use_triton = False
    """Whether the Triton kernels compute the attention."""

    def context(
        self,
        hidden: torch.Tensor,
        position_table: torch.Tensor | None,
        document_ids: torch.Tensor | None,
        seed: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the context of each token.

        Args:
            hidden: [B, S, hidden_size].
            position_table: relative position embeddings, [2 * span, hidden_size]; None without relative attention.
            document_ids: integers [B, S]; tokens of equal numbers see each other. None: every token sees its whole row.
            seed: int64 [], of the attention dropout.

        Returns:
            [B, S, H * D].
        """
        terms = [t for t in ("c2p", "p2c") if t in self.pos_att_type]
        keys, queries, length = None, None, hidden.shape[1]
        qkv = self._project(hidden, "query_proj", "key_proj", "value_proj")
        bucket_ids, largest = torch.empty(0, dtype=torch.int64, device=hidden.device), 0
        if self.relative_attention and terms and position_table is not None:
            table = self.pos_dropout(position_table[: 2 * self.pos_ebd_size])
            keys, queries = self._project_positions(table, terms)
            sizes = (length, self.pos_ebd_size, self.position_buckets, self.max_relative_positions)
            bucket_ids, largest = distance_buckets(*sizes, str(hidden.device)), largest_bucket(*sizes)
        return self._attend(qkv, document_ids, keys, queries, bucket_ids, largest, seed, self._scale(1 + len(terms))).flatten(2)

    def _attend(
        self, qkv: Any, document_ids: Any, keys: Any, queries: Any, bucket_ids: Any, largest: int, seed: Any, scale: float
    ) -> Any:
        """`dispatch.attend` with this module's dropout and kernels."""
        dropout = self._dropped_share()
        return attend(qkv, keys, queries, bucket_ids, largest, document_ids, seed, dropout, scale, self.use_triton)

    def _scale(self, terms: int) -> float:
        """The factor of the scores, of a sum of so many products."""
        return 1 / math.sqrt(self.attention_head_size * terms)

    def _dropped_share(self) -> float:
        """The share of the weights that is zeroed now."""
        return self.dropout.p if self.training else 0.0

    def _project(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        """Applies the named projections to x [..., hidden_size]; [..., len(names), H, D]."""
        layers = [getattr(self, name) for name in names]
        if self._run_apart(layers):
            joined = torch.stack([layer(x) for layer in layers], dim=-2)
        else:
            weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            joined = F.linear(x, weight, bias).unflatten(-1, (len(layers), self.all_head_size))
        return joined.unflatten(-1, (self.num_attention_heads, self.attention_head_size))

    def _run_apart(self, layers: list[Any]) -> bool:
        """Whether each projection must run as a module. ZeRO-3 gathers the weights of a layer only while that layer runs."""
        return hasattr(layers[0].weight, "ds_id")

    def _project_positions(self, table: torch.Tensor, terms: list[str]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The position table projected to keys and to queries, each [2 * span, H, D], or None if its term is not used."""
        names = {"c2p": "key_proj" if self.share_att_key else "pos_key_proj"}
        names["p2c"] = "query_proj" if self.share_att_key else "pos_query_proj"
        projected = self._project(table, *(names[term] for term in terms)).unbind(-3)
        by_term = dict(zip(terms, projected, strict=True))
        return by_term.get("c2p"), by_term.get("p2c")


class TritonSelfAttention(SdpaSelfAttention):
    """The same function, computed by the kernels of `jadeberta.model.attention.triton` (recipe: `model.attention: fused`)."""

    use_triton = True
