"""Relative positions as rows of a table: the row (bucket) of each distance, and the skewed view that reads a product by distance.

Distances are i - j of query i and key j (He et al. 2021, arXiv:2006.03654, equation 3). Several share a bucket, as in the released DeBERTa
V2. With the rows of a position table laid out by distance, `x[i, u]` over distances u holds every (i, j) score on a skewed band: a strided
view reads it and a strided copy writes it back, where indexing would need a gather and a scatter with atomics.
"""

from functools import lru_cache

import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position


@torch.compiler.assume_constant_result  # a compiled step contains the table and does not compute it again
def distance_buckets(length: int, span: int, buckets: int, max_positions: int, device: str) -> torch.Tensor:
    """The row of the position table for each distance i - j = -(length - 1) .. length - 1, int64 [2 * length - 1].

    Args:
        length: S.
        span: half of the table's rows.
        buckets: logarithmic buckets on either side; 0 or less means one row for each distance.
        max_positions: distances from here on share the last bucket.
        device: of the result.
    """
    return _distance_buckets(length, span, buckets, max_positions, device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # the cached tensor is used in training too, even if inference asked for it first
def _distance_buckets(length: int, span: int, buckets: int, max_positions: int, device: str) -> torch.Tensor:
    distances = torch.arange(-(length - 1), length)
    if buckets > 0 and max_positions > 0:
        distances = make_log_bucket_position(distances, buckets, max_positions).long()
    return torch.clamp(distances + span, 0, 2 * span - 1).to(device)


@torch.compiler.assume_constant_result
def largest_bucket(length: int, span: int, buckets: int, max_positions: int) -> int:
    """The largest number of distances that share one row of the table; arguments as for `distance_buckets`."""
    return _largest_bucket(length, span, buckets, max_positions)


@lru_cache(maxsize=32)
def _largest_bucket(length: int, span: int, buckets: int, max_positions: int) -> int:
    return int(_distance_buckets(length, span, buckets, max_positions, "cpu").bincount().max())


def forget_lengths() -> None:
    """Frees the tables that are kept for the lengths seen so far."""
    _distance_buckets.cache_clear()
    _largest_bucket.cache_clear()


def table_by_distance(table: torch.Tensor, bucket_ids: torch.Tensor, descending: bool) -> torch.Tensor:
    """The table's row for each distance, [H, 2 * S, D]; the last one is a repetition that keeps products aligned.

    Args:
        table: [rows, H, D].
        bucket_ids: int64 [2 * S - 1], from `distance_buckets`.
        descending: from distance S - 1 down, as position keys are read; else up from -(S - 1), as position queries are.
    """
    bucket_ids = bucket_ids.flip(0) if descending else bucket_ids
    return table[torch.cat([bucket_ids, bucket_ids[-1:]])].transpose(0, 1)


def sum_distances_by_bucket(gradient: torch.Tensor, bucket_ids: torch.Tensor, descending: bool, rows: int) -> torch.Tensor:
    """The backward pass of `table_by_distance`: for each row of the table the sum over its distances, [rows, H, D].

    A product with zeros and ones: the order of summation is fixed, and no atomics are needed.

    Args:
        gradient: [H, 2 * S, D]; the last distance is the repetition, which no score used, and is not read.
        bucket_ids: int64 [2 * S - 1], from `distance_buckets`.
        descending: as for `table_by_distance`.
        rows: of the table.
    """
    bucket_ids = bucket_ids.flip(0) if descending else bucket_ids
    chosen = (bucket_ids[None, :] == torch.arange(rows, device=bucket_ids.device)[:, None]).to(
        gradient.dtype
    )  # [rows, 2 * length - 1]
    heads, _, size = gradient.shape
    flat = gradient[:, :-1].transpose(0, 1).reshape(len(bucket_ids), heads * size)
    return (chosen @ flat).view(rows, heads, size)


def skewed(x: torch.Tensor) -> torch.Tensor:
    """The view out[..., i, j] = x[..., i, j - i + Q - 1], [..., Q, W - Q], of a contiguous x [..., Q, W]; W is 2 * S for whole rows.

    Read with rows that are one element shorter, each row of the flat memory starts one element further to the right in x.
    """
    rows, width = x.shape[-2:]
    flat = x.flatten(-2)[..., rows - 1 : rows - 1 + rows * (width - 1)]
    return flat.unflatten(-1, (rows, width - 1))[..., : width - rows]


def scores_by_distance(x: torch.Tensor, bucket_ids: torch.Tensor, ascending: bool) -> torch.Tensor:
    """Scores from products with the table's rows: out[..., a, c] = x[..., a, bucket of a - c], or bucket of c - a if `ascending`.

    Args:
        x: products, [..., S, rows].
        bucket_ids: int64 [2 * S - 1], from `distance_buckets`.
        ascending: distances ascend along a row.

    Returns:
        [..., S, S].
    """
    length = x.shape[-2]
    index = bucket_ids[_distances(length, x.device, ascending) + length - 1]
    return torch.gather(x, -1, index.expand(*x.shape[:-1], length))


def sum_scores_by_bucket(x: torch.Tensor, bucket_ids: torch.Tensor, ascending: bool, rows: int, largest: int) -> torch.Tensor:
    """The backward pass of `scores_by_distance`, [..., S, S] to [..., S, rows], without atomics.

    Buckets take distances in ascending order, so each one sums at most `largest` neighbours.

    Args:
        x: gradient of the scores, [..., S, S].
        bucket_ids: int64 [2 * S - 1], from `distance_buckets`.
        ascending: as for `scores_by_distance`.
        rows: of the table.
        largest: the most distances that share a row, from `largest_bucket`.
    """
    length = x.shape[-1]
    positions = torch.arange(length, device=x.device)[:, None]
    numbers = torch.arange(rows, device=x.device)
    first = torch.searchsorted(bucket_ids, numbers)
    ends = torch.searchsorted(bucket_ids, numbers, right=True)

    def part(step: "int | torch.Tensor", first: torch.Tensor, ends: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        distance = first + step - (length - 1)
        index = positions + distance if ascending else positions - distance
        in_bounds = (first + step < ends) & (index >= 0) & (index < length)
        return gather_last(x, index.clamp(0, length - 1)) * in_bounds

    if torch.compiler.is_compiling():
        # One reduction, whose terms never reach memory; in a loop, the compiler would write partial sums of a few terms.
        return part(torch.arange(largest, device=x.device), first[:, None], ends[:, None], positions[..., None]).sum(-1)
    return sum((part(step, first, ends, positions) for step in range(1, largest)), start=part(0, first, ends, positions))


def gather_last(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """out[..., a, *rest] = x[..., a, index[a, *rest]] for x [..., S, S] and index [S, *rest]."""
    flat = index.flatten(1)
    return torch.gather(x, -1, flat.expand(*x.shape[:-1], flat.shape[1])).unflatten(-1, index.shape[1:])


def _distances(length: int, device: torch.device, ascending: bool) -> torch.Tensor:
    """a - c, or c - a if `ascending`, int64 [length, length]."""
    positions = torch.arange(length, device=device)
    return positions[None, :] - positions[:, None] if ascending else positions[:, None] - positions[None, :]
