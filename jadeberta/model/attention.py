"""Disentangled self-attention in plain PyTorch: the same function as Hugging Face's, without gather and scatter.

Content-to-position and position-to-content scores are read out of one product each through a skewed view, and added to the content
scores inside scaled_dot_product_attention (He et al., DeBERTa, 2021, equation 4).
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, make_log_bucket_position


class SkewedSelfAttention(DisentangledSelfAttention):
    """Hugging Face's module with its parameters and another way through the same sums."""

    def attend(self, hidden: torch.Tensor, position_table: torch.Tensor | None, allowed: torch.Tensor | None) -> torch.Tensor:
        """The context of each token.

        Args:
            hidden: [B, S, hidden_size].
            position_table: relative position embeddings [2 * span, hidden_size], None without relative attention.
            allowed: bool, broadcastable to [B, H, S, S], true where a query may look at a key; None allows all.

        Returns:
            [B, S, H * D].
        """
        q = self._heads(self.query_proj(hidden))  # [B, H, S, D]
        k = self._heads(self.key_proj(hidden))
        v = self._heads(self.value_proj(hidden))
        terms = [t for t in ("c2p", "p2c") if t in self.pos_att_type]
        scale = 1 / math.sqrt(self.attention_head_size * (1 + len(terms)))
        bias = None
        if self.relative_attention and terms and position_table is not None:
            bias = self._position_bias(q * scale, k * scale, self.pos_dropout(position_table))  # [B, H, S, S]
        if allowed is not None:
            shape = (q.shape[0], q.shape[1], q.shape[2], q.shape[2])
            bias = q.new_zeros(()).expand(shape) if bias is None else bias
            # A finite minimum: a row of padding with no key allowed stays a number.
            bias = bias.masked_fill(~allowed, torch.finfo(bias.dtype).min)
        dropout = self.dropout.p if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        return context.transpose(1, 2).flatten(2)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[..., length, H * D] -> [..., H, length, D]."""
        return x.unflatten(-1, (self.num_attention_heads, self.attention_head_size)).transpose(-2, -3)

    def _position_bias(self, q: torch.Tensor, k: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """c2p + p2c of scaled queries and keys, [B, H, S, S]."""
        length = q.shape[2]
        slots = distance_slots(length, self.pos_ebd_size, self.position_buckets, self.max_relative_positions, str(q.device))
        bias = None
        if "c2p" in self.pos_att_type:
            keys = self._heads((self.key_proj if self.share_att_key else self.pos_key_proj)(table))  # [H, 2 * span, D]
            # By falling distance i - j: column u holds j - i = u - (S - 1).
            bias = Skew.apply(q @ keys[:, slots.flip(0)].transpose(-1, -2))
        if "p2c" in self.pos_att_type:
            queries = self._heads((self.query_proj if self.share_att_key else self.pos_query_proj)(table))
            p2c = Skew.apply(k @ queries[:, slots].transpose(-1, -2)).transpose(-1, -2)
            bias = p2c if bias is None else bias + p2c
        assert bias is not None
        return bias


class Skew(torch.autograd.Function):
    """out[b, h, i, j] = x[b, h, i, j - i + S - 1] for x [B, H, S, 2S - 1]: each row shifted by one against the next.

    A strided view forward and a strided copy backward, where indexing would need a gather and a scatter with atomics.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        b, h, s, w = x.shape
        ctx.shape = x.shape
        return x.contiguous().as_strided((b, h, s, s), (h * s * w, s * w, w - 1, 1), s - 1)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        b, h, s, w = ctx.shape
        out = grad.new_zeros(b, h, s, w)
        out.as_strided((b, h, s, s), (h * s * w, s * w, w - 1, 1), s - 1).copy_(grad)
        return out


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for training too, whoever asks first
def distance_slots(length: int, span: int, buckets: int, max_positions: int, device: str) -> torch.Tensor:
    """Row of the position table for each distance i - j = -(length - 1) .. length - 1, int64 [2 * length - 1]."""
    distances = torch.arange(-(length - 1), length)
    if buckets > 0 and max_positions > 0:
        distances = make_log_bucket_position(distances, buckets, max_positions).long()
    return torch.clamp(distances + span, 0, 2 * span - 1).to(device)
