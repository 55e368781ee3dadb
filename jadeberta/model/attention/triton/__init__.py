"""Disentangled attention in Triton kernels, forward and backward: no [B, H, S, S] tensor is kept, and no atomics are used.

Two forms compute the same function: "fused" (`whole`) makes position scores tile by tile, "tables" (`tables`) writes them for a few heads
at a time. `tiles` says which form and which tiles a GPU gets. Dropout is that of `jadeberta.model.attention.dropout`, bit for bit.
Triton is imported when the first call is made, so that this module can be imported where there is none.
"""

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch

from jadeberta.config.validate import FUSED_HEAD_SIZES, FUSED_LENGTH
from jadeberta.errors import ConfigError
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import Call, interpreting

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INSTEAD = "Choose 'sdpa' (the same function) or 'eager'."


def require(head_size: int) -> None:
    """Raises ConfigError where the kernels cannot run: on this machine, or with heads of such a size."""
    if head_size not in FUSED_HEAD_SIZES:
        sizes = ", ".join(map(str, FUSED_HEAD_SIZES))
        raise ConfigError(f"model.attention 'fused' takes heads of {sizes}, and this model's are of {head_size}. {INSTEAD}")
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(
            f"model.attention 'fused' needs Triton, which comes with torch's builds for CUDA and is not here. {INSTEAD}"
        )
    if not interpreting() and not torch.cuda.is_available():
        raise ConfigError(f"model.attention 'fused' needs a GPU, and torch finds none on this machine. {INSTEAD}")


def _check(qkv: torch.Tensor) -> None:
    """What only a call can show."""
    if qkv.dtype not in DTYPES:
        raise ConfigError(f"model.attention 'fused' takes fp32, fp16 and bf16, not {qkv.dtype}. {INSTEAD}")
    if qkv.shape[1] > FUSED_LENGTH:
        raise ConfigError(f"model.attention 'fused' takes rows of up to {FUSED_LENGTH} tokens, not of {qkv.shape[1]}. {INSTEAD}")
    if not interpreting() and qkv.device.type != "cuda":
        raise ConfigError(f"model.attention 'fused' runs on a GPU, and the model is on '{qkv.device}': move it there. {INSTEAD}")


def attend(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    slots: torch.Tensor,
    documents: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """`disentangled.attend` through the kernels, [B, S, H, D]; arguments as there.

    Raises:
        ConfigError: the device, the dtype or the length is none that the kernels take.
    """
    return _attention(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale)[0]


@torch.library.custom_op("jadeberta::fused_attention", mutates_args=())
def _attention(
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    slots: torch.Tensor,
    documents: torch.Tensor | None,
    seed: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check(qkv)
    call = Call(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale)
    with _on(qkv.device):
        return _form(call, 0).forward(call)


@torch.library.custom_op("jadeberta::fused_attention_backward", mutates_args=())
def _attention_backward(
    grad_out: torch.Tensor,
    qkv: torch.Tensor,
    position_keys: torch.Tensor | None,
    position_queries: torch.Tensor | None,
    slots: torch.Tensor,
    documents: torch.Tensor | None,
    seed: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    call = Call(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale)
    with _on(qkv.device):
        grad, *of_tables = _form(call, 1).backward(call, grad_out, out, lse)
    # An operator gives tensors; an empty one stands for a term that is not there.
    first, second = (qkv.new_empty(0) if g is None else g for g in of_tables)
    return grad, first, second


def _on(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the current one: Triton launches there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _form(call: Call, way: int) -> ModuleType:
    """The module of the form that forward (0) or backward (1) takes on the call's device."""
    from jadeberta.model.attention.triton import fused as whole
    from jadeberta.model.attention.triton import tables

    return {"fused": whole, "tables": tables}[tiles.forms(call.qkv.dtype, call.shape[3], call.capability)[way]]


@_attention.register_fake
def _(qkv, position_keys, position_queries, slots, documents, seed, dropout, scale):
    batch, length, _, heads, size = qkv.shape
    return qkv.new_empty(batch, length, heads, size), qkv.new_empty(batch, heads, length, dtype=torch.float32)


@_attention_backward.register_fake
def _(grad_out, qkv, position_keys, position_queries, slots, documents, seed, out, lse, dropout, scale):
    grad = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    of_tables = (
        qkv.new_empty(0) if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (position_keys, position_queries)
    )
    return grad, *of_tables


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.dropout, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad_out, _):
    *tensors, out, lse = ctx.saved_tensors
    grads = _attention_backward(grad_out, *tensors, out, lse, ctx.dropout, ctx.scale)
    of_tables = (g if t is not None else None for g, t in zip(grads[1:], tensors[1:3], strict=True))
    return grads[0], *of_tables, None, None, None, None, None


_attention.register_autograd(_differentiate, setup_context=_keep)
