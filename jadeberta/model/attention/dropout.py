"""Counter-based attention dropout: whether an element is dropped is a function of (seed, head, query, key) alone.

Backward computes the same mask again, so no mask is stored, and neither the order of computation nor the tile size changes it.
"""

import torch

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
"""Multipliers of a 32-bit mixer with little bias (Wellons, Prospecting for hash functions, 2018). The shifts here are arithmetic."""


def rng_keys(seed: int, head: int) -> tuple[int, int]:
    """Two signed 32-bit keys of one head of one row: splitmix64 (Steele et al. 2014) of seed and head number, row * H + h."""
    x = (seed + (head + 1) * GOLDEN) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    x ^= x >> 31
    return signed32(x), signed32(x >> 32)


def rng_keys_of(seed: torch.Tensor, heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rng_keys` of several heads on their device, int32 [G] each, for seed int64 [] and head numbers int64 [G]."""

    def mixed(x: torch.Tensor, shift: int) -> torch.Tensor:
        return x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))  # the shift of torch keeps the sign

    x = seed + (heads + 1) * _signed64(GOLDEN)
    x = mixed(x, 30) * _signed64(0xBF58476D1CE4E5B9)
    x = mixed(x, 27) * _signed64(0x94D049BB133111EB)
    x = mixed(x, 31)
    return x.to(torch.int32), (x >> 32).to(torch.int32)


def dropped_weights(
    first: torch.Tensor, second: torch.Tensor, queries: torch.Tensor, length: int, dropout: float
) -> torch.Tensor:
    """The weights of some queries that `DropoutMask` drops, bool [G, Q, S].

    Args:
        first: keys of the heads, int32 [G], from `rng_keys_of`.
        second: likewise.
        queries: their positions, int64 [Q].
        length: S.
        dropout: share of the weights that is zeroed.
    """
    pairs = (length + 1) // 2
    counters = queries.to(torch.int32)[:, None] * pairs + torch.arange(pairs, dtype=torch.int32, device=queries.device)
    x = counters + first[:, None, None]  # [G, Q, pairs]
    for shift, key, factor in zip((16, 15), (None, second), MULTIPLIERS, strict=True):
        x ^= x >> shift
        if key is not None:
            x ^= key[:, None, None]
        x *= signed32(factor)
    x ^= x >> 16
    return x.view(torch.int16)[..., :length].bitwise_and_(0x7FFF) >= keep_threshold(dropout)


def _signed64(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def signed32(x: int) -> int:
    """The low 32 bits of x as a signed integer."""
    return (x & 0xFFFFFFFF) - ((x & 0x80000000) << 1)


def keep_threshold(dropout: float) -> int:
    """The 15-bit threshold below which a random number keeps its weight."""
    return min(round((1 - dropout) * 2**15), 2**15 - 1)


class DropoutMask:
    """Computes the dropout masks of one head after another in its own buffers.

    One 32-bit number serves two keys: the low half of number `query * pairs + key // 2` the even key, the high half the odd key.
    """

    def __init__(self, length: int, dropout: float, dtype: torch.dtype, device: torch.device) -> None:
        """Allocates the buffers.

        Args:
            length: S; masks are [S, S].
            dropout: share of the weights that is zeroed.
            dtype: of the weights that are masked.
            device: of the weights.
        """
        self.threshold = keep_threshold(dropout)
        self.scale = 1 / (1 - dropout)
        pairs = (length + 1) // 2
        self._counters = torch.arange(length * pairs, dtype=torch.int32, device=device).view(length, pairs)
        self._x, self._shifted = torch.empty_like(self._counters), torch.empty_like(self._counters)
        self._halves = self._x.view(torch.int16)[:, :length]  # little-endian: the low half comes first in memory
        self._bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        wide = self._bits is not torch.int16
        self._mask = torch.empty(length, length, dtype=self._bits, device=device) if wide else self._halves

    def make(self, seed: int, head: int) -> torch.Tensor:
        """The mask of one head, integers [S, S] of the weights' width: all bits set if kept, none if dropped. Valid until the next call."""
        first, second = rng_keys(seed, head)
        x, shifted = self._x, self._shifted
        torch.add(self._counters, first, out=x)
        for shift, key, factor in zip((16, 15), (0, second), MULTIPLIERS, strict=True):
            torch.bitwise_right_shift(x, shift, out=shifted)
            x.bitwise_xor_(shifted)
            if key:
                x.bitwise_xor_(key)
            x.mul_(signed32(factor))
        torch.bitwise_right_shift(x, 16, out=shifted)
        x.bitwise_xor_(shifted)
        # Kept if the 15-bit number is below the threshold: the difference is negative, and its sign fills the word.
        halves = self._halves.bitwise_and_(0x7FFF).sub_(self.threshold).bitwise_right_shift_(15)
        return halves if self._bits is torch.int16 else self._mask.copy_(halves)

    def apply_(self, weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Zeroes the dropped weights in place. The caller multiplies by `scale` where that costs least."""
        weights.view(self._bits).bitwise_and_(mask)
        return weights
