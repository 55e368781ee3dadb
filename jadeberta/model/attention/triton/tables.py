"""Form "tables": the position scores of a few rows of the batch are written once and read as plain tiles; so is the gradient of the scores.

What is written for a few rows is scratch, small enough to stay in the L2 cache, and is thrown away. The kernels lie in `tables_kernels`;
here they are launched, part of the batch by part.
"""

import torch
import triton

from jadeberta.model.attention.relative_positions import sum_by_row
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import Call
from jadeberta.model.attention.triton.common import delta_of
from jadeberta.model.attention.triton.tables_kernels import (
    tables_build,
    tables_forward,
    tables_grad_side,
    tables_grad_table,
    tables_scores_backward,
)

ALIGNMENT = 16
"""Rows of scratch start at multiples of so many elements, so that tiles are loaded in long words."""


def forward(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [B, S, H, D], and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S]."""
    batch, length, heads, size = call.shape
    out = call.qkv.new_empty(batch, length, heads, size)
    lse = call.qkv.new_empty(batch, heads, length, dtype=torch.float32)
    parts = _Parts(call)
    for few in parts:
        parts.build(few)
        parts.over_scores(tables_forward, "forward", few, out[few], lse[few])
    return out, lse


def backward(
    call: Call, grad_out: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of qkv and the two tables."""
    _, length, heads, size = call.shape
    grad_out = grad_out.contiguous()
    delta = delta_of(call, grad_out, out)
    grad = torch.empty_like(call.qkv)
    sums = call.qkv.new_zeros(2, heads, 2 * length, size, dtype=torch.float32)
    parts = _Parts(call)
    for few in parts:
        parts.build(few)
        parts.over_scores(tables_scores_backward, "scores_backward", few, grad_out[few], lse[few], delta[few], grad[few])
        parts.differentiate(few, grad[few], sums)
    first, second = (
        None if t is None else sum_by_row(s * call.scale, call.slots, False, t.shape[0]).to(t.dtype)
        for s, t in zip(sums, (call.position_keys, call.position_queries), strict=True)
    )
    return grad, first, second


def rows_at_once(call: Call) -> int:
    """How many rows of the batch scratch holds: as many as the table of tiles allows memory for, at least one."""
    batch, length, heads, size = call.shape
    each = 2 * heads * length * pitch_of(length) * call.qkv.element_size()
    return min(batch, max(1, tiles.scratch_bytes(call.qkv.dtype, size, call.capability) // each))


def pitch_of(length: int) -> int:
    """Elements from one row of scratch to the next."""
    return triton.cdiv(length, ALIGNMENT) * ALIGNMENT


class _Parts:
    """The batch cut into parts of a few rows, each a slice, with the scratch that they use in turn."""

    def __init__(self, call: Call) -> None:
        _, self.length, self.heads, self.size = call.shape
        self.call, self.pitch = call, pitch_of(self.length)
        self.rows = rows_at_once(call)
        self.scratch = call.qkv.new_empty(2, self.rows, self.heads, self.length, self.pitch)
        tables = (call.position_keys, call.position_queries)
        self.terms = tuple(t is not None for t in tables)
        # A kernel takes two pointers; where a term is not there, the other's table stands for it and is not read.
        present = [t for t in tables if t is not None]
        self.tables = tuple((present[0] if t is None else t) if present else None for t in tables)
        self.strides = tuple(0 if t is None else t.stride(0) for t in self.tables)

    def __iter__(self):
        batch = self.call.shape[0]
        return iter(slice(b, min(b + self.rows, batch)) for b in range(0, batch, self.rows))

    def build(self, few: slice) -> None:
        """Writes the position scores of a part."""
        if not any(self.terms):
            return
        tile, options = self._row("build")
        tables_build[self._grid(tile.block_m, few, sum(self.terms))](
            self.call.qkv[few], *self.tables, self.call.slots, self.scratch, self.length, self.pitch, self.scratch.stride(0),
            *self.strides, self.size, self.heads, self.terms.index(True), tile.block_m, tile.block_n, **options,
        )  # fmt: skip

    def over_scores(self, kernel, name: str, few: slice, *tensors: torch.Tensor) -> None:
        """Runs one of the two kernels that make the weights of a part."""
        call = self.call
        tile, options = self._row(name)
        owned = tile.block_m if name == "forward" else tile.block_n
        ragged = self.length % tile.block_m > 0 or self.length % tile.block_n > 0
        documents = None if call.documents is None else call.documents[few]
        kernel[self._grid(owned, few, 1)](
            call.qkv[few], self.scratch, documents, call.seed, *tensors, few.start * self.heads, self.length, self.pitch,
            self.scratch.stride(0), call.exponent_scale, call.keep_scale, self.size, self.heads, tile.block_m, tile.block_n, call.threshold,
            ragged, *self.terms, **options,
        )  # fmt: skip

    def differentiate(self, few: slice, grad: torch.Tensor, sums: torch.Tensor) -> None:
        """From the gradient of a part's scores to those of q and k, and into the sums of the tables by distance."""
        qkv, side_stride = self.call.qkv[few], self.scratch.stride(0)
        tile, options = self._row("grad_side")
        tables_grad_side[self._grid(tile.block_m, few, 2)](
            self.scratch, qkv, *self.tables, self.call.slots, grad, self.length, self.pitch, side_stride, *self.strides, self.call.scale,
            self.size, self.heads, tile.block_m, tile.block_n, *self.terms, **options,
        )  # fmt: skip
        if any(self.terms):
            tile, options = self._row("grad_table")
            tables_grad_table[triton.cdiv(2 * self.length, tile.block_n), self.heads, sum(self.terms)](
                self.scratch, qkv, sums, qkv.shape[0], self.length, self.pitch, side_stride, self.size, self.heads,
                self.terms.index(True), tile.block_m, tile.block_n, **options,
            )  # fmt: skip

    def _grid(self, owned: int, few: slice, sides: int) -> tuple[int, int, int]:
        """Blocks of `owned` rows of each head of a part."""
        return triton.cdiv(self.length, owned), (few.stop - few.start) * self.heads, sides

    def _row(self, kernel: str) -> tuple[tiles.Tile, dict[str, int | bool]]:
        """A kernel's tile and how it is launched."""
        tile = tiles.row("tables", kernel, self.call.qkv.dtype, self.size, self.call.capability)
        return tile, {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
