"""Kernel form "tables": position scores, and in backward the gradient of the scores, are written once and read as plain tiles.

They are written to scratch for a chunk of a few rows of the batch at a time, small enough to stay in the L2 cache, or of a few heads where
a row is too long for that. Launches the kernels of `tables_kernels`, chunk by chunk.
"""

from collections.abc import Iterator
from typing import NamedTuple

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
PROGRAM_ROWS = 64
"""Queries or keys of one program, about; decides how many heads of a long row keep every multiprocessor busy."""


def forward(args: KernelArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [B, S, H, D], and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S]."""
    batch, length, heads, size = args.shape
    out = args.qkv.new_empty(batch, length, heads, size)
    lse = args.qkv.new_empty(batch, heads, length, dtype=torch.float32)
    chunks = _Chunks(args)
    for chunk in chunks:
        chunks.build(chunk)
        chunks.run_score_kernel(tables_forward, "forward", chunk, out[chunk.rows, :, chunk.heads], lse[chunk.rows, chunk.heads])
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
        rows, some = chunk
        chunk_grad = grad[rows, :, :, some]
        tensors = (grad_out[rows, :, some], lse[rows, some], delta[rows, some], chunk_grad)
        chunks.run_score_kernel(tables_scores_backward, "scores_backward", chunk, *tensors)
        chunks.differentiate(chunk, chunk_grad, sums[:, some])
    grad_keys, grad_queries = (
        None if t is None else sum_distances_by_bucket(s * args.scale, args.bucket_ids, False, t.shape[0]).to(t.dtype)
        for s, t in zip(sums, (args.position_keys, args.position_queries), strict=True)
    )
    return grad, grad_keys, grad_queries


def rows_at_once(args: KernelArguments) -> int:
    """The rows of the batch in one chunk: as many as the scratch size of the table of tiles allows, at least one."""
    batch, _, heads, _ = args.shape
    return min(batch, max(1, _scratch_bytes(args) // (heads * bytes_per_head(args))))


def heads_at_once(args: KernelArguments) -> int:
    """The heads in one chunk: all where a row fits into the scratch, else as many as fit or as keep every multiprocessor busy."""
    _, length, heads, _ = args.shape
    fit = _scratch_bytes(args) // bytes_per_head(args)
    return min(heads, max(1, fit, triton.cdiv(args.processors * PROGRAM_ROWS, length)))


def bytes_per_head(args: KernelArguments) -> int:
    """Bytes of scratch of one head of one row."""
    length = args.shape[1]
    return 2 * length * pitch_of(length) * args.qkv.element_size()


def _scratch_bytes(args: KernelArguments) -> int:
    return tiles.scratch_bytes(args.qkv.dtype, args.shape[3], args.capability)


def pitch_of(length: int) -> int:
    """Row stride of the scratch in elements, for rows of `length` tokens."""
    return triton.cdiv(length, ALIGNMENT) * ALIGNMENT


class _Chunk(NamedTuple):
    """Whole rows of the batch, or some heads of one row.

    The kernels count rows and heads from the pointers that they get. With some heads of one row all pointers start at the first of these,
    and the strides between tokens stay those of all heads.
    """

    rows: slice
    heads: slice

    @property
    def number(self) -> int:
        """Heads of all its rows."""
        return (self.rows.stop - self.rows.start) * (self.heads.stop - self.heads.start)


class _Chunks:
    """The batch in chunks, and the scratch that they share."""

    def __init__(self, args: KernelArguments) -> None:
        _, self.length, self.heads, self.size = args.shape
        self.args, self.pitch = args, pitch_of(self.length)
        self.rows = rows_at_once(args)
        self.some_heads = self.heads if self.rows > 1 else heads_at_once(args)
        self.scratch = args.qkv.new_empty(2, self.rows, self.some_heads, self.length, self.pitch)
        tables = (args.position_keys, args.position_queries)
        self.terms = tuple(t is not None for t in tables)
        # A kernel takes two pointers. If a term is not used, the other's table is passed in its place and is not read.
        present = [t for t in tables if t is not None]
        self.tables = tuple((present[0] if t is None else t) if present else None for t in tables)
        self.strides = tuple(0 if t is None else t.stride(0) for t in self.tables)

    def __iter__(self) -> Iterator[_Chunk]:
        batch = self.args.shape[0]
        rows = (slice(b, min(b + self.rows, batch)) for b in range(0, batch, self.rows))
        step = self.some_heads
        return (_Chunk(r, slice(h, min(h + step, self.heads))) for r in rows for h in range(0, self.heads, step))

    def _tables_of(self, chunk: _Chunk) -> tuple[torch.Tensor | None, ...]:
        return tuple(None if t is None else t[:, chunk.heads] for t in self.tables)

    def build(self, chunk: _Chunk) -> None:
        """Writes the position scores of a chunk to scratch."""
        if not any(self.terms):
            return
        tile, options = self._launch_options("build")
        tables_build[self._grid(tile.block_m, chunk, sum(self.terms))](
            self.args.qkv[chunk.rows, :, :, chunk.heads], *self._tables_of(chunk), self.args.bucket_ids, self.scratch,
            self.length, self.pitch, self.scratch.stride(0), *self.strides, self.size, self.heads,
            self.terms.index(True), tile.block_m, tile.block_n, **options,
        )  # fmt: skip

    def run_score_kernel(self, kernel, name: str, chunk: _Chunk, *tensors: torch.Tensor) -> None:
        """Launches one of the two kernels that compute the weights of a chunk.

        Args:
            kernel: tables_forward or tables_scores_backward.
            name: of its tile in the table of tiles.
            chunk: what to compute.
            tensors: further inputs and outputs, of the same rows and heads.
        """
        args = self.args
        tile, options = self._launch_options(name)
        rows = tile.block_m if name == "forward" else tile.block_n
        ragged = self.length % tile.block_m > 0 or self.length % tile.block_n > 0
        document_ids = None if args.document_ids is None else args.document_ids[chunk.rows]
        kernel[self._grid(rows, chunk, 1)](
            args.qkv[chunk.rows, :, :, chunk.heads], self.scratch, document_ids, args.seed, *tensors,
            chunk.rows.start * self.heads + chunk.heads.start, self.length, self.pitch, self.scratch.stride(0),
            args.exponent_scale, args.keep_scale, self.size, self.heads, tile.block_m, tile.block_n, args.threshold, ragged,
            *self.terms, **options,
        )  # fmt: skip

    def differentiate(self, chunk: _Chunk, grad: torch.Tensor, sums: torch.Tensor) -> None:
        """Computes the gradients of q and k from those of a chunk's scores, and adds to the sums of the tables by distance."""
        qkv, side_stride = self.args.qkv[chunk.rows, :, :, chunk.heads], self.scratch.stride(0)
        tile, options = self._launch_options("grad_side")
        tables_grad_side[self._grid(tile.block_m, chunk, 2)](
            self.scratch, qkv, *self._tables_of(chunk), self.args.bucket_ids, grad, self.length, self.pitch, side_stride, *self.strides,
            self.args.scale, self.size, self.heads, tile.block_m, tile.block_n, *self.terms, **options,
        )  # fmt: skip
        if any(self.terms):
            tile, options = self._launch_options("grad_table")
            some = chunk.heads.stop - chunk.heads.start
            tables_grad_table[triton.cdiv(2 * self.length, tile.block_n), some, sum(self.terms)](
                self.scratch, qkv, sums, qkv.shape[0], self.length, self.pitch, side_stride, self.size, self.heads,
                self.terms.index(True), tile.block_m, tile.block_n, **options,
            )  # fmt: skip

    def _grid(self, rows: int, chunk: _Chunk, sides: int) -> tuple[int, int, int]:
        """The launch grid: blocks of `rows` rows, heads of the chunk, sides."""
        return triton.cdiv(self.length, rows), chunk.number, sides

    def _launch_options(self, kernel: str) -> tuple[tiles.Tile, dict[str, int | bool]]:
        """The tile of a kernel and its launch options."""
        tile = tiles.tile_for("tables", kernel, self.args.qkv.dtype, self.size, self.args.capability)
        return tile, {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
