"""What kernels of both forms share: loads of rows and of position tables by distance, masks, and the sum that backward needs."""

import torch
import triton
import triton.language as tl

from jadeberta.model.attention.triton.arguments import Call

PRECISION = tl.constexpr("tf32x3")
"""Of products of fp32: three on tensor cores, which together are as good as one in fp32; that one would run beside the tensor cores, and
spill registers. Products of 16 bits are not touched by it."""

DELTA_ROWS = 64
"""Of a program that sums rows: it waits for memory alone, so there is nothing to tune."""


@triton.jit
def load_rows(base, rows, length, stride, D: tl.constexpr):
    """Rows [M, D] of a matrix in which they stand `stride` apart; zeros from `length` on."""
    columns = tl.arange(0, D)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=(rows < length)[:, None], other=0.0)


@triton.jit
def store_rows(base, rows, length, stride, values, D: tl.constexpr):
    """Writes rows [M, D] as `load_rows` reads them, in the dtype of the memory."""
    columns = tl.arange(0, D)
    tl.store(base + rows[:, None] * stride + columns[None, :], values.to(base.dtype.element_ty), mask=(rows < length)[:, None])


@triton.jit
def load_table(table, slots, distances, length, stride, D: tl.constexpr):
    """Rows [W, D] of a head's position table for `distances`; zeros for those that no two places have."""
    there = (distances > -length) & (distances < length)
    slot = tl.load(slots + distances + length - 1, mask=there, other=0).to(tl.int32)
    columns = tl.arange(0, D)
    return tl.load(table + slot[:, None] * stride + columns[None, :], mask=there[:, None], other=0.0)


@triton.jit
def add_tile(scores, tile, N: tl.constexpr):
    """scores + tile, both [M, N]; in 16 bits as a product with ones on the diagonal, which is exact.

    Tensor cores take the tile as it comes from memory, turned or not; an addition first has it exchanged between the threads, which costs
    more than the product, but in fp32, which has no tensor cores.
    """
    if tile.dtype == tl.float32:
        scores += tile
    else:
        n = tl.arange(0, N)
        scores = tl.dot(tile, (n[:, None] == n[None, :]).to(tile.dtype), scores, input_precision=PRECISION)
    return scores


@triton.jit
def forbid(scores, documents, i, j, length, RAGGED: tl.constexpr):
    """Minus infinity where the two are of different documents or, if blocks are RAGGED, the query or the key does not exist."""
    if RAGGED:
        scores = tl.where((i < length)[:, None] & (j < length)[None, :], scores, float("-inf"))
    if documents is not None:
        of_queries = tl.load(documents + i, mask=i < length, other=0)
        of_keys = tl.load(documents + j, mask=j < length, other=0)
        scores = tl.where(of_queries[:, None] == of_keys[None, :], scores, float("-inf"))
    return scores


@triton.jit
def shared_delta(out, grad_out, delta, rows, D: tl.constexpr, H: tl.constexpr, length, BLOCK_M: tl.constexpr):
    """delta [B, H, S]: what each row of weights has in common with its gradient."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = row < rows
    place = row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    products = tl.load(out + place, mask=there[:, None], other=0.0).to(tl.float32)
    products *= tl.load(grad_out + place, mask=there[:, None], other=0.0).to(tl.float32)
    token, h = row // H, row % H
    tl.store(delta + (token // length * H + h) * length + token % length, tl.sum(products, 1), mask=there)


def delta_of(call: Call, grad_out: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Row sums of out * grad_out, fp32 [B, H, S]."""
    batch, length, heads, size = call.shape
    delta = grad_out.new_empty(batch, heads, length, dtype=torch.float32)
    rows = batch * length * heads
    shared_delta[(triton.cdiv(rows, DELTA_ROWS),)](
        out, grad_out, delta, rows, size, heads, length, DELTA_ROWS, num_warps=4, num_stages=1, enable_fp_fusion=True
    )
    return delta
