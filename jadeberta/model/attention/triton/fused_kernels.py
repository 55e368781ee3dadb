"""Kernels of form "fused": no tensor that grows with S x S is written.

The position scores of a tile are small products with the table's rows for the tile's distances. The products are skewed: entry (i, r)
belongs to the key at distance r from query i. A program stores them into a scratch tile of its own, which stays in cache, and loads them
back by key. BM and BN are the queries and keys of a tile, W is the number of distances of a tile, as a power of two.

Every scratch tile belongs to one program, so the barriers order the threads of one program only. `tl.debug_barrier` is a plain block
barrier (bar.sync) in Triton; it is not limited to debugging.
"""

import triton
import triton.language as tl

from jadeberta.model.attention.triton.common import PRECISION, add_bias_tile, load_rows, load_table, mask_scores, store_rows
from jadeberta.model.attention.triton.dropout_bits import dropout_keep_mask, rng_keys


@triton.jit
def _scores(
    q, k, key_table, query_table, bucket_ids, scratch, i0, j0, length, key_stride, query_stride,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """q k + q P_k + k P_q of one tile, fp32 [BM, BN], before the scale (He et al. 2021, arXiv:2006.03654, equation 4)."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    a, b, r = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, W)
    distances = i0 - j0 - (BN - 1) + r
    unskewed = scratch + a[:, None] * BN + b[None, :]
    transposed = scratch + BM * BN + b[:, None] * BM + a[None, :]
    if key_table is not None:
        rows = load_table(key_table, bucket_ids, distances, length, key_stride, D)
        products = tl.dot(q, tl.trans(rows), input_precision=PRECISION)
        column = a[:, None] + (BN - 1) - r[None, :]
        in_bounds = (column >= 0) & (column < BN)
        tl.store(scratch + a[:, None] * BN + column, products.to(q.dtype), mask=in_bounds)
    if query_table is not None:
        rows = load_table(query_table, bucket_ids, distances, length, query_stride, D)
        products = tl.dot(k, tl.trans(rows), input_precision=PRECISION)
        column = b[:, None] - (BN - 1) + r[None, :]
        in_bounds = (column >= 0) & (column < BM)
        tl.store(scratch + BM * BN + b[:, None] * BM + column, products.to(q.dtype), mask=in_bounds)
    if key_table is not None or query_table is not None:
        # A thread loads elements that other threads stored.
        tl.debug_barrier()
        if key_table is not None:
            scores = add_bias_tile(scores, tl.load(unskewed), BN)
        if query_table is not None:
            scores = add_bias_tile(scores, tl.trans(tl.load(transposed)), BN)
        # The next use of the scratch tile must not overwrite what slower threads still load.
        tl.debug_barrier()
    return scores


@triton.jit
def _weights_and_gradient(
    q, k, v, grad_out, lse, delta, key_table, query_table, bucket_ids, document_ids, scratch, rng_key0, rng_key1, i0, j0, length,
    key_stride, query_stride,
    exponent_scale, keep_scale,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Weights after dropout, without the factor 1 / (1 - p), and the gradient of the scaled scores; fp32 [BM, BN] each."""
    i, j = i0 + tl.arange(0, BM), j0 + tl.arange(0, BN)
    scores = _scores(q, k, key_table, query_table, bucket_ids, scratch, i0, j0, length, key_stride, query_stride, D, BM, BN, W)
    weights = tl.exp2(mask_scores(scores, document_ids, i, j, length, RAGGED) * exponent_scale - lse[:, None])
    grad_weights = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
    kept_weights = weights
    if THRESHOLD is not None:
        keep_mask = dropout_keep_mask(rng_key0, rng_key1, i, j0, length, BN, THRESHOLD)
        grad_weights = tl.where(keep_mask, grad_weights * keep_scale, 0.0)
        kept_weights = tl.where(keep_mask, weights, 0.0)
    return kept_weights, weights * (grad_weights - delta[:, None])


@triton.jit
def fused_forward(
    qkv, key_table, query_table, bucket_ids, document_ids, seed, scratch, out, lse, length, key_stride, query_stride, exponent_scale,
    keep_scale, tasks,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Context [B, S, H, D] and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S]; each program walks over blocks of queries.

    The softmax is computed online (Milakov and Gimelshein 2018, arXiv:1805.02867).
    """
    scratch += tl.program_id(0) * 2 * BM * BN
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        i0, head = task % tl.cdiv(length, BM) * BM, task // tl.cdiv(length, BM)
        batch, h = (head // H).to(tl.int64), head % H
        base = qkv + batch * length * 3 * H * D + h * D
        row_documents = document_ids + batch * length if document_ids is not None else None
        head_key_table = key_table + h * D if key_table is not None else None
        head_query_table = query_table + h * D if query_table is not None else None
        rng_key0, rng_key1 = 0, 0
        if THRESHOLD is not None:
            rng_key0, rng_key1 = rng_keys(seed, head)
        i = i0 + tl.arange(0, BM)
        q = load_rows(base, i, length, 3 * H * D, D)
        # A finite start value: a row whose first tiles are masked completely would otherwise compute inf - inf.
        row_max = tl.full([BM], -1e30, tl.float32)
        row_sum = tl.zeros([BM], tl.float32)
        context = tl.zeros([BM, D], tl.float32)
        for j0 in range(0, length, BN):
            j = j0 + tl.arange(0, BN)
            k = load_rows(base + H * D, j, length, 3 * H * D, D)
            v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
            scores = _scores(
                q, k, head_key_table, head_query_table, bucket_ids, scratch,
                i0, j0, length, key_stride, query_stride, D, BM, BN, W,
            )  # fmt: skip
            scores = mask_scores(scores, row_documents, i, j, length, RAGGED) * exponent_scale
            new_max = tl.maximum(row_max, tl.max(scores, 1))
            weights = tl.exp2(scores - new_max[:, None])
            rescale = tl.exp2(row_max - new_max)
            row_sum = row_sum * rescale + tl.sum(weights, 1)
            if THRESHOLD is not None:
                weights = tl.where(dropout_keep_mask(rng_key0, rng_key1, i, j0, length, BN, THRESHOLD), weights, 0.0)
            context = context * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
            row_max = new_max
        # Rows beyond the end of a ragged row have no weights; the division must not make NaNs of them.
        row_sum = tl.where(row_sum > 0, row_sum, 1.0)
        context = context * (keep_scale / row_sum)[:, None]
        store_rows(out + batch * length * H * D + h * D, i, length, H * D, context, D)
        tl.store(lse + head.to(tl.int64) * length + i, row_max + tl.log2(row_sum), mask=i < length)


@triton.jit
def fused_grad_queries(
    qkv, key_table, query_table, bucket_ids, document_ids, seed, scratch, grad_out, lse, delta, grad, length, key_stride, query_stride,
    exponent_scale, keep_scale, scale, tasks,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradient of q into `grad` [B, S, 3, H, D]; each program walks over blocks of BM queries and is the only one to write them."""
    scratch += tl.program_id(0) * 2 * BM * BN
    a, b, r = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, W)
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        i0, head = task % tl.cdiv(length, BM) * BM, task // tl.cdiv(length, BM)
        batch, h = (head // H).to(tl.int64), head % H
        base = qkv + batch * length * 3 * H * D + h * D
        row_documents = document_ids + batch * length if document_ids is not None else None
        head_key_table = key_table + h * D if key_table is not None else None
        head_query_table = query_table + h * D if query_table is not None else None
        rng_key0, rng_key1 = 0, 0
        if THRESHOLD is not None:
            rng_key0, rng_key1 = rng_keys(seed, head)
        i = i0 + a
        q = load_rows(base, i, length, 3 * H * D, D)
        upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
        row_lse = tl.load(lse + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
        row_delta = tl.load(delta + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
        grad_q = tl.zeros([BM, D], tl.float32)
        for j0 in range(0, length, BN):
            j = j0 + b
            k = load_rows(base + H * D, j, length, 3 * H * D, D)
            v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
            _, grad_scores = _weights_and_gradient(
                q, k, v, upstream, row_lse, row_delta, head_key_table, head_query_table, bucket_ids, row_documents, scratch, rng_key0,
                rng_key1, i0, j0, length,
                key_stride, query_stride, exponent_scale, keep_scale, D, BM, BN, W, THRESHOLD, RAGGED,
            )  # fmt: skip
            grad_scores = grad_scores.to(q.dtype)
            grad_q += tl.dot(grad_scores, k, input_precision=PRECISION)
            if key_table is not None:
                tl.store(scratch + a[:, None] * BN + b[None, :], grad_scores)
                # The skewed load below reads elements that other threads stored.
                tl.debug_barrier()
                column = a[:, None] + (BN - 1) - r[None, :]
                in_bounds = (column >= 0) & (column < BN)
                skewed = tl.load(scratch + a[:, None] * BN + column, mask=in_bounds, other=0.0)
                rows = load_table(head_key_table, bucket_ids, i0 - j0 - (BN - 1) + r, length, key_stride, D)
                grad_q += tl.dot(skewed, rows, input_precision=PRECISION)
                # The next tile of keys stores into the same scratch.
                tl.debug_barrier()
        grad_rows = grad + batch * length * 3 * H * D + h * D
        store_rows(grad_rows, i, length, 3 * H * D, grad_q * scale, D)


@triton.jit
def fused_grad_keys(
    qkv, key_table, query_table, bucket_ids, document_ids, seed, scratch, grad_out, lse, delta, grad, length, key_stride, query_stride,
    exponent_scale, keep_scale, scale, tasks,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, W: tl.constexpr, THRESHOLD: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradients of k and v into `grad` [B, S, 3, H, D]; each program walks over blocks of BN keys and is the only one to write them."""
    scratch += tl.program_id(0) * 2 * BM * BN
    a, b, r = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, W)
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        j0, head = task % tl.cdiv(length, BN) * BN, task // tl.cdiv(length, BN)
        batch, h = (head // H).to(tl.int64), head % H
        base = qkv + batch * length * 3 * H * D + h * D
        row_documents = document_ids + batch * length if document_ids is not None else None
        head_key_table = key_table + h * D if key_table is not None else None
        head_query_table = query_table + h * D if query_table is not None else None
        rng_key0, rng_key1 = 0, 0
        if THRESHOLD is not None:
            rng_key0, rng_key1 = rng_keys(seed, head)
        j = j0 + b
        k = load_rows(base + H * D, j, length, 3 * H * D, D)
        v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
        grad_k = tl.zeros([BN, D], tl.float32)
        grad_v = tl.zeros([BN, D], tl.float32)
        for i0 in range(0, length, BM):
            i = i0 + a
            q = load_rows(base, i, length, 3 * H * D, D)
            upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
            row_lse = tl.load(lse + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            row_delta = tl.load(delta + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            kept_weights, grad_scores = _weights_and_gradient(
                q, k, v, upstream, row_lse, row_delta, head_key_table, head_query_table, bucket_ids, row_documents, scratch, rng_key0,
                rng_key1, i0, j0, length,
                key_stride, query_stride, exponent_scale, keep_scale, D, BM, BN, W, THRESHOLD, RAGGED,
            )  # fmt: skip
            grad_v += tl.dot(tl.trans(kept_weights.to(q.dtype)), upstream, input_precision=PRECISION)
            transposed = tl.trans(grad_scores.to(q.dtype))
            grad_k += tl.dot(transposed, q, input_precision=PRECISION)
            if query_table is not None:
                tl.store(scratch + b[:, None] * BM + a[None, :], transposed)
                # The skewed load below reads elements that other threads stored.
                tl.debug_barrier()
                column = b[:, None] - (BN - 1) + r[None, :]
                in_bounds = (column >= 0) & (column < BM)
                skewed = tl.load(scratch + b[:, None] * BM + column, mask=in_bounds, other=0.0)
                rows = load_table(head_query_table, bucket_ids, i0 - j0 - (BN - 1) + r, length, query_stride, D)
                grad_k += tl.dot(skewed, rows, input_precision=PRECISION)
                # The next tile of queries stores into the same scratch.
                tl.debug_barrier()
        grad_rows = grad + batch * length * 3 * H * D + h * D
        store_rows(grad_rows + H * D, j, length, 3 * H * D, grad_k * scale, D)
        store_rows(grad_rows + 2 * H * D, j, length, 3 * H * D, grad_v * keep_scale, D)


@triton.jit
def fused_grad_positions(
    qkv, key_table, query_table, bucket_ids, document_ids, seed, scratch, grad_out, lse, delta, sums, batches, length, key_stride,
    query_stride,
    exponent_scale, keep_scale, scale,
    D: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, W: tl.constexpr, OF_QUERIES: tl.constexpr, THRESHOLD: tl.constexpr,
    RAGGED: tl.constexpr,
):  # fmt: skip
    """Gradient of one position table by distance; a program owns one diagonal of tiles of one head and sums over its share of the batch.

    The sums are fp32 [shares, H, diagonals, W, D]. The tiles of a diagonal see the same W = 2 * BM distances, and no other program adds to
    them, so no atomics are needed and the order of summation is fixed. One launch computes one table: the sums of both tables at once
    would not fit into the registers.
    """
    blocks = tl.cdiv(length, BM)
    diagonal, h, share = tl.program_id(0) - (blocks - 1), tl.program_id(1), tl.program_id(2)
    program = (share * H + h).to(tl.int64) * (2 * blocks - 1) + diagonal + blocks - 1
    scratch += program * 2 * BM * BM
    a, r = tl.arange(0, BM), tl.arange(0, W)
    head_key_table = key_table + h * D if key_table is not None else None
    head_query_table = query_table + h * D if query_table is not None else None
    acc = tl.zeros([W, D], tl.float32)
    for row in range(share, batches, tl.num_programs(2)):
        head = row * H + h
        batch = (head // H).to(tl.int64)
        base = qkv + batch * length * 3 * H * D + h * D
        row_documents = document_ids + batch * length if document_ids is not None else None
        rng_key0, rng_key1 = 0, 0
        if THRESHOLD is not None:
            rng_key0, rng_key1 = rng_keys(seed, head)
        for block in range(tl.maximum(diagonal, 0), tl.minimum(blocks, blocks + diagonal)):
            i0, j0 = block * BM, (block - diagonal) * BM
            i, j = i0 + a, j0 + a
            q = load_rows(base, i, length, 3 * H * D, D)
            k = load_rows(base + H * D, j, length, 3 * H * D, D)
            v = load_rows(base + 2 * H * D, j, length, 3 * H * D, D)
            upstream = load_rows(grad_out + batch * length * H * D + h * D, i, length, H * D, D)
            row_lse = tl.load(lse + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            row_delta = tl.load(delta + head.to(tl.int64) * length + i, mask=i < length, other=0.0)
            _, grad_scores = _weights_and_gradient(
                q, k, v, upstream, row_lse, row_delta, head_key_table, head_query_table, bucket_ids, row_documents, scratch, rng_key0,
                rng_key1, i0, j0, length,
                key_stride, query_stride, exponent_scale, keep_scale, D, BM, BM, W, THRESHOLD, RAGGED,
            )  # fmt: skip
            grad_scores = grad_scores.to(q.dtype)
            transposed = tl.trans(grad_scores) if OF_QUERIES else grad_scores
            tl.store(scratch + a[:, None] * BM + a[None, :], transposed)
            # The skewed load below reads elements that other threads stored.
            tl.debug_barrier()
            column = a[:, None] - (BM - 1) + r[None, :] if OF_QUERIES else a[:, None] + (BM - 1) - r[None, :]
            in_bounds = (column >= 0) & (column < BM)
            skewed = tl.load(scratch + a[:, None] * BM + column, mask=in_bounds, other=0.0)
            acc += tl.dot(tl.trans(skewed), k if OF_QUERIES else q, input_precision=PRECISION)
            # The next tile of the diagonal stores into the same scratch.
            tl.debug_barrier()
    offsets = program * W * D + r[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(sums + offsets, acc * scale)
