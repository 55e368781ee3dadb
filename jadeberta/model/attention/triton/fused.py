"""Kernel form "fused": position scores are computed tile by tile where they are used, and nothing that grows with S x S is written.

Launches the kernels of `fused_kernels`.
"""

import torch
import triton

from jadeberta.model.attention.relative_positions import sum_distances_by_bucket
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import KernelArguments
from jadeberta.model.attention.triton.common import compute_delta
from jadeberta.model.attention.triton.fused_kernels import (
    fused_forward,
    fused_grad_keys,
    fused_grad_positions,
    fused_grad_queries,
)

PROGRAMS = 4
"""Programs per multiprocessor, at most. Each has two scratch tiles, so more would only take memory."""


def forward(args: KernelArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [B, S, H, D], and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S]."""
    batch, length, heads, size = args.shape
    out = args.qkv.new_empty(batch, length, heads, size)
    lse = args.qkv.new_empty(batch, heads, length, dtype=torch.float32)
    launch = _Launch(args, "forward")
    launch.run(fused_forward, launch.tile.block_m, out, lse)
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
    grad_out = grad_out.contiguous()
    delta = compute_delta(args, grad_out, out)
    grad = torch.empty_like(args.qkv)
    for kernel, name in ((fused_grad_queries, "grad_queries"), (fused_grad_keys, "grad_keys")):
        launch = _Launch(args, name)
        rows = launch.tile.block_m if name == "grad_queries" else launch.tile.block_n
        launch.run(kernel, rows, grad_out, lse, delta, grad, args.scale)
    return grad, *_grad_positions(args, grad_out, lse, delta)


def _grad_positions(args: KernelArguments, grad_out, lse, delta) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    batch, length, heads, size = args.shape
    tables = (args.position_keys, args.position_queries)
    if tables == (None, None):
        return None, None
    launch = _Launch(args, "grad_positions")
    edge = launch.tile.block_m
    blocks = triton.cdiv(length, edge)
    shares = min(batch, triton.cdiv(PROGRAMS * args.processors, heads * (2 * blocks - 1)))
    grid = (2 * blocks - 1, heads, shares)
    scratch = launch.scratch(grid[0] * grid[1] * grid[2], edge * edge)
    grads: list[torch.Tensor | None] = [None, None]
    for side, table in enumerate(tables):
        if table is None:
            continue
        sums = table.new_empty(shares, heads, 2 * blocks - 1, 2 * edge, size, dtype=torch.float32)
        fused_grad_positions[grid](
            *launch.inputs, scratch, grad_out, lse, delta, sums, batch, length, *launch.strides, args.exponent_scale, args.keep_scale,
            args.scale, size, heads, edge, 2 * edge, bool(side), args.threshold, length % edge > 0, **launch.options,
        )  # fmt: skip
        grads[side] = _to_table(sums, table, args)
    return grads[0], grads[1]


def _to_table(sums: torch.Tensor, table: torch.Tensor, args: KernelArguments) -> torch.Tensor:
    """The gradient of a table [rows, H, D] from sums [shares, H, diagonals, W, D] over overlapping windows of distances."""
    length = args.shape[1]
    halves = sums.sum(0).unflatten(2, (2, -1))  # [H, diagonals, 2, edge, D]; windows start `edge` distances apart
    by_distance = halves.new_zeros(halves.shape[0], halves.shape[1] + 1, *halves.shape[3:])
    by_distance[:, :-1] += halves[:, :, 0]
    by_distance[:, 1:] += halves[:, :, 1]
    flat = by_distance.flatten(1, 2)  # distance 0 is in the middle
    start = flat.shape[1] // 2 - length
    return sum_distances_by_bucket(flat[:, start : start + 2 * length], args.bucket_ids, False, table.shape[0]).to(table.dtype)


class _Launch:
    """Arguments and options that the launches of one kernel share."""

    def __init__(self, args: KernelArguments, kernel: str) -> None:
        self.args = args
        self.tile = tiles.tile_for("fused", kernel, args.qkv.dtype, args.shape[3], args.capability)
        self.options = {"num_warps": self.tile.warps, "num_stages": self.tile.stages, "enable_fp_fusion": True}
        self.inputs = (args.qkv, args.position_keys, args.position_queries, args.bucket_ids, args.document_ids, args.seed)
        self.strides = tuple(0 if t is None else t.stride(0) for t in (args.position_keys, args.position_queries))

    def scratch(self, programs: int, area: int) -> torch.Tensor:
        """Scratch for two tiles of `area` elements per program, [programs, 2, area]."""
        return self.args.qkv.new_empty(programs, 2, area)

    def run(self, kernel, rows: int, *tensors) -> None:
        """Launches a kernel whose programs together walk over all blocks of `rows` rows of all heads."""
        args, tile = self.args, self.tile
        batch, length, heads, size = args.shape
        tasks = triton.cdiv(length, rows) * batch * heads
        programs = min(tasks, PROGRAMS * args.processors)
        *memory, last = tensors
        factors = [] if isinstance(last, torch.Tensor) else [last]
        memory = memory if factors else [*memory, last]
        ragged = length % tile.block_m > 0 or length % tile.block_n > 0
        window = triton.next_power_of_2(tile.block_m + tile.block_n)
        kernel[(programs,)](
            *self.inputs, self.scratch(programs, tile.block_m * tile.block_n), *memory, length, *self.strides, args.exponent_scale,
            args.keep_scale, *factors, tasks, size, heads, tile.block_m, tile.block_n, window, args.threshold, ragged, **self.options,
        )  # fmt: skip
