"""Silent data corruption: data-parallel ranks hold the same weights, so a hash of them must be the same everywhere.

A GPU that computes wrong without an error shows here, and the rank that differs is named.
"""

from collections import Counter

import torch
import torch.distributed as dist

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_hash(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A hash of the bits of some tensors, int64 [2], on their device; any single changed bit changes it.

    A sum of the elements' bit patterns and a sum weighted by their place, modulo 2^64: integer sums come out the same in whatever order
    a device adds them up.
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    total = torch.zeros(2, dtype=torch.int64, device=device)
    for number, tensor in enumerate(tensors):
        words = tensor.detach().reshape(-1).view(WORDS[tensor.element_size()]).to(torch.int64)
        # Odd weights below 2^20: a product of a changed word with one is never 0 modulo 2^64.
        places = torch.arange(words.numel(), dtype=torch.int64, device=device).bitwise_and_(0x7FFFF).mul_(2).add_(1)
        total[0] += words.sum() * (2 * number + 1)
        total[1] += (words * places).sum() * (2 * number + 1)
    return total


def odd_ranks(hashes: list[tuple[int, ...]]) -> list[int]:
    """Ranks whose hash is not the one that most have; all of them where no hash has a majority."""
    if len(set(hashes)) <= 1:
        return []
    (most, count), *_ = Counter(hashes).most_common()
    return list(range(len(hashes))) if 2 * count <= len(hashes) else [rank for rank, found in enumerate(hashes) if found != most]


def differing_ranks(tensors: list[torch.Tensor]) -> list[int]:
    """Ranks whose tensors are not those of the others; every rank calls it and gets the same answer."""
    own = weights_hash(tensors)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return odd_ranks([tuple(g.tolist()) for g in gathered])
