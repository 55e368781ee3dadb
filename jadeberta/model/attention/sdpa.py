"""Disentangled attention through torch's memory-efficient kernel, the only one of its own with a bias that has a gradient.

The position scores are one bias tensor, written once for the forward kernel, thrown away, and made again for the backward one.
"""

from typing import Any

import torch

from jadeberta.model.attention.relative_positions import by_slot, sum_by_slot

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LONGEST_RUN = 16
"""Distances that share a row are summed one by one; where more do (a row much longer than the table), it goes head by head."""

ALIGNMENT = 16
"""The kernel reads rows of the bias that start at multiples of so many elements."""


def forward_kernel(q, k, v, bias, dropout: float, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output [B, H, S, D], log-sum-exp, and seed and offset of the dropout."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout, False, scale=scale)


def backward_kernel(grad_out, q, k, v, bias, out, state, dropout: float, scale: float) -> tuple[torch.Tensor, ...]:
    """Gradients of q, k, v and, where there is one, of the bias; `state` is what the forward kernel gave beside its output."""
    wanted = [True, True, True, bias is not None]
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad_out, q, k, v, bias, out, *state, dropout, wanted, False, scale=scale
    )


class Attention(torch.autograd.Function):
    """`apply(qkv, position_keys, position_queries, slots, longest, documents, dropout, scale)` -> [B, S, H, D].

    Shapes as for `disentangled.attend`.
    """

    @staticmethod
    def forward(ctx: Any, qkv, position_keys, position_queries, slots, longest, documents, dropout, scale) -> torch.Tensor:
        q, k, v = _split(qkv)
        bias = _bias(qkv, position_keys, position_queries, slots, documents, scale)
        out, *state = forward_kernel(q, k, v, bias, dropout, scale)
        ctx.save_for_backward(qkv, position_keys, position_queries, slots, documents, out, *state)
        ctx.longest, ctx.dropout, ctx.scale = longest, dropout, scale
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, position_keys, position_queries, slots, documents, out, *state = ctx.saved_tensors
        q, k, v = _split(qkv)
        # Tied to the gradient, or a compiler would make this bias in the forward pass and keep it until here. Not by the scale: as a
        # tensor on the device it would be rounded to the type of the others, and this bias would be another than the forward pass's.
        first = grads[0].flatten()[0]
        nothing = first - first  # a compiler would see through a product with 0
        keys, queries = (None if table is None else table + nothing for table in (position_keys, position_queries))
        bias = _bias(qkv, keys, queries, slots, documents, ctx.scale)
        grad_out = grads[0].transpose(1, 2)
        grad_q, grad_k, grad_v, grad_bias = backward_kernel(grad_out, q, k, v, bias, out, state, ctx.dropout, ctx.scale)
        grad_keys = grad_queries = None
        if position_keys is not None:
            by_row = sum_by_slot(grad_bias.transpose(0, 1), slots, False, position_keys.shape[0], ctx.longest)
            into_q, grad_keys = _through_table(by_row, _by_head(qkv, 0), position_keys, ctx.scale)
            grad_q = grad_q + into_q
        if position_queries is not None:
            turned = grad_bias.transpose(0, 1).transpose(-1, -2)
            by_row = sum_by_slot(turned, slots, True, position_queries.shape[0], ctx.longest)
            into_k, grad_queries = _through_table(by_row, _by_head(qkv, 1), position_queries, ctx.scale)
            grad_k = grad_k + into_k
        grad_qkv = torch.stack([g.transpose(1, 2) for g in (grad_q, grad_k, grad_v)], dim=2)
        return grad_qkv, grad_keys, grad_queries, None, None, None, None, None


def _split(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[B, S, 3, H, D] -> three views [B, H, S, D]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _by_head(qkv: torch.Tensor, place: int) -> torch.Tensor:
    """One of the three as a view [H, B * S, D]: all rows of a head in one matrix, for one product with that head's table."""
    return qkv.flatten(0, 1)[:, place].transpose(0, 1)


def _bias(qkv, position_keys, position_queries, slots, documents, scale: float) -> torch.Tensor | None:
    """Scaled position scores, and a huge negative number between documents, [B, H, S, S]; None where there is nothing to add."""
    batch, length, _, heads, _ = qkv.shape
    scores = None
    if position_keys is not None:
        scores = _scores(_by_head(qkv, 0), position_keys * scale, slots, False, batch)
    if position_queries is not None:
        p2c = _scores(_by_head(qkv, 1), position_queries * scale, slots, True, batch).transpose(-1, -2)
        scores = p2c if scores is None else scores + p2c
    if documents is not None:
        apart = (documents[:, :, None] != documents[:, None, :])[:, None]  # [B, 1, S, S]
        scores = qkv.new_zeros(batch, heads, length, length) if scores is None else scores
        scores = scores.masked_fill(apart, torch.finfo(qkv.dtype).min)
    return None if scores is None else _aligned(scores)


def _scores(x: torch.Tensor, table: torch.Tensor, slots: torch.Tensor, rising: bool, batch: int) -> torch.Tensor:
    """[B, H, S, S] out of the products of x [H, B * S, D] with the rows of its head's table [rows, H, D]."""
    products = torch.bmm(x, table.permute(1, 2, 0))  # [H, B * S, rows]
    return by_slot(products.unflatten(1, (batch, -1)), slots, rising).transpose(0, 1)


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """The same numbers in rows that start where the kernel can read them."""
    length = bias.shape[-1]
    if length % ALIGNMENT == 0:
        return bias.contiguous()
    padded = bias.new_empty(*bias.shape[:-1], length + ALIGNMENT - length % ALIGNMENT)
    padded[..., :length] = bias
    return padded[..., :length]


def _through_table(grad_products, x, table, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients for those of the products [H, B, S, rows]: of x [H, B * S, D], laid out [B, H, S, D], and of the table [rows, H, D]."""
    batch = grad_products.shape[1]
    flat = grad_products.flatten(1, 2)
    grad_x = torch.bmm(flat, (table * scale).transpose(0, 1)).unflatten(1, (batch, -1)).transpose(0, 1)
    # One product over all rows of the batch: its sum is made in fp32.
    grad_table = torch.bmm(flat.transpose(1, 2), x) * scale  # [H, rows, D]
    return grad_x, grad_table.transpose(0, 1)
