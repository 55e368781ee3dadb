"""Disentangled attention through torch's memory-efficient SDPA kernel, its only fused kernel whose bias has a gradient.

The position scores are one bias tensor, which is written for the forward kernel, freed, and computed again for the backward kernel.
"""

from typing import Any

import torch

from jadeberta.model.attention.relative_positions import scores_by_distance, sum_scores_by_bucket

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_BUCKET = 16
"""Most distances of one bucket: they are summed one by one. With larger buckets (rows much longer than the table) `headwise` is used."""

ALIGNMENT = 16
"""The kernel requires rows of the bias to start at multiples of this many elements."""


def forward_kernel(q, k, v, bias, dropout: float, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Runs the forward kernel: output [B, H, S, D], log-sum-exp, and seed and offset of the dropout.

    Args:
        q: [B, H, S, D]; k and v alike.
        k: keys.
        v: values.
        bias: added to the scaled scores, [B, H, S, S], or None.
        dropout: share of the weights that is zeroed, from torch's generator.
        scale: of q k.
    """
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout, False, scale=scale)


def backward_kernel(grad_out, q, k, v, bias, out, state, dropout: float, scale: float) -> tuple[torch.Tensor, ...]:
    """Runs the backward kernel: gradients of q, k, v and of the bias if there is one.

    Args:
        grad_out: gradient of the output, [B, H, S, D].
        q: [B, H, S, D]; k and v alike.
        k: keys.
        v: values.
        bias: of the forward pass.
        out: output of the forward pass.
        state: the other results of the forward kernel.
        dropout: of the forward pass.
        scale: of the forward pass.
    """
    wanted = [True, True, True, bias is not None]
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad_out, q, k, v, bias, out, *state, dropout, wanted, False, scale=scale
    )


class SdpaFunction(torch.autograd.Function):
    """`apply(qkv, position_keys, position_queries, bucket_ids, largest, document_ids, dropout, scale)` returns [B, S, H, D].

    Arguments and shapes are those of `dispatch.attend`.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv, position_keys, position_queries, bucket_ids, largest, document_ids, dropout, scale
    ) -> torch.Tensor:
        q, k, v = _split(qkv)
        bias = _bias(qkv, position_keys, position_queries, bucket_ids, document_ids, scale)
        out, *state = forward_kernel(q, k, v, bias, dropout, scale)
        ctx.save_for_backward(qkv, position_keys, position_queries, bucket_ids, document_ids, out, *state)
        ctx.largest, ctx.dropout, ctx.scale = largest, dropout, scale
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, position_keys, position_queries, bucket_ids, document_ids, out, *state = ctx.saved_tensors
        q, k, v = _split(qkv)
        # The bias must depend on the gradient, else a compiler would compute it in the forward pass and keep it until here. The dependence
        # is not put into the scale: as a tensor on the device it would be rounded to the dtype of the others, and the bias would differ
        # from that of the forward pass.
        first = grads[0].flatten()[0]
        zero = first - first  # a compiler would simplify a product with 0
        keys, queries = (None if table is None else table + zero for table in (position_keys, position_queries))
        bias = _bias(qkv, keys, queries, bucket_ids, document_ids, ctx.scale)
        grad_out = grads[0].transpose(1, 2)
        grad_q, grad_k, grad_v, grad_bias = backward_kernel(grad_out, q, k, v, bias, out, state, ctx.dropout, ctx.scale)
        grad_keys = grad_queries = None
        if position_keys is not None:
            by_row = sum_scores_by_bucket(grad_bias.transpose(0, 1), bucket_ids, False, position_keys.shape[0], ctx.largest)
            into_q, grad_keys = _through_table(by_row, _by_head(qkv, 0), position_keys, ctx.scale)
            grad_q = grad_q + into_q
        if position_queries is not None:
            transposed = grad_bias.transpose(0, 1).transpose(-1, -2)
            by_row = sum_scores_by_bucket(transposed, bucket_ids, True, position_queries.shape[0], ctx.largest)
            into_k, grad_queries = _through_table(by_row, _by_head(qkv, 1), position_queries, ctx.scale)
            grad_k = grad_k + into_k
        grad_qkv = torch.stack([g.transpose(1, 2) for g in (grad_q, grad_k, grad_v)], dim=2)
        return grad_qkv, grad_keys, grad_queries, None, None, None, None, None


def _split(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three views [B, H, S, D] of qkv [B, S, 3, H, D]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _by_head(qkv: torch.Tensor, index: int) -> torch.Tensor:
    """One of q, k, v as a view [H, B * S, D]: one matrix per head, for one product with that head's table."""
    return qkv.flatten(0, 1)[:, index].transpose(0, 1)


def _bias(qkv, position_keys, position_queries, bucket_ids, document_ids, scale: float) -> torch.Tensor | None:
    """Scaled position scores, and the dtype's minimum between documents, [B, H, S, S]; None if there is nothing to add."""
    batch, length, _, heads, _ = qkv.shape
    scores = None
    if position_keys is not None:
        scores = _scores(_by_head(qkv, 0), position_keys * scale, bucket_ids, False, batch)
    if position_queries is not None:
        p2c = _scores(_by_head(qkv, 1), position_queries * scale, bucket_ids, True, batch).transpose(-1, -2)
        scores = p2c if scores is None else scores + p2c
    if document_ids is not None:
        different = (document_ids[:, :, None] != document_ids[:, None, :])[:, None]  # [B, 1, S, S]
        scores = qkv.new_zeros(batch, heads, length, length) if scores is None else scores
        scores = scores.masked_fill(different, torch.finfo(qkv.dtype).min)
    return None if scores is None else _aligned(scores)


def _scores(x: torch.Tensor, table: torch.Tensor, bucket_ids: torch.Tensor, ascending: bool, batch: int) -> torch.Tensor:
    """Position scores [B, H, S, S] from the products of x [H, B * S, D] with the rows of the table [rows, H, D]."""
    products = torch.bmm(x, table.permute(1, 2, 0))  # [H, B * S, rows]
    return scores_by_distance(products.unflatten(1, (batch, -1)), bucket_ids, ascending).transpose(0, 1)


def _aligned(bias: torch.Tensor) -> torch.Tensor:
    """The same values in rows that start at multiples of ALIGNMENT."""
    length = bias.shape[-1]
    if length % ALIGNMENT == 0:
        return bias.contiguous()
    padded = bias.new_empty(*bias.shape[:-1], length + ALIGNMENT - length % ALIGNMENT)
    padded[..., :length] = bias
    return padded[..., :length]


def _through_table(grad_products, x, table, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x, as [B, H, S, D], and of the table [rows, H, D] from the gradient of the products.

    Args:
        grad_products: [H, B, S, rows].
        x: [H, B * S, D].
        table: [rows, H, D].
        scale: of the scores.
    """
    batch = grad_products.shape[1]
    flat = grad_products.flatten(1, 2)
    grad_x = torch.bmm(flat, (table * scale).transpose(0, 1)).unflatten(1, (batch, -1)).transpose(0, 1)
    # One product over all rows of the batch, so that the sum is accumulated in fp32.
    grad_table = torch.bmm(flat.transpose(1, 2), x) * scale  # [H, rows, D]
    return grad_x, grad_table.transpose(0, 1)
