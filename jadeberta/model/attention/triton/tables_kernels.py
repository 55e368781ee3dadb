"""Kernels of form "tables": position scores are written once to scratch and read as plain tiles.

The scratch is [2, heads, S, pitch] for the heads of a chunk of the batch: the scores of q with the position keys, by query, and of k with
the position queries, by key. In the backward pass the gradient of the scores overwrites each tile, again by query and by key. Column c of
row a belongs to distance a - c, so entries of equal distance are one row and one column apart: a block of distances is skewed and is loaded
or stored with a stride. `side` is 0 for queries and 1 for keys, for which distances ascend along a row.

No barrier and no atomic is needed: every element of scratch and of a result is written by one program, and kernels run one after another.
"""

import triton
import triton.language as tl

from jadeberta.model.attention.triton.common import PRECISION, add_bias_tile, load_rows, load_table, mask_scores, store_rows
from jadeberta.model.attention.triton.dropout_bits import dropout_keep_mask, rng_keys


@triton.jit
def _select_side(side, of_queries, of_keys):
    """One of two pointers or numbers: `of_queries` for side 0, `of_keys` for side 1."""
    chosen = of_queries
    if side == 1:
        chosen = of_keys
    return chosen


@triton.jit
def _load_tile(base, rows, columns, length, pitch):
    """A tile [M, N] of scratch; zeros outside of it."""
    in_bounds = (rows < length)[:, None] & (columns < pitch)[None, :]
    return tl.load(base + rows[:, None] * pitch + columns[None, :], mask=in_bounds, other=0.0)


@triton.jit
def _load_skewed(base, a, t, length, pitch):
    """A skewed tile [M, N]: column a + t of row a of scratch; zeros outside of it."""
    c = a[:, None] + t[None, :]
    in_bounds = (c >= 0) & (c < length) & (a < length)[:, None]
    return tl.load(base + (a * (pitch + 1))[:, None] + t[None, :], mask=in_bounds, other=0.0)


@triton.jit
def _scores(q, k, by_query, by_key, i, j, length, pitch, N: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr):
    """q k + q P_k + k P_q of one tile, fp32 [BM, BN], before the scale (He et al. 2021, arXiv:2006.03654, equation 4)."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if C2P:
        scores = add_bias_tile(scores, _load_tile(by_query, i, j, length, pitch), N)
    if P2C:
        scores = add_bias_tile(scores, tl.trans(_load_tile(by_key, j, i, length, pitch)), N)
    return scores


@triton.jit
def tables_build(
    qkv, key_table, query_table, bucket_ids, scratch, length, pitch, side_stride, key_stride, query_stride,
    D: tl.constexpr, H: tl.constexpr, FIRST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Writes the position scores of a block of rows; grid (blocks, heads, sides). FIRST is the side of the first program."""
    a0, head, side = tl.program_id(0) * BM, tl.program_id(1), tl.program_id(2) + FIRST
    batch, h = (head // H).to(tl.int64), head % H
    a = a0 + tl.arange(0, BM)
    rows = load_rows(qkv + (batch * length * 3 + side) * H * D + h * D, a, length, 3 * H * D, D)
    table = _select_side(side, key_table, query_table) + h * D
    stride = _select_side(side, key_stride, query_stride)
    scratch += side.to(tl.int64) * side_stride + head.to(tl.int64) * length * pitch
    for t0 in range(-(a0 + BM - 1), pitch - a0, BN):
        t = t0 + tl.arange(0, BN)
        products = tl.dot(
            rows, tl.trans(load_table(table, bucket_ids, t * (2 * side - 1), length, stride, D)), input_precision=PRECISION
        )
        c = a[:, None] + t[None, :]
        # Columns up to the pitch are written: a tile load reads them with the row, and they must not be NaN.
        in_bounds = (c >= 0) & (c < pitch) & (a < length)[:, None]
        tl.store(scratch + (a * (pitch + 1))[:, None] + t[None, :], products.to(scratch.dtype.element_ty), mask=in_bounds)


@triton.jit(do_not_specialize=["first_head"])
def tables_forward(
    qkv, scratch, document_ids, seed, out, lse, first_head, length, pitch, side_stride, exponent_scale, keep_scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Context [B, S, H, D] and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S], of a block of queries.

    The softmax is computed online (Milakov and Gimelshein 2018, arXiv:1805.02867).
    """
    head = tl.program_id(1)
    batch, h, head64 = (head // H).to(tl.int64), head % H, head.to(tl.int64)
    base = qkv + batch * length * 3 * H * D + h * D
    row_documents = document_ids + batch * length if document_ids is not None else None
    by_query = scratch + head64 * length * pitch
    by_key = by_query + side_stride
    rng_key0, rng_key1 = 0, 0
    if THRESHOLD is not None:
        rng_key0, rng_key1 = rng_keys(seed, first_head + head)
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    q = load_rows(base, i, length, 3 * H * D, D)
    # A finite start value: a row whose first tiles are masked completely would otherwise compute inf - inf.
    row_max = tl.full([BM], -1e30, tl.float32)
    row_sum = tl.zeros([BM], tl.float32)
    context = tl.zeros([BM, D], tl.float32)
    for j0 in range(0, length, BN):
        j = j0 + tl.arange(0, BN)
        k = load_rows(base + H * D, j, length, 3 * H * D, D)
        v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
        scores = _scores(q, k, by_query, by_key, i, j, length, pitch, BN, C2P, P2C)
        scores = mask_scores(scores, row_documents, i, j, length, RAGGED) * exponent_scale
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        weights = tl.exp2(scores - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(weights, 1)
        if THRESHOLD is not None:
            weights = tl.where(dropout_keep_mask(rng_key0, rng_key1, i, j0, length, BN, THRESHOLD), weights, 0.0)
        context = tl.dot(weights.to(v.dtype), v, context * rescale[:, None], input_precision=PRECISION)
        row_max = new_max
    # Rows beyond the end of a ragged row have no weights; the division must not make NaNs of them.
    row_sum = tl.where(row_sum > 0, row_sum, 1.0)
    context = context * (keep_scale / row_sum)[:, None]
    store_rows(out + batch * length * H * D + h * D, i, length, H * D, context, D)
    tl.store(lse + head64 * length + i, row_max + tl.log2(row_sum), mask=i < length)


@triton.jit(do_not_specialize=["first_head"])
def tables_scores_backward(
    qkv, scratch, document_ids, seed, grad_out, lse, delta, grad, first_head, length, pitch, side_stride, exponent_scale, keep_scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Gradient of v for a block of BN keys, and of the scaled scores, which overwrites the position scores in scratch.

    A tile of scratch is read and written by one program only, and is stored after all of it was loaded, so no barrier is needed.
    """
    head = tl.program_id(1)
    batch, h, head64 = (head // H).to(tl.int64), head % H, head.to(tl.int64)
    base = qkv + batch * length * 3 * H * D + h * D
    row_documents = document_ids + batch * length if document_ids is not None else None
    by_query = scratch + head64 * length * pitch
    by_key = by_query + side_stride
    rng_key0, rng_key1 = 0, 0
    if THRESHOLD is not None:
        rng_key0, rng_key1 = rng_keys(seed, first_head + head)
    j0 = tl.program_id(0) * BN
    j = j0 + tl.arange(0, BN)
    k = load_rows(base + H * D, j, length, 3 * H * D, D)
    v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
    grad_v = tl.zeros([BN, D], tl.float32)
    for i0 in range(0, length, BM):
        i = i0 + tl.arange(0, BM)
        q = load_rows(base, i, length, 3 * H * D, D)
        upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
        row_lse = tl.load(lse + head64 * length + i, mask=i < length, other=0.0)
        row_delta = tl.load(delta + head64 * length + i, mask=i < length, other=0.0)
        scores = _scores(q, k, by_query, by_key, i, j, length, pitch, BN, C2P, P2C)
        weights = tl.exp2(mask_scores(scores, row_documents, i, j, length, RAGGED) * exponent_scale - row_lse[:, None])
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision=PRECISION)
        kept_weights = weights
        if THRESHOLD is not None:
            keep_mask = dropout_keep_mask(rng_key0, rng_key1, i, j0, length, BN, THRESHOLD)
            grad_weights = tl.where(keep_mask, grad_weights * keep_scale, 0.0)
            kept_weights = tl.where(keep_mask, weights, 0.0)
        grad_v = tl.dot(tl.trans(kept_weights.to(q.dtype)), upstream, grad_v, input_precision=PRECISION)
        grad_scores = (weights * (grad_weights - row_delta[:, None])).to(q.dtype)
        in_bounds = (i < length)[:, None] & (j < pitch)[None, :]
        tl.store(by_query + i[:, None] * pitch + j[None, :], grad_scores, mask=in_bounds)
        in_bounds = (j < length)[:, None] & (i < pitch)[None, :]
        tl.store(by_key + j[:, None] * pitch + i[None, :], tl.trans(grad_scores), mask=in_bounds)
    store_rows(grad + (batch * length * 3 + 2) * H * D + h * D, j, length, 3 * H * D, grad_v * keep_scale, D)


@triton.jit
def tables_grad_side(
    scratch, qkv, key_table, query_table, bucket_ids, grad, length, pitch, side_stride, key_stride, query_stride, scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of q (side 0) or k (side 1) into `grad` [B, S, 3, H, D]; grid (blocks, heads, 2)."""
    a0, head, side = tl.program_id(0) * BM, tl.program_id(1), tl.program_id(2)
    batch, h = (head // H).to(tl.int64), head % H
    a = a0 + tl.arange(0, BM)
    scratch += side.to(tl.int64) * side_stride + head.to(tl.int64) * length * pitch
    other = qkv + (batch * length * 3 + 1 - side) * H * D + h * D
    acc = tl.zeros([BM, D], tl.float32)
    for c0 in range(0, length, BN):
        c = c0 + tl.arange(0, BN)
        acc = tl.dot(
            _load_tile(scratch, a, c, length, pitch), load_rows(other, c, length, 3 * H * D, D), acc, input_precision=PRECISION
        )
    if C2P or P2C:
        table = _select_side(side, key_table, query_table) + h * D
        stride = _select_side(side, key_stride, query_stride)
        first = -(a0 + BM - 1)
        last = tl.where(_select_side(side, C2P, P2C), length - a0, first)
        for t0 in range(first, last, BN):
            t = t0 + tl.arange(0, BN)
            rows = load_table(table, bucket_ids, t * (2 * side - 1), length, stride, D)
            acc = tl.dot(_load_skewed(scratch, a, t, length, pitch), rows, acc, input_precision=PRECISION)
    store_rows(grad + (batch * length * 3 + side) * H * D + h * D, a, length, 3 * H * D, acc * scale, D)


@triton.jit
def tables_grad_table(
    scratch, qkv, sums, batches, length, pitch, side_stride,
    D: tl.constexpr, H: tl.constexpr, FIRST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Adds the gradients of the position tables by distance to `sums`, fp32 [2, H, 2 * S, D]; grid (blocks of BN distances, H, sides)."""
    t0, h, side = tl.program_id(0) * BN - length, tl.program_id(1), tl.program_id(2) + FIRST
    t = t0 + tl.arange(0, BN)
    scratch += side.to(tl.int64) * side_stride
    acc = tl.zeros([BN, D], tl.float32)
    # Only rows a that have a column a + t.
    first = tl.maximum(0, -(t0 + BN - 1)) // BM * BM
    last = tl.minimum(length, length - t0)
    for batch in range(0, batches):
        head = (batch * H + h).to(tl.int64)
        own = qkv + (head // H * length * 3 + side) * H * D + h * D
        for a0 in range(first, last, BM):
            a = a0 + tl.arange(0, BM)
            skewed = _load_skewed(scratch + head * length * pitch, a, t, length, pitch)
            acc = tl.dot(tl.trans(skewed), load_rows(own, a, length, 3 * H * D, D), acc, input_precision=PRECISION)
    offsets = length - 1 + t * (2 * side - 1)
    in_bounds = ((offsets >= 0) & (offsets < 2 * length - 1))[:, None]
    memory = sums + (side * H + h) * 2 * length * D + offsets[:, None] * D + tl.arange(0, D)[None, :]
    # Added without atomics: one program owns these distances, and the chunks of a batch are launched one after another on one stream.
    tl.store(memory, tl.load(memory, mask=in_bounds, other=0.0) + acc, mask=in_bounds)
