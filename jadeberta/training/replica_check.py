"""Silent data corruption: data-parallel ranks hold the same weights, so a hash of them must be the same on every rank.

A GPU that computes wrong without an error is found here, and the rank that differs is named.
"""

from collections import Counter

import torch
import torch.distributed as dist

# Integers of an element's size: a hash of bits must not depend on a dtype's arithmetic.
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_hash(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Hash of the bits of some tensors, int64 [2], on their device; any single changed bit changes it.

    It holds a sum of the elements' bit patterns and a sum weighted by their position, modulo 2^64. Integer sums are the same in whatever
    order a device adds them up.
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    total = torch.zeros(2, dtype=torch.int64, device=device)
    for number, tensor in enumerate(tensors):
        words = tensor.detach().reshape(-1).view(WORDS[tensor.element_size()]).to(torch.int64)
        # Odd weights below 2^20: a product of a changed word with one is never 0 modulo 2^64.
        weights = torch.arange(words.numel(), dtype=torch.int64, device=device).bitwise_and_(0x7FFFF).mul_(2).add_(1)
        total[0] += words.sum() * (2 * number + 1)
        total[1] += (words * weights).sum() * (2 * number + 1)
    return total


def odd_ranks(hashes: list[tuple[int, ...]]) -> list[int]:
    """Ranks whose hash is not that of the majority; all ranks where no hash has a majority.

    Args:
        hashes: one a rank, in order.
    """
    if len(set(hashes)) <= 1:
        return []
    (most, count), *_ = Counter(hashes).most_common()
    return list(range(len(hashes))) if 2 * count <= len(hashes) else [rank for rank, found in enumerate(hashes) if found != most]


def differing_ranks(tensors: list[torch.Tensor]) -> list[int]:
    """Ranks whose tensors are not those of the others; every rank calls it and gets the same answer."""
    own = weights_hash(tensors)
    # 16 bytes a rank, gathered by all: every rank must raise the same error at the same step.
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return odd_ranks([tuple(g.tolist()) for g in gathered])
