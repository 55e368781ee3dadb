"""Disentangled attention one head at a time: the tables of a head stay in the processor's cache, and backward makes them again.

Works on any device and in any floating dtype; the way for CPUs, and elsewhere for what has no kernel.
"""

from dataclasses import dataclass

import torch

from jadeberta.model.attention.dropout import KeepMask
from jadeberta.model.attention.relative_positions import rows_by_distance, skewed, sum_by_row


@dataclass(frozen=True)
class Inputs:
    """What both passes take."""

    qkv: torch.Tensor  # [B, S, 3, H, D]
    position_keys: torch.Tensor | None  # [rows, H, D], projected; None: no content-to-position term
    position_queries: torch.Tensor | None  # [rows, H, D]; None: no position-to-content term
    slots: torch.Tensor  # int64 [2 * S - 1], of distance_slots
    documents: torch.Tensor | None  # [B, S]: tokens of equal numbers see each other; None: all do
    seed: int  # of the dropout
    dropout: float
    scale: float  # of the scores


def forward(inputs: Inputs) -> torch.Tensor:
    """Context of each token, [B, S, H, D]."""
    batch, length, _, heads, size = inputs.qkv.shape
    out = inputs.qkv.new_empty(batch, length, heads, size)
    head = _Head(inputs)
    context = inputs.qkv.new_empty(length, size)
    for b in range(batch):
        head.enter_row(b)
        for h in range(heads):
            head.load(b, h)
            kept = head.drop(head.weights())
            torch.addmm(context, kept, head.v, beta=0, alpha=head.keep_scale, out=context)
            out[b, :, h] = context
    return out


def backward(inputs: Inputs, grad_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of qkv and the two position tables for `grad_out` [B, S, H, D]."""
    batch, length, _, heads, size = inputs.qkv.shape
    grad = torch.empty_like(inputs.qkv, memory_format=torch.contiguous_format)
    head = _Head(inputs)
    # Sums over a whole batch of rows are kept in fp32 where the dtype is narrower.
    wide = torch.promote_types(inputs.qkv.dtype, torch.float32)
    grad_keys = None if head.keys is None else torch.zeros_like(head.keys, dtype=wide)
    grad_queries = None if head.queries is None else torch.zeros_like(head.queries, dtype=wide)
    new = inputs.qkv.new_empty
    upstream, grad_q, grad_k, grad_v = (new(length, size) for _ in range(4))
    grad_weights, grad_scores, turned = (new(length, length) for _ in range(3))
    for b in range(batch):
        head.enter_row(b)
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
                turned.copy_(grad_scores.t())
                head.band_view.copy_(turned)
                grad_k.addmm_(head.band, head.queries[h])
                grad_queries[h] += head.band.t() @ head.k
            for place, part in enumerate((grad_q, grad_k, grad_v)):
                grad[b, :, place, h] = part
    return grad, head.fold(grad_keys, inputs.position_keys, True), head.fold(grad_queries, inputs.position_queries, False)


class _Head:
    """Buffers for one head's [S, S] tables, and the forward sums that both passes make."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        _, length, _, self.heads, size = inputs.qkv.shape
        new = inputs.qkv.new_empty
        self.q, self.k, self.v = (new(length, size) for _ in range(3))
        self.scores, self.turned, self.by_distance = new(length, length), new(length, length), new(length, 2 * length)
        # Outside its slanted part the band stays zero from head to head.
        self.band = inputs.qkv.new_zeros(length, 2 * length)
        self.band_view = skewed(self.band)
        # The scale sits in the small tables; contiguous, for each head is multiplied many times.
        self.keys, self.queries = (
            None if table is None else (rows_by_distance(table, inputs.slots, falling) * inputs.scale).contiguous()
            for table, falling in ((inputs.position_keys, True), (inputs.position_queries, False))
        )
        self.keep = KeepMask(length, inputs.dropout, inputs.qkv.dtype, inputs.qkv.device)
        self.keep_scale = self.keep.scale
        self.mask: torch.Tensor | None = None
        self._forbidden: torch.Tensor | None = None

    def enter_row(self, b: int) -> None:
        if self.inputs.documents is not None:
            documents = self.inputs.documents[b]
            self._forbidden = documents[:, None] != documents[None, :]

    def load(self, b: int, h: int) -> None:
        """Makes a head the current one, and its dropout mask."""
        for place, part in enumerate((self.q, self.k, self.v)):
            part.copy_(self.inputs.qkv[b, :, place, h])
        self._number = h
        self.mask = self.keep.make(self.inputs.seed, b * self.heads + h) if self.inputs.dropout > 0 else None

    def weights(self) -> torch.Tensor:
        """Softmax of the scores, before dropout, [S, S]; in a buffer."""
        scores, filled = self.scores, False
        if self.queries is not None:
            torch.mm(self.k, self.queries[self._number].t(), out=self.by_distance)
            self.turned.copy_(skewed(self.by_distance))  # contiguous first: turning it is then a copy in blocks
            scores.copy_(self.turned.t())
            filled = True
        if self.keys is not None:
            torch.mm(self.q, self.keys[self._number].t(), out=self.by_distance)
            view = skewed(self.by_distance)
            scores = scores.add_(view) if filled else scores.copy_(view)
            filled = True
        torch.addmm(scores, self.q, self.k.t(), beta=int(filled), alpha=self.inputs.scale, out=scores)
        if self._forbidden is not None:
            # A finite minimum, as in Hugging Face's; each token sees at least itself.
            scores.masked_fill_(self._forbidden, torch.finfo(scores.dtype).min)
        return torch._softmax(scores, -1, False, out=scores)

    def drop(self, weights: torch.Tensor) -> torch.Tensor:
        """Zeroes the dropped weights, in place, without the scale."""
        return weights if self.mask is None else self.keep.apply_(weights, self.mask)

    def fold(self, gradient: torch.Tensor | None, table: torch.Tensor | None, falling: bool) -> torch.Tensor | None:
        """From distances back to the rows of the table."""
        if gradient is None or table is None:
            return None
        return sum_by_row(gradient * self.inputs.scale, self.inputs.slots, falling, table.shape[0]).to(table.dtype)
