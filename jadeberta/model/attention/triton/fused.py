"""Form "fused": every position score is made where it is used, tile by tile, and nothing that grows with S x S is written.

The kernels lie in `whole_kernels`; here they are launched.
"""

import torch
import triton

from jadeberta.model.attention.relative_positions import sum_by_row
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import Call
from jadeberta.model.attention.triton.common import delta_of
from jadeberta.model.attention.triton.fused_kernels import (
    fused_forward,
    fused_grad_keys,
    fused_grad_positions,
    fused_grad_queries,
)

PROGRAMS = 4
"""On one multiprocessor at a time, at most; each has scratch tiles."""


def forward(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [B, S, H, D], and log-sum-exp of the scaled scores in base 2, fp32 [B, H, S]."""
    batch, length, heads, size = call.shape
    out = call.qkv.new_empty(batch, length, heads, size)
    lse = call.qkv.new_empty(batch, heads, length, dtype=torch.float32)
    launch = _Launch(call, "forward")
    launch.by_blocks(fused_forward, launch.tile.block_m, out, lse)
    return out, lse


def backward(
    call: Call, grad_out: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of qkv and the two tables."""
    grad_out = grad_out.contiguous()
    delta = delta_of(call, grad_out, out)
    grad = torch.empty_like(call.qkv)
    for kernel, name in ((fused_grad_queries, "grad_queries"), (fused_grad_keys, "grad_keys")):
        launch = _Launch(call, name)
        owned = launch.tile.block_m if name == "grad_queries" else launch.tile.block_n
        launch.by_blocks(kernel, owned, grad_out, lse, delta, grad, call.scale)
    return grad, *_grad_positions(call, grad_out, lse, delta)


def _grad_positions(call: Call, grad_out, lse, delta) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    batch, length, heads, size = call.shape
    tables = (call.position_keys, call.position_queries)
    if tables == (None, None):
        return None, None
    launch = _Launch(call, "grad_positions")
    edge = launch.tile.block_m
    blocks = triton.cdiv(length, edge)
    shares = min(batch, triton.cdiv(PROGRAMS * call.processors, heads * (2 * blocks - 1)))
    grid = (2 * blocks - 1, heads, shares)
    scratch = launch.scratch(grid[0] * grid[1] * grid[2], edge * edge)
    found: list[torch.Tensor | None] = [None, None]
    for own, table in enumerate(tables):
        if table is None:
            continue
        sums = table.new_empty(shares, heads, 2 * blocks - 1, 2 * edge, size, dtype=torch.float32)
        fused_grad_positions[grid](
            *launch.inputs, scratch, grad_out, lse, delta, sums, batch, length, *launch.strides, call.exponent_scale, call.keep_scale,
            call.scale, size, heads, edge, 2 * edge, bool(own), call.threshold, length % edge > 0, **launch.options,
        )  # fmt: skip
        found[own] = _by_row(sums, table, call)
    return found[0], found[1]


def _by_row(sums: torch.Tensor, table: torch.Tensor, call: Call) -> torch.Tensor:
    """[shares, H, diagonals, W, D] of overlapping windows of distances to the table's rows."""
    length = call.shape[1]
    halves = sums.sum(0).unflatten(2, (2, -1))  # [H, diagonals, 2, edge, D]; the windows start `edge` apart
    by_distance = halves.new_zeros(halves.shape[0], halves.shape[1] + 1, *halves.shape[3:])
    by_distance[:, :-1] += halves[:, :, 0]
    by_distance[:, 1:] += halves[:, :, 1]
    flat = by_distance.flatten(1, 2)  # the middle is distance 0
    start = flat.shape[1] // 2 - length
    return sum_by_row(flat[:, start : start + 2 * length], call.slots, False, table.shape[0]).to(table.dtype)


class _Launch:
    """What the launches of one kernel have in common."""

    def __init__(self, call: Call, kernel: str) -> None:
        self.call = call
        self.tile = tiles.row("fused", kernel, call.qkv.dtype, call.shape[3], call.capability)
        self.options = {"num_warps": self.tile.warps, "num_stages": self.tile.stages, "enable_fp_fusion": True}
        self.inputs = (call.qkv, call.position_keys, call.position_queries, call.slots, call.documents, call.seed)
        self.strides = tuple(0 if t is None else t.stride(0) for t in (call.position_keys, call.position_queries))

    def scratch(self, programs: int, area: int) -> torch.Tensor:
        """Two tiles a program."""
        return self.call.qkv.new_empty(programs, 2, area)

    def by_blocks(self, kernel, owned: int, *tensors) -> None:
        """Runs a kernel whose programs walk over all blocks of `owned` rows of all heads."""
        call, tile = self.call, self.tile
        batch, length, heads, size = call.shape
        tasks = triton.cdiv(length, owned) * batch * heads
        programs = min(tasks, PROGRAMS * call.processors)
        *memory, last = tensors
        factors = [] if isinstance(last, torch.Tensor) else [last]
        memory = memory if factors else [*memory, last]
        ragged = length % tile.block_m > 0 or length % tile.block_n > 0
        window = triton.next_power_of_2(tile.block_m + tile.block_n)
        kernel[(programs,)](
            *self.inputs, self.scratch(programs, tile.block_m * tile.block_n), *memory, length, *self.strides, call.exponent_scale,
            call.keep_scale, *factors, tasks, size, heads, tile.block_m, tile.block_n, window, call.threshold, ragged, **self.options,
        )  # fmt: skip
