"""What a kernel of the fused attention compiles to for the shape of the large model."""

from unittest import mock

import torch

from bench.kernels.offline import Compiled, compile_launches
from jadeberta.model.attention.triton import arguments as calls
from jadeberta.model.attention.triton.tiles import KERNELS, Tile, override
from jadeberta.model.attention.triton.tune import passes_for, problem

BATCH = 16


def compiled(
    form: str, kernel: str, capability: tuple[int, int], dtype: torch.dtype, head_size: int, tile: Tile | None = None
) -> list[Compiled]:
    """One kernel for a GPU that is not there, with the table's tile or another; all ways in which it is launched."""
    pass_ = next(p for (f, p), names in KERNELS.items() if f == form and kernel in names)
    with (
        mock.patch.object(calls, "capability_of", lambda device: capability),
        override({} if tile is None else {f"{form}.{kernel}": tile}),
    ):
        run = passes_for(problem(BATCH, head_size, dtype, torch.device("meta")))[form, pass_]
        found = compile_launches(capability, run, f"{form}_{kernel}")
    return list({one.cubin: one for one in reversed(found)}.values())  # the last part of a batch may be a small one
