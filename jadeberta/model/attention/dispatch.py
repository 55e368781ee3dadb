"""Disentangled self-attention as one differentiable function, and the choice of how a device computes it.

CPUs go head by head (`headwise`); GPUs through torch's memory-efficient kernel with the position scores as its bias (`efficient`), or
through kernels of our own (`fused`) where the recipe says so. All make the position scores again in backward and keep no [S, S] tensor.
"""

import warnings
from functools import cache

import torch

from jadeberta.model.attention import headwise, sdpa
from jadeberta.model.attention import triton as fused


def attend(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    slots: torch.Tensor,
    longest: int,
    documents: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
    kernels: bool = False,
) -> torch.Tensor:
    """softmax(scale * (q k + q P_k + k P_q)) v with dropout on the weights (He et al., DeBERTa, 2021, equation 4).

    Args:
        qkv: [B, S, 3, H, D].
        position_keys: projected position table of the content-to-position term, [rows, H, D]; None leaves the term out.
        position_queries: the same for position-to-content.
        slots: row of the table for each distance, int64 [2 * S - 1] (`distance_slots`).
        longest: the most distances that share a row (`longest_run`).
        documents: integers [B, S]; tokens of equal numbers see each other. None: every token sees its whole row.
        seed: int64 [], on the CPU or where qkv is; the masks of dropout follow from it, but in the memory-efficient kernel, which takes
            torch's generator.
        dropout: share of the weights that is zeroed.
        scale: of all scores.
        kernels: take our own, on any device; where they cannot run this raises ConfigError.

    Returns:
        [B, S, H, D].
    """
    if kernels:
        return fused.attend(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale)
    if qkv.is_cuda and qkv.dtype in sdpa.DTYPES and longest <= sdpa.LONGEST_RUN:
        return sdpa.Attention.apply(qkv, position_keys, position_queries, slots, longest, documents, dropout, scale)
    return _headwise(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale)


# One operator each way, which torch.compile leaves as it is: unrolled over heads, the graph of a model would have a million nodes.
@torch.library.custom_op("jadeberta::headwise_attention", mutates_args=())
def _headwise(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    slots: torch.Tensor,
    documents: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    if qkv.is_cuda:
        _say_slow(qkv.shape[1], qkv.dtype)
    inputs = headwise.Inputs(qkv, position_keys, position_queries, slots, documents, int(seed.item()), dropout, scale)
    return headwise.forward(inputs)


@cache
def _say_slow(length: int, dtype: torch.dtype) -> None:
    warnings.warn(
        f"attention: sdpa goes head by head on this GPU, many times slower than through torch's kernel, for rows of {length} in {dtype}: "
        f"torch's kernel takes no fp64, and here at most {sdpa.LONGEST_RUN} distances may share a bucket. Take more position_buckets, "
        "shorter rows, or attention: fused.",
        stacklevel=2,
    )


@torch.library.custom_op("jadeberta::headwise_attention_backward", mutates_args=())
def _headwise_backward(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    slots: torch.Tensor,
    documents: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = headwise.Inputs(qkv, position_keys, position_queries, slots, documents, int(seed.item()), dropout, scale)
    grads = headwise.backward(inputs, grad_out)
    # An operator gives tensors; an empty one stands for a term that is not there.
    none = qkv.new_empty(0)
    return grads[0], *(none.clone() if g is None else g for g in grads[1:])  # type: ignore[return-value]


@_headwise.register_fake
def _(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale):
    batch, length, _, heads, size = qkv.shape
    return qkv.new_empty(batch, length, heads, size)


@_headwise_backward.register_fake
def _(grad_out, qkv, position_keys, position_queries, slots, documents, seed, dropout, scale):
    grads = [torch.empty_like(qkv, memory_format=torch.contiguous_format)]
    return *grads, *(qkv.new_empty(0) if t is None else torch.empty_like(t) for t in (position_keys, position_queries))


def _keep_inputs(ctx, inputs, output) -> None:
    *tensors, ctx.dropout, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_out):
    qkv, position_keys, position_queries, *rest = ctx.saved_tensors
    grads = _headwise_backward(grad_out, qkv, position_keys, position_queries, *rest, ctx.dropout, ctx.scale)
    keys, queries = (g if t is not None else None for g, t in zip(grads[1:], (position_keys, position_queries), strict=True))
    return grads[0], keys, queries, None, None, None, None, None


_headwise.register_autograd(_differentiate, setup_context=_keep_inputs)
