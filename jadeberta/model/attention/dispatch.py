"""Disentangled self-attention as one differentiable function, and the choice of its implementation.

CPUs compute one head at a time (`headwise`). GPUs use torch's memory-efficient kernel with the position scores as its bias (`sdpa`), or the
Triton kernels (`triton`) if the recipe says `attention: fused`. Long rows go in blocks of queries (`blocks`), so that memory does not grow
with S squared. All recompute the position scores in backward and keep no [S, S] tensor.
"""

from collections.abc import Callable
from types import ModuleType

import torch

from jadeberta.model.attention import blocks, headwise, sdpa
from jadeberta.model.attention import triton as triton_attention
from jadeberta.model.attention.inputs import AttentionInputs


def attend(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    bucket_ids: torch.Tensor,
    largest: int,
    document_ids: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
    use_triton: bool = False,
) -> torch.Tensor:
    """softmax(scale * (q k + q P_k + k P_q)) v with dropout on the weights (He et al. 2021, arXiv:2006.03654, equation 4).

    Args:
        qkv: [B, S, 3, H, D].
        position_keys: projected position table of the content-to-position term, [rows, H, D]; None leaves the term out.
        position_queries: the same for position-to-content.
        bucket_ids: row of the table for each distance, int64 [2 * S - 1], from `distance_buckets`.
        largest: the most distances that share a row, from `largest_bucket`.
        document_ids: integers [B, S]; tokens of equal numbers see each other. None: every token sees its whole row.
        seed: int64 [], on the CPU or on the device of qkv. The dropout masks follow from it, except in the memory-efficient kernel, which
            uses torch's generator.
        dropout: share of the weights that is zeroed.
        scale: factor of all scores.
        use_triton: use the Triton kernels.

    Returns:
        The context, [B, S, H, D].

    Raises:
        ConfigError: the Triton kernels are requested and cannot run on these tensors.
    """
    if use_triton:
        return triton_attention.attend(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)
    if takes_blocks(qkv.shape[1], largest, qkv.dtype, qkv.is_cuda):
        return _blockwise(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)
    if qkv.is_cuda:
        return sdpa.SdpaFunction.apply(qkv, position_keys, position_queries, bucket_ids, largest, document_ids, dropout, scale)
    return _headwise(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)


def takes_blocks(length: int, largest: int, dtype: torch.dtype, on_gpu: bool) -> bool:
    """Whether `sdpa` computes rows in blocks of queries.

    Args:
        length: S.
        largest: the most distances that share a row of the position table.
        dtype: of q, k and v.
        on_gpu: whether a GPU computes.
    """
    return length > blocks.LONG_ROW or (on_gpu and (dtype not in sdpa.DTYPES or largest > sdpa.LARGEST_BUCKET))


def attention_form(attention: str, device_type: str, length: int) -> str:
    """Returns in words how the attention of a model is computed.

    Args:
        attention: of the recipe, or of its first phase.
        device_type: cpu or cuda.
        length: tokens in a row.
    """
    if attention == "eager":
        return "Hugging Face's module"
    if attention == "fused":
        return "Triton kernels"
    if length > blocks.LONG_ROW:
        return "blocks of queries"
    return "torch's memory-efficient kernel" if device_type == "cuda" else "one head at a time"


# One operator for each pass, which torch.compile does not trace: unrolled over heads or blocks, the graph of a model would have a million
# nodes.
def _registered(name: str, form: ModuleType) -> Callable[..., torch.Tensor]:
    """`form.forward(inputs)` and `form.backward(inputs, grad_out)` as one differentiable operator."""

    def run(
        qkv: torch.Tensor,
        position_keys: torch.Tensor | None,
        position_queries: torch.Tensor | None,
        bucket_ids: torch.Tensor,
        document_ids: torch.Tensor | None,
        seed: torch.Tensor,
        dropout: float,
        scale: float,
    ) -> torch.Tensor:
        return form.forward(AttentionInputs(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale))

    def run_backward(
        grad_out: torch.Tensor,
        qkv: torch.Tensor,
        position_keys: torch.Tensor | None,
        position_queries: torch.Tensor | None,
        bucket_ids: torch.Tensor,
        document_ids: torch.Tensor | None,
        seed: torch.Tensor,
        dropout: float,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = AttentionInputs(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)
        grad, *table_grads = form.backward(inputs, grad_out)
        # A custom operator must return tensors; an empty one stands for a term that is not used.
        keys, queries = (qkv.new_empty(0) if g is None else g for g in table_grads)
        return grad, keys, queries

    def shape(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale):
        batch, length, _, heads, size = qkv.shape
        return qkv.new_empty(batch, length, heads, size)

    def backward_shapes(grad_out, qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale):
        grad = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        keys, queries = (qkv.new_empty(0) if t is None else torch.empty_like(t) for t in (position_keys, position_queries))
        return grad, keys, queries

    def save_inputs(ctx, inputs, output) -> None:
        *tensors, ctx.dropout, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    def differentiate(ctx, grad_out):
        qkv, position_keys, position_queries, *rest = ctx.saved_tensors
        grads = backward(grad_out, qkv, position_keys, position_queries, *rest, ctx.dropout, ctx.scale)
        keys, queries = (g if t is not None else None for g, t in zip(grads[1:], (position_keys, position_queries), strict=True))
        return grads[0], keys, queries, None, None, None, None, None

    operator = torch.library.custom_op(f"jadeberta::{name}", run, mutates_args=())
    backward = torch.library.custom_op(f"jadeberta::{name}_backward", run_backward, mutates_args=())
    operator.register_fake(shape)
    backward.register_fake(backward_shapes)
    operator.register_autograd(differentiate, setup_context=save_inputs)
    return operator


_headwise = _registered("headwise_attention", headwise)
_blockwise = _registered("blockwise_attention", blocks)
