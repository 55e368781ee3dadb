"""Tile helpers of both kernel forms: loads and stores of rows, position tables by distance, the mask of the scores, and delta."""

import torch
import triton
import triton.language as tl

from jadeberta.model.attention.triton.arguments import KernelArguments

PRECISION = tl.constexpr("tf32x3")
"""Precision of fp32 matrix products: three TF32 products on tensor cores together give fp32 accuracy. A product in plain fp32 would not use
the tensor cores and would spill registers. Products of 16-bit inputs are not affected."""

DELTA_ROWS = 64
"""Rows of one program of `delta_kernel`. The kernel is bound by memory, so this is not tuned."""


@triton.jit
def load_rows(base, rows, length, stride, D: tl.constexpr):
    """Rows [M, D] of a matrix with a row stride of `stride` elements; zeros from row `length` on."""
    columns = tl.arange(0, D)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=(rows < length)[:, None], other=0.0)


@triton.jit
def store_rows(base, rows, length, stride, values, D: tl.constexpr):
    """Writes rows [M, D] as `load_rows` reads them, converted to the dtype of the memory."""
    columns = tl.arange(0, D)
    tl.store(base + rows[:, None] * stride + columns[None, :], values.to(base.dtype.element_ty), mask=(rows < length)[:, None])


@triton.jit
def load_table(table, bucket_ids, distances, length, stride, D: tl.constexpr):
    """Rows [W, D] of one head's position table for `distances`; zeros for distances that do not occur in a row of `length` tokens."""
    in_bounds = (distances > -length) & (distances < length)
    row = tl.load(bucket_ids + distances + length - 1, mask=in_bounds, other=0).to(tl.int32)
    columns = tl.arange(0, D)
    return tl.load(table + row[:, None] * stride + columns[None, :], mask=in_bounds[:, None], other=0.0)


@triton.jit
def add_bias_tile(scores, tile, N: tl.constexpr):
    """scores + tile, fp32 [M, N] each; a 16-bit tile is added as a product with the identity matrix, which is exact."""
    # Tensor cores read the tile in the layout in which it comes from memory, transposed or not. A plain addition first exchanges the tile
    # between threads, which costs more than the product. In fp32 the product is the slower one.
    if tile.dtype == tl.float32:
        scores += tile
    else:
        n = tl.arange(0, N)
        scores = tl.dot(tile, (n[:, None] == n[None, :]).to(tile.dtype), scores, input_precision=PRECISION)
    return scores


@triton.jit
def mask_scores(scores, document_ids, i, j, length, RAGGED: tl.constexpr):
    """Scores [M, N], minus infinity where query i and key j are in different documents or, with RAGGED tiles, beyond the row's end."""
    if RAGGED:
        scores = tl.where((i < length)[:, None] & (j < length)[None, :], scores, float("-inf"))
    if document_ids is not None:
        query_ids = tl.load(document_ids + i, mask=i < length, other=0)
        key_ids = tl.load(document_ids + j, mask=j < length, other=0)
        scores = tl.where(query_ids[:, None] == key_ids[None, :], scores, float("-inf"))
    return scores


@triton.jit
def delta_kernel(out, grad_out, delta, rows, D: tl.constexpr, H: tl.constexpr, length, BLOCK_M: tl.constexpr):
    """delta [B, H, S]: row sums of out * grad_out, the term that the backward pass of the softmax subtracts."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_bounds = row < rows
    offsets = row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    products = tl.load(out + offsets, mask=in_bounds[:, None], other=0.0).to(tl.float32)
    products *= tl.load(grad_out + offsets, mask=in_bounds[:, None], other=0.0).to(tl.float32)
    token, h = row // H, row % H
    tl.store(delta + (token // length * H + h) * length + token % length, tl.sum(products, 1), mask=in_bounds)


def compute_delta(args: KernelArguments, grad_out: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Row sums of out * grad_out, both [B, S, H, D]; fp32 [B, H, S] (Dao et al., FlashAttention, 2022, appendix B.2)."""
    batch, length, heads, size = args.shape
    delta = grad_out.new_empty(batch, heads, length, dtype=torch.float32)
    rows = batch * length * heads
    delta_kernel[(triton.cdiv(rows, DELTA_ROWS),)](
        out, grad_out, delta, rows, size, heads, length, DELTA_ROWS, num_warps=4, num_stages=1, enable_fp_fusion=True
    )
    return delta
