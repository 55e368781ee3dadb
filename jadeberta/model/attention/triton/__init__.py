"""Disentangled attention in Triton kernels, forward and backward: no [B, H, S, S] tensor is kept, and no atomics are used.

The recipe selects the package with `model.attention: fused`. Two kernel forms compute the same function: `fused` computes the position
scores tile by tile, `tables` writes them to scratch for a few rows of the batch at a time. `tiles` selects form and tile sizes for a GPU.
The dropout mask is that of `jadeberta.model.attention.dropout`, bit for bit. Triton is imported at the first call, so that this module can
be imported without it.
"""

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch

from jadeberta.errors import ConfigError
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import KernelArguments, interpreting
from jadeberta.model_constants import FUSED_HEAD_SIZES, FUSED_LENGTH, offsets_fit

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INSTEAD = "Choose 'sdpa' (the same function) or 'eager'."


def too_long(length: int) -> str:
    """The refusal of rows of `length` tokens."""
    return f"model.attention 'fused' takes rows of up to {FUSED_LENGTH} tokens, not of {length}. {INSTEAD}"


def require(head_size: int, length: int | None = None) -> None:
    """Raises ConfigError if the kernels cannot run on this machine, with this head size or with rows of `length` tokens."""
    if head_size not in FUSED_HEAD_SIZES:
        sizes = ", ".join(map(str, FUSED_HEAD_SIZES))
        raise ConfigError(f"model.attention 'fused' takes heads of {sizes}, and this model's are of {head_size}. {INSTEAD}")
    if length is not None and length > FUSED_LENGTH:
        raise ConfigError(too_long(length))
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(
            f"model.attention 'fused' needs Triton, which comes with torch's builds for CUDA and is not here. {INSTEAD}"
        )
    if not interpreting() and not torch.cuda.is_available():
        raise ConfigError(f"model.attention 'fused' needs a GPU, and torch finds none on this machine. {INSTEAD}")


def _check(qkv: torch.Tensor) -> None:
    """Raises ConfigError for a dtype, length or device that the kernels do not support; only a call shows these."""
    if qkv.dtype not in DTYPES:
        raise ConfigError(f"model.attention 'fused' takes fp32, fp16 and bf16, not {qkv.dtype}. {INSTEAD}")
    if qkv.shape[1] > FUSED_LENGTH:
        raise ConfigError(too_long(qkv.shape[1]))
    batch, length, _, heads, size = qkv.shape
    if not offsets_fit(batch, length, heads, size):
        raise ConfigError(
            f"model.attention 'fused' counts in 32 bits, too few for {batch} rows of {length} tokens x {heads} heads of {size}. {INSTEAD}"
        )
    if not interpreting() and qkv.device.type != "cuda":
        raise ConfigError(f"model.attention 'fused' runs on a GPU, and the model is on '{qkv.device}': move it there. {INSTEAD}")


def attend(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    bucket_ids: torch.Tensor,
    document_ids: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """`dispatch.attend` through the Triton kernels.

    Args:
        qkv: queries, keys and values, [B, S, 3, H, D]; fp32, fp16 or bf16.
        position_keys: projected position table of the content-to-position term, [rows, H, D]; None leaves the term out.
        position_queries: the same for position-to-content.
        bucket_ids: row of the table for each distance, int64 [2 * S - 1].
        document_ids: integers [B, S]; tokens of equal numbers see each other. None: every token sees its row.
        seed: int64 [], of the dropout mask.
        dropout: share of the weights that is zeroed.
        scale: factor of all scores.

    Returns:
        The context, [B, S, H, D].

    Raises:
        ConfigError: the kernels do not support the device, the dtype or the length.
    """
    return _attention(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)[0]


@torch.library.custom_op("jadeberta::fused_attention", mutates_args=())
def _attention(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    bucket_ids: torch.Tensor,
    document_ids: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check(qkv)
    args = KernelArguments(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)
    with _on(qkv.device):
        return _form_module(args, "forward").forward(args)


@torch.library.custom_op("jadeberta::fused_attention_backward", mutates_args=())
def _attention_backward(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    bucket_ids: torch.Tensor,
    document_ids: torch.Tensor | None,
    seed: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    args = KernelArguments(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale)
    with _on(qkv.device):
        grad, *table_grads = _form_module(args, "backward").backward(args, grad_out, out, lse)
    # A custom operator must return tensors; an empty one stands for a term that is not used.
    grad_keys, grad_queries = (qkv.new_empty(0) if g is None else g for g in table_grads)
    return grad, grad_keys, grad_queries


def _on(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the current device, on which Triton launches its kernels."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _form_module(args: KernelArguments, pass_: str) -> ModuleType:
    """The module of the kernel form that the device of the arguments uses in a pass, forward or backward."""
    from jadeberta.model.attention.triton import fused, tables

    forward, backward = tiles.forms_for(args.qkv.dtype, args.shape[3], args.capability)
    return {"fused": fused, "tables": tables}[forward if pass_ == "forward" else backward]


@_attention.register_fake
def _(qkv, position_keys, position_queries, bucket_ids, document_ids, seed, dropout, scale):
    batch, length, _, heads, size = qkv.shape
    return qkv.new_empty(batch, length, heads, size), qkv.new_empty(batch, heads, length, dtype=torch.float32)


@_attention_backward.register_fake
def _(grad_out, qkv, position_keys, position_queries, bucket_ids, document_ids, seed, out, lse, dropout, scale):
    grad = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    table_grads = (
        qkv.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (position_keys, position_queries)
    )
    return grad, *table_grads


def _save_inputs(ctx, inputs, output) -> None:
    *tensors, ctx.dropout, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad_out, _):
    *tensors, out, lse = ctx.saved_tensors
    grads = _attention_backward(grad_out, *tensors, out, lse, ctx.dropout, ctx.scale)
    table_grads = (g if t is not None else None for g, t in zip(grads[1:], tensors[1:3], strict=True))
    return grads[0], *table_grads, None, None, None, None, None


_attention.register_autograd(_differentiate, setup_context=_save_inputs)
