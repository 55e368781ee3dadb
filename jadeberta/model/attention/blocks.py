"""Disentangled attention in blocks of queries: memory grows with S, not with S squared, forward and backward.

For long rows, where the other implementations would hold scores [S, S]. Backward computes the weights of a block again; the dropout mask
is that of `dropout`, bit for bit. Works on any device and in any floating dtype, without atomics and without a wait for the device.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from jadeberta.model.attention.dropout import dropped_weights, rng_keys_of
from jadeberta.model.attention.inputs import AttentionInputs
from jadeberta.model.attention.relative_positions import skewed, sum_distances_by_bucket, table_by_distance

LONG_ROW = 1024
"""Rows beyond this many tokens are computed here; up to it, whole [S, S] scores of a head are small and faster."""
BLOCK_SCORES = LONG_ROW * LONG_ROW
"""Scores of one head in a block, at most: as many as the longest row of the other implementations has."""


def groups(inputs: AttentionInputs) -> Iterator[tuple[int, slice]]:
    """Row of the batch and heads that are computed together: on a CPU one head, whose block stays in the cache; else all."""
    batch, _, _, heads, _ = inputs.qkv.shape
    together = 1 if inputs.qkv.device.type == "cpu" else heads
    return ((b, slice(h, h + together)) for b in range(batch) for h in range(0, heads, together))


def forward(inputs: AttentionInputs) -> torch.Tensor:
    """The context of each token, [B, S, H, D]."""
    batch, length, _, heads, size = inputs.qkv.shape
    out = inputs.qkv.new_empty(batch, length, heads, size)
    for b, chosen in groups(inputs):
        group = _Group(inputs, b, chosen)
        for block in group.blocks():
            weights = group.weights(block)
            group.drop(weights, block)
            out[b, block, chosen] = (torch.bmm(weights, group.v) * group.keep_scale).transpose(0, 1)
    return out


def backward(inputs: AttentionInputs, grad_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of qkv [B, S, 3, H, D] and the two position tables [rows, H, D] for `grad_out` [B, S, H, D]."""
    qkv, scale = inputs.qkv, inputs.scale
    # Sums over blocks and rows of the batch are accumulated in fp32 if the dtype is narrower.
    wide = torch.promote_types(qkv.dtype, torch.float32)
    grad = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    by_query, by_key = _BandByQuery(inputs, wide), _BandByKey(inputs, wide)
    for b, chosen in groups(inputs):
        group = _Group(inputs, b, chosen)
        grad_k, grad_v = torch.zeros_like(group.k, dtype=wide), torch.zeros_like(group.v, dtype=wide)
        by_query.select(group, chosen)
        by_key.select(group, chosen)
        for block in group.blocks():
            q = group.q[:, block]
            upstream = grad_out[b, block, chosen].transpose(0, 1).contiguous()  # [G, Q, D]
            weights = group.weights(block)
            grad_weights = torch.bmm(upstream, group.v.transpose(1, 2)).mul_(group.keep_scale)
            dropped = group.dropped(block)
            if dropped is not None:
                grad_weights.masked_fill_(dropped, 0)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            if dropped is not None:
                weights.masked_fill_(dropped, 0)
            grad_v += torch.bmm(weights.transpose(1, 2), upstream) * group.keep_scale
            del weights, grad_weights, dropped
            grad_q = torch.bmm(grad_scores, group.k).mul_(scale)
            grad_k += torch.bmm(grad_scores.transpose(1, 2), q) * scale
            if by_query.used:
                grad_q += by_query.add(grad_scores, q, block)
            if by_key.used:
                grad_k += by_key.add(grad_scores, group.k, block)
            grad[b, block, 0, chosen] = grad_q.transpose(0, 1)
        for index, part in ((1, grad_k), (2, grad_v)):
            grad[b, :, index, chosen] = part.transpose(0, 1)
    return grad, by_query.table_gradient(), by_key.table_gradient()


class _Group:
    """Some heads of one row of the batch, and the forward computation that both passes share. G is their number, Q a block's queries."""

    def __init__(self, inputs: AttentionInputs, b: int, heads: slice) -> None:
        self.inputs = inputs
        self.length = inputs.qkv.shape[1]
        self.q, self.k, self.v = inputs.qkv[b, :, :, heads].permute(1, 2, 0, 3).contiguous().unbind(0)  # [G, S, D] each
        self.keep_scale = 1 / (1 - inputs.dropout)
        # The scale is applied to the small tables, not to the scores.
        self.key_table, self.query_scores = None, None
        if inputs.position_keys is not None:
            self.key_table = (inputs.position_keys[:, heads] * inputs.scale).permute(1, 2, 0)  # [G, D, rows]
        if inputs.position_queries is not None:
            table = (inputs.position_queries[:, heads] * inputs.scale).transpose(0, 1)
            self.query_scores = torch.bmm(table, self.k.transpose(1, 2))  # [G, rows, S]
        self.documents = None if inputs.document_ids is None else inputs.document_ids[b]
        device = self.q.device
        self.places = torch.arange(self.length, device=device)
        if inputs.dropout:
            heads_in_all = inputs.qkv.shape[3]
            self.keys = rng_keys_of(
                inputs.seed.to(device), b * heads_in_all + torch.arange(heads.start, heads.stop, device=device)
            )

    def blocks(self) -> Iterator[slice]:
        """The queries of the row, block after block."""
        edge = block_size(self.length)
        return (slice(i, min(i + edge, self.length)) for i in range(0, self.length, edge))

    def weights(self, block: slice) -> torch.Tensor:
        """Softmax of the scores of a block's queries before dropout, [G, Q, S]."""
        q, scores = self.q[:, block], None
        if self.key_table is not None or self.query_scores is not None:
            index = self.inputs.bucket_ids[self.places[block, None] - self.places[None, :] + self.length - 1]
            index = index.expand(len(q), -1, -1)  # [G, Q, S]
            if self.key_table is not None:
                scores = torch.gather(torch.bmm(q, self.key_table), 2, index)
            if self.query_scores is not None:
                by_key = torch.gather(self.query_scores, 1, index)
                scores = by_key if scores is None else scores.add_(by_key)
                del by_key
            del index
        keys = self.k.transpose(1, 2)
        scale = self.inputs.scale
        scores = torch.bmm(q, keys).mul_(scale) if scores is None else scores.baddbmm_(q, keys, alpha=scale)
        if self.documents is not None:
            # A finite minimum, as in Hugging Face's model; each token attends at least to itself.
            scores.masked_fill_(self.documents[block, None] != self.documents[None, :], torch.finfo(scores.dtype).min)
        return torch._softmax(scores, -1, False, out=scores)

    def dropped(self, block: slice) -> torch.Tensor | None:
        """The weights of a block that dropout zeroes, bool [G, Q, S]; None without dropout."""
        if not self.inputs.dropout:
            return None
        return dropped_weights(*self.keys, self.places[block], self.length, self.inputs.dropout)

    def drop(self, weights: torch.Tensor, block: slice) -> None:
        """Zeroes the dropped weights in place, without the factor 1 / (1 - p)."""
        if (dropped := self.dropped(block)) is not None:
            weights.masked_fill_(dropped, 0)


class _BandByQuery:
    """The content-to-position term in backward: a block's gradient of the scores, laid out by distance with one row for each query."""

    def __init__(self, inputs: AttentionInputs, wide: torch.dtype) -> None:
        self.inputs, self.table = inputs, inputs.position_keys
        self.used = self.table is not None
        self._shape: tuple[int, ...] = ()
        if self.table is not None:
            # [H, 2 * S, D], distances descending
            self.by_distance = table_by_distance(self.table, inputs.bucket_ids, True) * inputs.scale
            self.sums = torch.zeros_like(self.by_distance, dtype=wide)

    def select(self, group: _Group, heads: slice) -> None:
        """Makes some heads the current ones."""
        self._length = group.length
        if self.used:
            self._by_distance, self._sums = self.by_distance[heads], self.sums[heads]

    def add(self, grad_scores: torch.Tensor, q: torch.Tensor, block: slice) -> torch.Tensor:
        """Adds to the table's gradient; returns the gradient of q through the term. grad_scores [G, Q, S], q and the result [G, Q, D]."""
        group, queries, length = grad_scores.shape
        if self._shape != grad_scores.shape:
            # Outside the skewed view the band stays zero from block to block.
            self._band, self._shape = grad_scores.new_zeros(group, queries, length + queries), grad_scores.shape
        skewed(self._band).copy_(grad_scores)
        start = length - block.start - queries
        window = slice(start, start + length + queries)
        self._sums[:, window] += torch.bmm(self._band.transpose(1, 2), q)
        return torch.bmm(self._band, self._by_distance[:, window])

    def table_gradient(self) -> torch.Tensor | None:
        """The gradient of the table, [rows, H, D]; None without the term."""
        if self.table is None:
            return None
        summed = sum_distances_by_bucket(self.sums * self.inputs.scale, self.inputs.bucket_ids, True, self.table.shape[0])
        return summed.to(self.table.dtype)


class _BandByKey:
    """The position-to-content term in backward: a block's gradient of the scores by distance, one row for each key.

    Keys go in N blocks of K, as many as a block has queries, so that a band is 2 K wide. The row is padded to N * K keys, and the table
    to distances -(N * K - 1) .. N * K + K, of which those beyond the row meet gradients of zero. Key blocks are taken from the last to
    the first: their windows of distances then follow one another.
    """

    def __init__(self, inputs: AttentionInputs, wide: torch.dtype) -> None:
        self.inputs, self.table = inputs, inputs.position_queries
        self.used = self.table is not None
        self._length = inputs.qkv.shape[1]
        self._edge = block_size(self._length)
        self._padded = -(-self._length // self._edge) * self._edge
        self._shape: tuple[int, ...] = ()
        if self.table is not None:
            distances = torch.arange(-(self._padded - 1), self._padded + self._edge + 1, device=self.table.device)
            ids = inputs.bucket_ids[distances.clamp(1 - self._length, self._length - 1) + self._length - 1]
            self.by_distance = (self.table[ids] * inputs.scale).transpose(0, 1)  # [H, 2 N K + K, D], ascending
            self.sums = torch.zeros_like(self.by_distance, dtype=wide, memory_format=torch.contiguous_format)

    def select(self, group: _Group, heads: slice) -> None:
        """Makes some heads the current ones."""
        if self.used:
            self._by_distance, self._sums = self.by_distance[heads], self.sums[heads]
            self._keys = self._by_block(group.k, 1).flip(1)  # [G, N, K, D], last keys first

    def _by_block(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """x with the keys of dimension `dim` padded by zeros and cut into blocks of K."""
        pad = [0, 0] * (x.dim() - 1 - dim) + [0, self._padded - self._length]
        return F.pad(x, pad).unflatten(dim, (-1, self._edge))

    def add(self, grad_scores: torch.Tensor, k: torch.Tensor, block: slice) -> torch.Tensor:
        """Adds to the table's gradient; returns the gradient of k through the term. grad_scores [G, Q, S], k and the result [G, S, D]."""
        group, queries, _ = grad_scores.shape
        edge, blocks, size = self._edge, self._padded // self._edge, k.shape[2]
        if self._shape != grad_scores.shape:
            self._band, self._shape = grad_scores.new_zeros(group, blocks, edge, edge + queries), grad_scores.shape
        skewed(self._band).copy_(self._by_block(grad_scores, 2).flip(2).permute(0, 2, 3, 1))
        band = self._band.flatten(0, 1)  # [G * N, K, K + Q]
        start = block.start
        reached = self._by_distance[:, start : start + self._padded + queries]
        windows = reached.unfold(1, edge + queries, edge).transpose(2, 3)  # [G, N, K + Q, D]
        grad_k = torch.bmm(band, windows.reshape(-1, edge + queries, size)).unflatten(0, (group, blocks))
        sums = torch.bmm(band.transpose(1, 2), self._keys.flatten(0, 1)).unflatten(0, (group, blocks))
        # Neighbouring windows overlap in Q distances: the first K of each lie side by side, and so do the others.
        self._sums[:, start : start + self._padded] += sums[:, :, :edge].flatten(1, 2)
        later = self._sums[:, start + edge : start + edge + self._padded].unflatten(1, (blocks, edge))
        later[:, :, :queries] += sums[:, :, edge:]
        return grad_k.flip(1).flatten(1, 2)[:, : self._length]

    def table_gradient(self) -> torch.Tensor | None:
        """The gradient of the table, [rows, H, D]; None without the term."""
        if self.table is None:
            return None
        start = self._padded - self._length
        sums = self.sums[:, start : start + 2 * self._length] * self.inputs.scale
        return sum_distances_by_bucket(sums, self.inputs.bucket_ids, False, self.table.shape[0]).to(self.table.dtype)


def block_size(length: int) -> int:
    """Queries of a block for rows of `length` tokens."""
    return max(16, BLOCK_SCORES // length // 16 * 16)
