"""Kernels of form "fused".

The position scores of a tile are small products with the table's rows for its distances. They lie slanted: entry (i, r) belongs to the key
that is distance r away. A program stores them slanted into a scratch tile of its own, which stays in cache, and loads them back upright.
"""

import triton
import triton.language as tl

from jadeberta.model.attention.triton.common import PRECISION, add_tile, forbid, load_rows, load_table, store_rows
from jadeberta.model.attention.triton.dropout_bits import head_keys, keeps


@triton.jit
def _scores(
    q, k, keys, queries, slots, scratch, i0, j0, length, key_stride, query_stride,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """q k + q P_k + k P_q of one tile, [BM, BN], before the scale."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    a, b, r = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, W)
    distances = i0 - j0 - (BN - 1) + r
    upright = scratch + a[:, None] * BN + b[None, :]
    turned = scratch + BM * BN + b[:, None] * BM + a[None, :]
    if keys is not None:
        rows = load_table(keys, slots, distances, length, key_stride, D)
        products = tl.dot(q, tl.trans(rows), input_precision=PRECISION)
        column = a[:, None] + (BN - 1) - r[None, :]
        there = (column >= 0) & (column < BN)
        tl.store(scratch + a[:, None] * BN + column, products.to(q.dtype), mask=there)
    if queries is not None:
        rows = load_table(queries, slots, distances, length, query_stride, D)
        products = tl.dot(k, tl.trans(rows), input_precision=PRECISION)
        column = b[:, None] - (BN - 1) + r[None, :]
        there = (column >= 0) & (column < BM)
        tl.store(scratch + BM * BN + b[:, None] * BM + column, products.to(q.dtype), mask=there)
    if keys is not None or queries is not None:
        tl.debug_barrier()
        if keys is not None:
            scores = add_tile(scores, tl.load(upright), BN)
        if queries is not None:
            scores = add_tile(scores, tl.trans(tl.load(turned)), BN)
        tl.debug_barrier()
    return scores


@triton.jit
def _gradient(
    q, k, v, grad_out, lse, delta, keys, queries, slots, documents, scratch, first, second, i0, j0, length, key_stride, query_stride,
    exponent_scale, keep_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Weights after dropout, without its scale, and the gradient of the scaled scores; fp32 [BM, BN] each."""
    i, j = i0 + tl.arange(0, BM), j0 + tl.arange(0, BN)
    scores = _scores(q, k, keys, queries, slots, scratch, i0, j0, length, key_stride, query_stride, D, BM, BN, W)
    weights = tl.exp2(forbid(scores, documents, i, j, length, RAGGED) * exponent_scale - lse[:, None])
    grad_weights = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
    kept = weights
    if THRESHOLD is not None:
        keep = keeps(first, second, i, j0, length, BN, THRESHOLD)
        grad_weights = tl.where(keep, grad_weights * keep_scale, 0.0)
        kept = tl.where(keep, weights, 0.0)
    return kept, weights * (grad_weights - delta[:, None])


@triton.jit
def fused_forward(
    qkv, keys, queries, slots, documents, seed, scratch, out, lse, length, key_stride, query_stride, exponent_scale, keep_scale, tasks,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Context and log-sum-exp (base 2) of query blocks, one after the other."""
    scratch += tl.program_id(0) * 2 * BM * BN
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        i0, head = task % tl.cdiv(length, BM) * BM, task // tl.cdiv(length, BM)
        batch, h = (head // H).to(tl.int64), head % H
        base = qkv + batch * length * 3 * H * D + h * D
        of_row = documents + batch * length if documents is not None else None
        of_head_k = keys + h * D if keys is not None else None
        of_head_q = queries + h * D if queries is not None else None
        first, second = 0, 0
        if THRESHOLD is not None:
            first, second = head_keys(seed, head)
        i = i0 + tl.arange(0, BM)
        q = load_rows(base, i, length, 3 * H * D, D)
        # A finite start: a row that sees nothing in its first tiles would otherwise subtract infinities.
        highest = tl.full([BM], -1e30, tl.float32)
        total = tl.zeros([BM], tl.float32)
        context = tl.zeros([BM, D], tl.float32)
        for j0 in range(0, length, BN):
            j = j0 + tl.arange(0, BN)
            k = load_rows(base + H * D, j, length, 3 * H * D, D)
            v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
            scores = _scores(q, k, of_head_k, of_head_q, slots, scratch, i0, j0, length, key_stride, query_stride, D, BM, BN, W)
            scores = forbid(scores, of_row, i, j, length, RAGGED) * exponent_scale
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(highest - higher)
            total = total * shrink + tl.sum(weights, 1)
            if THRESHOLD is not None:
                weights = tl.where(keeps(first, second, i, j0, length, BN, THRESHOLD), weights, 0.0)
            context = context * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
            highest = higher
        total = tl.where(total > 0, total, 1.0)
        context = context * (keep_scale / total)[:, None]
        store_rows(out + batch * length * H * D + h * D, i, length, H * D, context, D)
        tl.store(lse + head.to(tl.int64) * length + i, highest + tl.log2(total), mask=i < length)


@triton.jit
def fused_grad_queries(
    qkv, keys, queries, slots, documents, seed, scratch, grad_out, lse, delta, grad, length, key_stride, query_stride,
    exponent_scale, keep_scale, scale, tasks,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradient of q, block of queries by block."""
    scratch += tl.program_id(0) * 2 * BM * BN
    a, b, r = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, W)
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        i0, head = task % tl.cdiv(length, BM) * BM, task // tl.cdiv(length, BM)
        batch, h = (head // H).to(tl.int64), head % H
        base = qkv + batch * length * 3 * H * D + h * D
        of_row = documents + batch * length if documents is not None else None
        of_head_k = keys + h * D if keys is not None else None
        of_head_q = queries + h * D if queries is not None else None
        first, second = 0, 0
        if THRESHOLD is not None:
            first, second = head_keys(seed, head)
        i = i0 + a
        q = load_rows(base, i, length, 3 * H * D, D)
        upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
        row_lse = tl.load(lse + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
        row_delta = tl.load(delta + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
        into_q = tl.zeros([BM, D], tl.float32)
        for j0 in range(0, length, BN):
            j = j0 + b
            k = load_rows(base + H * D, j, length, 3 * H * D, D)
            v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
            _, gradient = _gradient(
                q, k, v, upstream, row_lse, row_delta, of_head_k, of_head_q, slots, of_row, scratch, first, second, i0, j0, length,
                key_stride, query_stride, exponent_scale, keep_scale, D, BM, BN, W, THRESHOLD, RAGGED,
            )  # fmt: skip
            gradient = gradient.to(q.dtype)
            into_q += tl.dot(gradient, k, input_precision=PRECISION)
            if keys is not None:
                tl.store(scratch + a[:, None] * BN + b[None, :], gradient)
                tl.debug_barrier()
                column = a[:, None] + (BN - 1) - r[None, :]
                there = (column >= 0) & (column < BN)
                slanted = tl.load(scratch + a[:, None] * BN + column, mask=there, other=0.0)
                rows = load_table(of_head_k, slots, i0 - j0 - (BN - 1) + r, length, key_stride, D)
                into_q += tl.dot(slanted, rows, input_precision=PRECISION)
                tl.debug_barrier()
        grad_rows = grad + batch * length * 3 * H * D + h * D
        store_rows(grad_rows, i, length, 3 * H * D, into_q * scale, D)


@triton.jit
def fused_grad_keys(
    qkv, keys, queries, slots, documents, seed, scratch, grad_out, lse, delta, grad, length, key_stride, query_stride,
    exponent_scale, keep_scale, scale, tasks,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradients of k and v, block of keys by block."""
    scratch += tl.program_id(0) * 2 * BM * BN
    a, b, r = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, W)
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        j0, head = task % tl.cdiv(length, BN) * BN, task // tl.cdiv(length, BN)
        batch, h = (head // H).to(tl.int64), head % H
        base = qkv + batch * length * 3 * H * D + h * D
        of_row = documents + batch * length if documents is not None else None
        of_head_k = keys + h * D if keys is not None else None
        of_head_q = queries + h * D if queries is not None else None
        first, second = 0, 0
        if THRESHOLD is not None:
            first, second = head_keys(seed, head)
        j = j0 + b
        k = load_rows(base + H * D, j, length, 3 * H * D, D)
        v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
        into_k = tl.zeros([BN, D], tl.float32)
        into_v = tl.zeros([BN, D], tl.float32)
        for i0 in range(0, length, BM):
            i = i0 + a
            q = load_rows(base, i, length, 3 * H * D, D)
            upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
            row_lse = tl.load(lse + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            row_delta = tl.load(delta + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            kept, gradient = _gradient(
                q, k, v, upstream, row_lse, row_delta, of_head_k, of_head_q, slots, of_row, scratch, first, second, i0, j0, length,
                key_stride, query_stride, exponent_scale, keep_scale, D, BM, BN, W, THRESHOLD, RAGGED,
            )  # fmt: skip
            into_v += tl.dot(tl.trans(kept.to(q.dtype)), upstream, input_precision=PRECISION)
            turned = tl.trans(gradient.to(q.dtype))
            into_k += tl.dot(turned, q, input_precision=PRECISION)
            if queries is not None:
                tl.store(scratch + b[:, None] * BM + a[None, :], turned)
                tl.debug_barrier()
                column = b[:, None] - (BN - 1) + r[None, :]
                there = (column >= 0) & (column < BM)
                slanted = tl.load(scratch + b[:, None] * BM + column, mask=there, other=0.0)
                rows = load_table(of_head_q, slots, i0 - j0 - (BN - 1) + r, length, query_stride, D)
                into_k += tl.dot(slanted, rows, input_precision=PRECISION)
                tl.debug_barrier()
        grad_rows = grad + batch * length * 3 * H * D + h * D
        store_rows(grad_rows + H * D, j, length, 3 * H * D, into_k * scale, D)
        store_rows(grad_rows + 2 * H * D, j, length, 3 * H * D, into_v * keep_scale, D)


@triton.jit
def fused_grad_positions(
    qkv, keys, queries, slots, documents, seed, scratch, grad_out, lse, delta, sums, batches, length, key_stride, query_stride,
    exponent_scale, keep_scale, scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, W: tl.constexpr, OF_QUERIES: tl.constexpr, THRESHOLD: tl.constexpr,
    RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradient of one table by distance: a program owns a diagonal of tiles in one head, and adds up over its share of the batch.

    The sums are [shares, H, diagonals, W, D]: tiles on a diagonal see the same W = 2 * BM distances, and so nobody else adds to them.
    Both tables at once would need twice the registers for sums, more than there are.
    """
    blocks = tl.cdiv(length, BM)
    diagonal, h, share = tl.program_id(0) - (blocks - 1), tl.program_id(1), tl.program_id(2)
    program = (share * H + h).to(tl.int64) * (2 * blocks - 1) + diagonal + blocks - 1
    scratch += program * 2 * BM * BM
    a, r = tl.arange(0, BM), tl.arange(0, W)
    of_head_k = keys + h * D if keys is not None else None
    of_head_q = queries + h * D if queries is not None else None
    into = tl.zeros([W, D], tl.float32)
    for row in range(share, batches, tl.num_programs(2)):
        head = row * H + h
        batch = (head // H).to(tl.int64)
        base = qkv + batch * length * 3 * H * D + h * D
        of_row = documents + batch * length if documents is not None else None
        first, second = 0, 0
        if THRESHOLD is not None:
            first, second = head_keys(seed, head)
        for block in range(tl.maximum(diagonal, 0), tl.minimum(blocks, blocks + diagonal)):
            i0, j0 = block * BM, (block - diagonal) * BM
            i, j = i0 + a, j0 + a
            q = load_rows(base, i, length, 3 * H * D, D)
            k = load_rows(base + H * D, j, length, 3 * H * D, D)
            v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
            upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
            row_lse = tl.load(lse + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            row_delta = tl.load(delta + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            _, gradient = _gradient(
                q, k, v, upstream, row_lse, row_delta, of_head_k, of_head_q, slots, of_row, scratch, first, second, i0, j0, length,
                key_stride, query_stride, exponent_scale, keep_scale, D, BM, BM, W, THRESHOLD, RAGGED,
            )  # fmt: skip
            gradient = gradient.to(q.dtype)
            turned = tl.trans(gradient) if OF_QUERIES else gradient
            tl.store(scratch + a[:, None] * BM + a[None, :], turned)
            tl.debug_barrier()
            column = a[:, None] - (BM - 1) + r[None, :] if OF_QUERIES else a[:, None] + (BM - 1) - r[None, :]
            there = (column >= 0) & (column < BM)
            slanted = tl.load(scratch + a[:, None] * BM + column, mask=there, other=0.0)
            into += tl.dot(tl.trans(slanted), k if OF_QUERIES else q, input_precision=PRECISION)
            tl.debug_barrier()
    place = program * W * D + r[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(sums + place, into * scale)
