"""Matrix work of disentangled attention in units of one S x S x D product of a head, and shares of a chip's peak."""

from jadeberta.model.attention.triton.tiles import Tile

NEEDED = {"forward": 4, "backward": 11}
"""What the function takes with c2p and p2c. Forward: q k, q P_k, k P_q and the context. Backward: the first three again, then the gradients
of the weights and of v, of q and of k through each other and through the tables, and of both tables."""


def unit_flops(length: int, head_size: int) -> int:
    """Floating point operations of one product of one head."""
    return 2 * length * length * head_size


def needed_flops(pass_: str, batch: int, heads: int, length: int, head_size: int) -> int:
    """Of one pass over a batch, whoever makes it."""
    return NEEDED[pass_] * unit_flops(length, head_size) * batch * heads


def made_units(form: str, pass_: str, tiles: dict[str, Tile], length: int) -> float:
    """Units that a form makes in a pass with its tiles, products with the identity left out.

    Args:
        form: fused or tables.
        pass_: forward or backward.
        tiles: of all kernels of the form, by their names.
        length: S.
    """
    if form == "tables":
        build = 2 * _band(tiles["build"].block_m, tiles["build"].block_n, length)
        if pass_ == "forward":
            return build + 2
        side, table = tiles["grad_side"], tiles["grad_table"]
        # q k, dP, dV; then q and k through the keys and through the table; then the tables.
        return build + 3 + 2 * (1 + _band(side.block_m, side.block_n, length)) + 2 * _band(table.block_n, table.block_m, length)
    if pass_ == "forward":
        return _scores(tiles["forward"]) + 1
    queries, keys, positions = (tiles[name] for name in ("grad_queries", "grad_keys", "grad_positions"))
    through_keys = _scores(queries) + 2 + _window(queries) / queries.block_n
    through_queries = _scores(keys) + 3 + _window(keys) / keys.block_m
    of_tables = 2 * (_scores(positions) + 1 + _window(positions) / positions.block_m)
    return through_keys + through_queries + of_tables


def share(units: float, seconds: float, batch: int, heads: int, length: int, head_size: int, peak: float) -> float:
    """Of the peak, FLOP/s, that so many units in so many seconds are."""
    return units * unit_flops(length, head_size) * batch * heads / seconds / peak


def _scores(tile: Tile) -> float:
    """Of one tile's scores: its content, and small products with the rows for all distances that it sees."""
    return 1 + _window(tile) / tile.block_n + _window(tile) / tile.block_m


def _window(tile: Tile) -> int:
    """Distances of a tile, as a power of two."""
    return 1 << (tile.block_m + tile.block_n - 1).bit_length()


def _band(owned: int, step: int, length: int) -> float:
    """Products with all distances that blocks of `owned` rows see, `step` at a time."""
    return -(-(length + owned - 1) // step) * step / length
