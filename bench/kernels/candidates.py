"""Tiles that are worth compiling, kernel by kernel; the counts rank them."""

from itertools import product

from jadeberta.model.attention.triton.tiles import Tile

BLOCKS = (32, 64, 128)
SMALLEST = Tile(16, 16, 4, 1)
LARGEST = 128 * 64
"""Scores of a tile; more do not fit into registers."""


def candidates(form: str, kernel: str, bits: int, quick: bool = False) -> list[Tile]:
    """All tiles of a kernel for dtypes of so many bits; `quick` leaves out those that rarely win."""
    if bits == 32:
        # Each fp32 product is three on the matrix units, with twice the registers: larger tiles spill.
        return [SMALLEST, Tile(32, 32, 4, 1), Tile(32, 32, 8, 1)]
    found = [SMALLEST] if form == "fused" else []  # the most registers go there
    # Loops with barriers of their own, as those of form "fused", are not pipelined: stages change nothing there.
    for block_m, block_n, stages in product(BLOCKS, BLOCKS, (1,) if form == "fused" else (1, 2)):
        if block_m * block_n > LARGEST or (kernel == "grad_positions" and block_m != block_n):
            continue
        for warps in (4, 8):
            if warps == 8 and block_m * block_n < 64 * 64:
                continue  # a warp would have less than a row of matrix instructions
            if quick and 128 in (block_m, block_n):
                continue
            found.append(Tile(block_m, block_n, warps, stages))
    return found
