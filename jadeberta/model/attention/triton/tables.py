"""Kernel form "tables": position scores, and in backward the gradient of the scores, are written once and read as plain tiles.

They are written to scratch for a chunk of a few rows of the batch at a time, small enough to stay in the L2 cache. Launches the kernels of
`tables_kernels`, chunk by chunk.
"""

import torch
import triton

from jadeberta.model.attention.relative_positions import sum_distances_by_bucket
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import KernelArguments
from jadeberta.model.attention.triton.common import compute_delta
from jadeberta.model.attention.triton.tables_kernels import (
    tables_build,
    tables_forward,
    tables_grad_side,
    tables_grad_table,
    tables_scores_backward,
)

ALIGNMENT = 16
"""Rows of scratch start at multiples of this many elements, so that tiles are loaded with wide instructions."""


def forward(args: KernelArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [B, S, H, D], and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S]."""
    batch, length, heads, size = args.shape
    out = args.qkv.new_empty(batch, length, heads, size)
    lse = args.qkv.new_empty(batch, heads, length, dtype=torch.float32)
    chunks = _Chunks(args)
    for chunk in chunks:
        chunks.build(chunk)
        chunks.run_score_kernel(tables_forward, "forward", chunk, out[chunk], lse[chunk])
    return out, lse


def backward(
    args: KernelArguments, grad_out: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of qkv [B, S, 3, H, D] and the two position tables [rows, H, D]; None for a table that is not used.

    Args:
        args: of the forward pass.
        grad_out: gradient of the context, [B, S, H, D].
        out: the context.
        lse: log-sum-exp of the forward pass, fp32 [B, H, S].
    """
    _, length, heads, size = args.shape
    grad_out = grad_out.contiguous()
    delta = compute_delta(args, grad_out, out)
    grad = torch.empty_like(args.qkv)
    sums = args.qkv.new_zeros(2, heads, 2 * length, size, dtype=torch.float32)
    chunks = _Chunks(args)
    for chunk in chunks:
        chunks.build(chunk)
        tensors = (grad_out[chunk], lse[chunk], delta[chunk], grad[chunk])
        chunks.run_score_kernel(tables_scores_backward, "scores_backward", chunk, *tensors)
        chunks.differentiate(chunk, grad[chunk], sums)
    grad_keys, grad_queries = (
        None if t is None else sum_distances_by_bucket(s * args.scale, args.bucket_ids, False, t.shape[0]).to(t.dtype)
        for s, t in zip(sums, (args.position_keys, args.position_queries), strict=True)
    )
    return grad, grad_keys, grad_queries


def rows_at_once(args: KernelArguments) -> int:
    """The rows of the batch in one chunk: as many as the scratch size of the table of tiles allows, at least one."""
    batch, length, heads, size = args.shape
    bytes_per_row = 2 * heads * length * pitch_of(length) * args.qkv.element_size()
    return min(batch, max(1, tiles.scratch_bytes(args.qkv.dtype, size, args.capability) // bytes_per_row))


def pitch_of(length: int) -> int:
    """Row stride of the scratch in elements, for rows of `length` tokens."""
    return triton.cdiv(length, ALIGNMENT) * ALIGNMENT


class _Chunks:
    """The batch in chunks of a few rows, each a slice, and the scratch that they share."""

    def __init__(self, args: KernelArguments) -> None:
        _, self.length, self.heads, self.size = args.shape
        self.args, self.pitch = args, pitch_of(self.length)
        self.rows = rows_at_once(args)
        self.scratch = args.qkv.new_empty(2, self.rows, self.heads, self.length, self.pitch)
        tables = (args.position_keys, args.position_queries)
        self.terms = tuple(t is not None for t in tables)
        # A kernel takes two pointers. If a term is not used, the other's table is passed in its place and is not read.
        present = [t for t in tables if t is not None]
        self.tables = tuple((present[0] if t is None else t) if present else None for t in tables)
        self.strides = tuple(0 if t is None else t.stride(0) for t in self.tables)

    def __iter__(self):
        batch = self.args.shape[0]
        return iter(slice(b, min(b + self.rows, batch)) for b in range(0, batch, self.rows))

    def build(self, chunk: slice) -> None:
        """Writes the position scores of a chunk to scratch."""
        if not any(self.terms):
            return
        tile, options = self._launch_options("build")
        tables_build[self._grid(tile.block_m, chunk, sum(self.terms))](
            self.args.qkv[chunk], *self.tables, self.args.bucket_ids, self.scratch, self.length, self.pitch, self.scratch.stride(0),
            *self.strides, self.size, self.heads, self.terms.index(True), tile.block_m, tile.block_n, **options,
        )  # fmt: skip

    def run_score_kernel(self, kernel, name: str, chunk: slice, *tensors: torch.Tensor) -> None:
        """Launches one of the two kernels that compute the weights of a chunk.

        Args:
            kernel: tables_forward or tables_scores_backward.
            name: of its tile in the table of tiles.
            chunk: rows of the batch.
            tensors: further inputs and outputs, of the same rows.
        """
        args = self.args
        tile, options = self._launch_options(name)
        rows = tile.block_m if name == "forward" else tile.block_n
        ragged = self.length % tile.block_m > 0 or self.length % tile.block_n > 0
        document_ids = None if args.document_ids is None else args.document_ids[chunk]
        kernel[self._grid(rows, chunk, 1)](
            args.qkv[chunk], self.scratch, document_ids, args.seed, *tensors, chunk.start * self.heads, self.length, self.pitch,
            self.scratch.stride(0), args.exponent_scale, args.keep_scale, self.size, self.heads, tile.block_m, tile.block_n, args.threshold,
            ragged, *self.terms, **options,
        )  # fmt: skip

    def differentiate(self, chunk: slice, grad: torch.Tensor, sums: torch.Tensor) -> None:
        """Computes the gradients of q and k from those of a chunk's scores, and adds to the sums of the tables by distance."""
        qkv, side_stride = self.args.qkv[chunk], self.scratch.stride(0)
        tile, options = self._launch_options("grad_side")
        tables_grad_side[self._grid(tile.block_m, chunk, 2)](
            self.scratch, qkv, *self.tables, self.args.bucket_ids, grad, self.length, self.pitch, side_stride, *self.strides,
            self.args.scale, self.size, self.heads, tile.block_m, tile.block_n, *self.terms, **options,
        )  # fmt: skip
        if any(self.terms):
            tile, options = self._launch_options("grad_table")
            tables_grad_table[triton.cdiv(2 * self.length, tile.block_n), self.heads, sum(self.terms)](
                self.scratch, qkv, sums, qkv.shape[0], self.length, self.pitch, side_stride, self.size, self.heads,
                self.terms.index(True), tile.block_m, tile.block_n, **options,
            )  # fmt: skip

    def _grid(self, rows: int, chunk: slice, sides: int) -> tuple[int, int, int]:
        """The launch grid: blocks of `rows` rows, heads of the chunk, sides."""
        return triton.cdiv(self.length, rows), (chunk.stop - chunk.start) * self.heads, sides

    def _launch_options(self, kernel: str) -> tuple[tiles.Tile, dict[str, int | bool]]:
        """The tile of a kernel and its launch options."""
        tile = tiles.tile_for("tables", kernel, self.args.qkv.dtype, self.size, self.args.capability)
        return tile, {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
