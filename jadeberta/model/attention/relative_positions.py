"""Relative positions as rows of a table: which row each distance takes, and the skewed view that reads a product by distance.

With the rows of a position table laid out by distance, `x[i, u]` over distances u holds every (i, j) score on a slanted band: a strided
view reads it and a strided copy writes it back, where indexing would need a gather and a scatter with atomics.
"""

from functools import lru_cache

import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position


@torch.compiler.assume_constant_result  # a compiled step holds the table, and does not make it again
def distance_slots(length: int, span: int, buckets: int, max_positions: int, device: str) -> torch.Tensor:
    """Row of the position table for each distance i - j = -(length - 1) .. length - 1, int64 [2 * length - 1]."""
    return _distance_slots(length, span, buckets, max_positions, device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for training too, whoever asks first
def _distance_slots(length: int, span: int, buckets: int, max_positions: int, device: str) -> torch.Tensor:
    distances = torch.arange(-(length - 1), length)
    if buckets > 0 and max_positions > 0:
        distances = make_log_bucket_position(distances, buckets, max_positions).long()
    return torch.clamp(distances + span, 0, 2 * span - 1).to(device)


@torch.compiler.assume_constant_result
def longest_run(length: int, span: int, buckets: int, max_positions: int) -> int:
    """The most distances that share one row of the table at this length."""
    return _longest_run(length, span, buckets, max_positions)


@lru_cache(maxsize=32)
def _longest_run(length: int, span: int, buckets: int, max_positions: int) -> int:
    return int(_distance_slots(length, span, buckets, max_positions, "cpu").bincount().max())


def rows_by_distance(table: torch.Tensor, slots: torch.Tensor, falling: bool) -> torch.Tensor:
    """The row of each distance, [H, 2 * length, D]; one row more than there are distances keeps products aligned.

    Args:
        table: [rows, H, D].
        slots: of `distance_slots`.
        falling: from distance length - 1 down, as position keys are read; else up from -(length - 1), as position queries are.
    """
    slots = slots.flip(0) if falling else slots
    return table[torch.cat([slots, slots[-1:]])].transpose(0, 1)


def sum_by_row(gradient: torch.Tensor, slots: torch.Tensor, falling: bool, rows: int) -> torch.Tensor:
    """The gradient of `rows_by_distance`: for each row the sum over its distances, [rows, H, D].

    A product with zeros and ones: the order of summation is fixed, and no atomics are needed. The last row of `gradient` [H, 2 * length, D]
    is not read, for no score was.
    """
    slots = slots.flip(0) if falling else slots
    chosen = (slots[None, :] == torch.arange(rows, device=slots.device)[:, None]).to(gradient.dtype)  # [rows, 2 * length - 1]
    heads, _, size = gradient.shape
    flat = gradient[:, :-1].transpose(0, 1).reshape(len(slots), heads * size)
    return (chosen @ flat).view(rows, heads, size)


def skewed(x: torch.Tensor) -> torch.Tensor:
    """A view: out[..., i, j] = x[..., i, j - i + S - 1], [..., S, S] of a contiguous x [..., S, 2 * S].

    In rows one element shorter, the flat numbers stand one place further to the left with each row.
    """
    length, width = x.shape[-2:]
    flat = x.flatten(-2)[..., length - 1 : length - 1 + length * (width - 1)]
    return flat.unflatten(-1, (length, width - 1))[..., :length]


def by_slot(x: torch.Tensor, slots: torch.Tensor, rising: bool) -> torch.Tensor:
    """Scores out of products with the table's rows: out[..., a, c] = x[..., a, slot of a - c], or of c - a where `rising`.

    Args:
        x: [..., S, rows].
        slots: of `distance_slots`.

    Returns:
        [..., S, S].
    """
    length = x.shape[-2]
    index = slots[_distances(length, x.device, rising) + length - 1]
    return torch.gather(x, -1, index.expand(*x.shape[:-1], length))


def sum_by_slot(x: torch.Tensor, slots: torch.Tensor, rising: bool, rows: int, longest: int) -> torch.Tensor:
    """The gradient of `by_slot`, [..., S, S] -> [..., S, rows], without atomics.

    Rows take distances in ascending order, so that each sums a run of at most `longest` neighbours.
    """
    length = x.shape[-1]
    places = torch.arange(length, device=x.device)[:, None]
    numbers = torch.arange(rows, device=x.device)
    first = torch.searchsorted(slots, numbers)
    ends = torch.searchsorted(slots, numbers, right=True)

    def part(step: "int | torch.Tensor", first: torch.Tensor, ends: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        distance = first + step - (length - 1)
        index = places + distance if rising else places - distance
        there = (first + step < ends) & (index >= 0) & (index < length)
        return gather_last(x, index.clamp(0, length - 1)) * there

    if torch.compiler.is_compiling():
        # One reduction, whose parts never reach memory; step by step, a compiler would write sums of a few.
        return part(torch.arange(longest, device=x.device), first[:, None], ends[:, None], places[..., None]).sum(-1)
    return sum((part(step, first, ends, places) for step in range(1, longest)), start=part(0, first, ends, places))


def gather_last(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """out[..., a, *rest] = x[..., a, index[a, *rest]] for x [..., S, S] and index [S, *rest]."""
    flat = index.flatten(1)
    return torch.gather(x, -1, flat.expand(*x.shape[:-1], flat.shape[1])).unflatten(-1, index.shape[1:])


def _distances(length: int, device: torch.device, rising: bool) -> torch.Tensor:
    """a - c, or c - a where `rising`, int64 [length, length]."""
    places = torch.arange(length, device=device)
    return places[None, :] - places[:, None] if rising else places[:, None] - places[None, :]
