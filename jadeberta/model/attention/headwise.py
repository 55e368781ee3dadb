"""Disentangled attention one head at a time: the [S, S] scores of a head stay in the processor's cache, and backward recomputes them.

Works in any floating dtype. Used on CPUs.
"""

import torch

from jadeberta.model.attention.dropout import DropoutMask
from jadeberta.model.attention.inputs import AttentionInputs
from jadeberta.model.attention.relative_positions import skewed, sum_distances_by_bucket, table_by_distance


def forward(inputs: AttentionInputs) -> torch.Tensor:
    """The context of each token, [B, S, H, D]."""
    batch, length, _, heads, size = inputs.qkv.shape
    out = inputs.qkv.new_empty(batch, length, heads, size)
    head = _Head(inputs)
    context = inputs.qkv.new_empty(length, size)
    for b in range(batch):
        head.select_row(b)
        for h in range(heads):
            head.load(b, h)
            kept = head.drop(head.weights())
            torch.addmm(context, kept, head.v, beta=0, alpha=head.keep_scale, out=context)
            out[b, :, h] = context
    return out


def backward(inputs: AttentionInputs, grad_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of qkv [B, S, 3, H, D] and the two position tables [rows, H, D] for `grad_out` [B, S, H, D]."""
    batch, length, _, heads, size = inputs.qkv.shape
    grad = torch.empty_like(inputs.qkv, memory_format=torch.contiguous_format)
    head = _Head(inputs)
    # Sums over all rows of the batch are accumulated in fp32 if the dtype is narrower.
    wide = torch.promote_types(inputs.qkv.dtype, torch.float32)
    grad_keys = None if head.keys is None else torch.zeros_like(head.keys, dtype=wide)
    grad_queries = None if head.queries is None else torch.zeros_like(head.queries, dtype=wide)
    new = inputs.qkv.new_empty
    upstream, grad_q, grad_k, grad_v = (new(length, size) for _ in range(4))
    grad_weights, grad_scores, transposed = (new(length, length) for _ in range(3))
    for b in range(batch):
        head.select_row(b)
        for h in range(heads):
            head.load(b, h)
            upstream.copy_(grad_out[b, :, h])
            weights = head.weights()
            torch.addmm(grad_weights, upstream, head.v.t(), beta=0, alpha=head.keep_scale, out=grad_weights)
            mask = head.mask
            if mask is not None:
                head.keep.apply_(grad_weights, mask)
            torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype, grad_input=grad_scores)
            torch.addmm(grad_v, head.drop(weights).t(), upstream, beta=0, alpha=head.keep_scale, out=grad_v)
            torch.addmm(grad_q, grad_scores, head.k, beta=0, alpha=inputs.scale, out=grad_q)
            torch.addmm(grad_k, grad_scores.t(), head.q, beta=0, alpha=inputs.scale, out=grad_k)
            if grad_keys is not None and head.keys is not None:
                head.band_view.copy_(grad_scores)
                grad_q.addmm_(head.band, head.keys[h])
                grad_keys[h] += head.band.t() @ head.q
            if grad_queries is not None and head.queries is not None:
                transposed.copy_(grad_scores.t())
                head.band_view.copy_(transposed)
                grad_k.addmm_(head.band, head.queries[h])
                grad_queries[h] += head.band.t() @ head.k
            for index, part in enumerate((grad_q, grad_k, grad_v)):
                grad[b, :, index, h] = part
    return (
        grad,
        head.table_gradient(grad_keys, inputs.position_keys, True),
        head.table_gradient(grad_queries, inputs.position_queries, False),
    )


class _Head:
    """Buffers for the [S, S] scores of one head, and the forward computation that both passes share."""

    def __init__(self, inputs: AttentionInputs) -> None:
        self.inputs = inputs
        _, length, _, self.heads, size = inputs.qkv.shape
        new = inputs.qkv.new_empty
        self.q, self.k, self.v = (new(length, size) for _ in range(3))
        self.scores, self.transposed, self.by_distance = new(length, length), new(length, length), new(length, 2 * length)
        # Outside the skewed view the band stays zero from head to head.
        self.band = inputs.qkv.new_zeros(length, 2 * length)
        self.band_view = skewed(self.band)
        # The scale is applied to the small tables, not to the scores. Contiguous, because each head is multiplied many times.
        self.keys, self.queries = (
            None if table is None else (table_by_distance(table, inputs.bucket_ids, descending) * inputs.scale).contiguous()
            for table, descending in ((inputs.position_keys, True), (inputs.position_queries, False))
        )
        self.keep = DropoutMask(length, inputs.dropout, inputs.qkv.dtype, inputs.qkv.device)
        self.keep_scale = self.keep.scale
        self._seed = int(inputs.seed.item())
        self.mask: torch.Tensor | None = None
        self._masked: torch.Tensor | None = None

    def select_row(self, b: int) -> None:
        """Makes row b of the batch the current one."""
        if self.inputs.document_ids is not None:
            document_ids = self.inputs.document_ids[b]
            self._masked = document_ids[:, None] != document_ids[None, :]

    def load(self, b: int, h: int) -> None:
        """Copies head h of row b into the buffers and computes its dropout mask."""
        for index, part in enumerate((self.q, self.k, self.v)):
            part.copy_(self.inputs.qkv[b, :, index, h])
        self._number = h
        self.mask = self.keep.make(self._seed, b * self.heads + h) if self.inputs.dropout > 0 else None

    def weights(self) -> torch.Tensor:
        """Softmax of the scores before dropout, [S, S]; a buffer that the next call overwrites."""
        scores, filled = self.scores, False
        if self.queries is not None:
            torch.mm(self.k, self.queries[self._number].t(), out=self.by_distance)
            self.transposed.copy_(skewed(self.by_distance))  # contiguous first: the transposition is then a copy in blocks
            scores.copy_(self.transposed.t())
            filled = True
        if self.keys is not None:
            torch.mm(self.q, self.keys[self._number].t(), out=self.by_distance)
            view = skewed(self.by_distance)
            scores = scores.add_(view) if filled else scores.copy_(view)
            filled = True
        torch.addmm(scores, self.q, self.k.t(), beta=int(filled), alpha=self.inputs.scale, out=scores)
        if self._masked is not None:
            # A finite minimum, as in Hugging Face's model; each token attends at least to itself.
            scores.masked_fill_(self._masked, torch.finfo(scores.dtype).min)
        return torch._softmax(scores, -1, False, out=scores)

    def drop(self, weights: torch.Tensor) -> torch.Tensor:
        """Zeroes the dropped weights in place, without the factor 1 / (1 - p)."""
        return weights if self.mask is None else self.keep.apply_(weights, self.mask)

    def table_gradient(self, gradient: torch.Tensor | None, table: torch.Tensor | None, descending: bool) -> torch.Tensor | None:
        """The gradient of a position table [rows, H, D] from sums by distance [H, 2 * S, D]; None without the term."""
        if gradient is None or table is None:
            return None
        return sum_distances_by_bucket(gradient * self.inputs.scale, self.inputs.bucket_ids, descending, table.shape[0]).to(
            table.dtype
        )
