"""Kernels of form "tables".

They share scratch [2, heads, S, pitch] for the heads of a few rows of the batch: position scores of q with the table of keys, by query,
and of k with the table of queries, by key. In backward the gradient of its scores takes the place of each tile, again by query and by key.
Column c of row a belongs to the distance a - c, so entries of equal distance stand one row and one column apart: a block of distances is
slanted, and is loaded or stored with a stride. `side` is 0 for queries and 1 for keys, where distances rise along a row.
"""

import triton
import triton.language as tl

from jadeberta.model.attention.triton.common import PRECISION, add_tile, forbid, load_rows, load_table, store_rows
from jadeberta.model.attention.triton.dropout_bits import head_keys, keeps


@triton.jit
def _of_side(side, of_queries, of_keys):
    """The one of two pointers or numbers that belongs to a side."""
    chosen = of_queries
    if side == 1:
        chosen = of_keys
    return chosen


@triton.jit
def _load_tile(base, rows, columns, length, pitch):
    """A tile of scratch; zeros outside it."""
    there = (rows < length)[:, None] & (columns < pitch)[None, :]
    return tl.load(base + rows[:, None] * pitch + columns[None, :], mask=there, other=0.0)


@triton.jit
def _load_slanted(base, a, t, length, pitch):
    """[M, N]: column a + t of row a of scratch, zeros outside."""
    c = a[:, None] + t[None, :]
    there = (c >= 0) & (c < length) & (a < length)[:, None]
    return tl.load(base + (a * (pitch + 1))[:, None] + t[None, :], mask=there, other=0.0)


@triton.jit
def _scores(q, k, by_query, by_key, i, j, length, pitch, N: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr):
    """q k + q P_k + k P_q of one tile, [BM, BN], before the scale."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if C2P:
        scores = add_tile(scores, _load_tile(by_query, i, j, length, pitch), N)
    if P2C:
        scores = add_tile(scores, tl.trans(_load_tile(by_key, j, i, length, pitch)), N)
    return scores


@triton.jit
def tables_build(
    qkv, keys, queries, slots, scratch, length, pitch, side_stride, key_stride, query_stride,
    D: tl.constexpr, H: tl.constexpr, FIRST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Position scores of a block of rows; grid (blocks, heads, sides), of which the first is FIRST."""
    a0, head, side = tl.program_id(0) * BM, tl.program_id(1), tl.program_id(2) + FIRST
    batch, h = (head // H).to(tl.int64), head % H
    a = a0 + tl.arange(0, BM)
    rows = load_rows(qkv + (batch * length * 3 + side) * H * D + h * D, a, length, 3 * H * D, D)
    table = _of_side(side, keys, queries) + h * D
    stride = _of_side(side, key_stride, query_stride)
    scratch += side.to(tl.int64) * side_stride + head.to(tl.int64) * length * pitch
    for t0 in range(-(a0 + BM - 1), pitch - a0, BN):
        t = t0 + tl.arange(0, BN)
        products = tl.dot(
            rows, tl.trans(load_table(table, slots, t * (2 * side - 1), length, stride, D)), input_precision=PRECISION
        )
        c = a[:, None] + t[None, :]
        # Up to the pitch: what is beyond the row is read with it, and must be a number.
        there = (c >= 0) & (c < pitch) & (a < length)[:, None]
        tl.store(scratch + (a * (pitch + 1))[:, None] + t[None, :], products.to(scratch.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["first_head"])
def tables_forward(
    qkv, scratch, documents, seed, out, lse, first_head, length, pitch, side_stride, exponent_scale, keep_scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Context and log-sum-exp (base 2) of a block of queries."""
    head = tl.program_id(1)
    batch, h, far = (head // H).to(tl.int64), head % H, head.to(tl.int64)
    base = qkv + batch * length * 3 * H * D + h * D
    of_row = documents + batch * length if documents is not None else None
    by_query = scratch + far * length * pitch
    by_key = by_query + side_stride
    first, second = 0, 0
    if THRESHOLD is not None:
        first, second = head_keys(seed, first_head + head)
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    q = load_rows(base, i, length, 3 * H * D, D)
    # A finite start: a row that sees nothing in its first tiles would otherwise subtract infinities.
    highest = tl.full([BM], -1e30, tl.float32)
    total = tl.zeros([BM], tl.float32)
    context = tl.zeros([BM, D], tl.float32)
    for j0 in range(0, length, BN):
        j = j0 + tl.arange(0, BN)
        k = load_rows(base + H * D, j, length, 3 * H * D, D)
        v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
        scores = _scores(q, k, by_query, by_key, i, j, length, pitch, BN, C2P, P2C)
        scores = forbid(scores, of_row, i, j, length, RAGGED) * exponent_scale
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        if THRESHOLD is not None:
            weights = tl.where(keeps(first, second, i, j0, length, BN, THRESHOLD), weights, 0.0)
        context = tl.dot(weights.to(v.dtype), v, context * shrink[:, None], input_precision=PRECISION)
        highest = higher
    total = tl.where(total > 0, total, 1.0)
    context = context * (keep_scale / total)[:, None]
    store_rows(out + batch * length * H * D + h * D, i, length, H * D, context, D)
    tl.store(lse + far * length + i, highest + tl.log2(total), mask=i < length)


@triton.jit(do_not_specialize=["first_head"])
def tables_scores_backward(
    qkv, scratch, documents, seed, grad_out, lse, delta, grad, first_head, length, pitch, side_stride, exponent_scale, keep_scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Gradient of v for a block of keys; and of the scaled scores, in the places of the position scores.

    A program alone reads and writes its tiles of scratch, and writes a tile only from all that it read of it.
    """
    head = tl.program_id(1)
    batch, h, far = (head // H).to(tl.int64), head % H, head.to(tl.int64)
    base = qkv + batch * length * 3 * H * D + h * D
    of_row = documents + batch * length if documents is not None else None
    by_query = scratch + far * length * pitch
    by_key = by_query + side_stride
    first, second = 0, 0
    if THRESHOLD is not None:
        first, second = head_keys(seed, first_head + head)
    j0 = tl.program_id(0) * BN
    j = j0 + tl.arange(0, BN)
    k = load_rows(base + H * D, j, length, 3 * H * D, D)
    v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
    into_v = tl.zeros([BN, D], tl.float32)
    for i0 in range(0, length, BM):
        i = i0 + tl.arange(0, BM)
        q = load_rows(base, i, length, 3 * H * D, D)
        upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
        row_lse = tl.load(lse + far * length + i, mask=i < length, other=0.0)
        row_delta = tl.load(delta + far * length + i, mask=i < length, other=0.0)
        scores = _scores(q, k, by_query, by_key, i, j, length, pitch, BN, C2P, P2C)
        weights = tl.exp2(forbid(scores, of_row, i, j, length, RAGGED) * exponent_scale - row_lse[:, None])
        grad_weights = tl.dot(upstream, tl.trans(v), input_precision=PRECISION)
        kept = weights
        if THRESHOLD is not None:
            keep = keeps(first, second, i, j0, length, BN, THRESHOLD)
            grad_weights = tl.where(keep, grad_weights * keep_scale, 0.0)
            kept = tl.where(keep, weights, 0.0)
        into_v = tl.dot(tl.trans(kept.to(q.dtype)), upstream, into_v, input_precision=PRECISION)
        gradient = (weights * (grad_weights - row_delta[:, None])).to(q.dtype)
        there = (i < length)[:, None] & (j < pitch)[None, :]
        tl.store(by_query + i[:, None] * pitch + j[None, :], gradient, mask=there)
        there = (j < length)[:, None] & (i < pitch)[None, :]
        tl.store(by_key + j[:, None] * pitch + i[None, :], tl.trans(gradient), mask=there)
    store_rows(grad + (batch * length * 3 + 2) * H * D + h * D, j, length, 3 * H * D, into_v * keep_scale, D)


@triton.jit
def tables_grad_side(
    scratch, qkv, keys, queries, slots, grad, length, pitch, side_stride, key_stride, query_stride, scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, C2P: tl.constexpr, P2C: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of q or k; grid (blocks, heads, 2)."""
    a0, head, side = tl.program_id(0) * BM, tl.program_id(1), tl.program_id(2)
    batch, h = (head // H).to(tl.int64), head % H
    a = a0 + tl.arange(0, BM)
    scratch += side.to(tl.int64) * side_stride + head.to(tl.int64) * length * pitch
    other = qkv + (batch * length * 3 + 1 - side) * H * D + h * D
    into = tl.zeros([BM, D], tl.float32)
    for c0 in range(0, length, BN):
        c = c0 + tl.arange(0, BN)
        into = tl.dot(
            _load_tile(scratch, a, c, length, pitch), load_rows(other, c, length, 3 * H * D, D), into, input_precision=PRECISION
        )
    if C2P or P2C:
        table = _of_side(side, keys, queries) + h * D
        stride = _of_side(side, key_stride, query_stride)
        first = -(a0 + BM - 1)
        last = tl.where(_of_side(side, C2P, P2C), length - a0, first)
        for t0 in range(first, last, BN):
            t = t0 + tl.arange(0, BN)
            rows = load_table(table, slots, t * (2 * side - 1), length, stride, D)
            into = tl.dot(_load_slanted(scratch, a, t, length, pitch), rows, into, input_precision=PRECISION)
    store_rows(grad + (batch * length * 3 + side) * H * D + h * D, a, length, 3 * H * D, into * scale, D)


@triton.jit
def tables_grad_table(
    scratch, qkv, sums, batches, length, pitch, side_stride,
    D: tl.constexpr, H: tl.constexpr, FIRST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Adds the gradients of the tables by distance to sums [2, H, 2 * S, D], fp32; grid (blocks of BN distances, H, sides)."""
    t0, h, side = tl.program_id(0) * BN - length, tl.program_id(1), tl.program_id(2) + FIRST
    t = t0 + tl.arange(0, BN)
    scratch += side.to(tl.int64) * side_stride
    into = tl.zeros([BN, D], tl.float32)
    # Only rows a with a column a + t.
    first = tl.maximum(0, -(t0 + BN - 1)) // BM * BM
    last = tl.minimum(length, length - t0)
    for batch in range(0, batches):
        head = (batch * H + h).to(tl.int64)
        own = qkv + (head // H * length * 3 + side) * H * D + h * D
        for a0 in range(first, last, BM):
            a = a0 + tl.arange(0, BM)
            slanted = _load_slanted(scratch + head * length * pitch, a, t, length, pitch)
            into = tl.dot(tl.trans(slanted), load_rows(own, a, length, 3 * H * D, D), into, input_precision=PRECISION)
    place = length - 1 + t * (2 * side - 1)
    there = ((place >= 0) & (place < 2 * length - 1))[:, None]
    memory = sums + (side * H + h) * 2 * length * D + place[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(memory, tl.load(memory, mask=there, other=0.0) + into, mask=there)
