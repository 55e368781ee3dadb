"""The keep mask of dropout in Triton: bit for bit that of `jadeberta.model.attention.dropout.KeepMask`, whatever the tile."""

import triton
import triton.language as tl

from jadeberta.model.attention import dropout

_GOLDEN = tl.constexpr(dropout.GOLDEN)
_FIRST = tl.constexpr(dropout.signed32(dropout.MULTIPLIERS[0]))
_SECOND = tl.constexpr(dropout.signed32(dropout.MULTIPLIERS[1]))


@triton.jit
def head_keys(seed, head):
    """The two 32-bit keys of a head of a row, as `dropout.head_keys` makes them; `seed` points to an int64."""
    x = tl.load(seed).to(tl.uint64) + (head + 1).to(tl.uint64) * _GOLDEN
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = x ^ (x >> 31)
    return x.to(tl.int32), (x >> 32).to(tl.int32)


@triton.jit
def keeps(first, second, i, j0, length, N: tl.constexpr, THRESHOLD: tl.constexpr):
    """Which weights of queries i [M] and of the N keys from j0 on are kept, bool [M, N]; j0 and N are even, for keys go in pairs."""
    pair = j0 // 2 + tl.arange(0, N // 2)
    x = (i * ((length + 1) // 2) + first)[:, None] + pair[None, :]
    x = (x ^ (x >> 16)) * _FIRST
    x = (x ^ (x >> 15) ^ second) * _SECOND
    x = x ^ (x >> 16)
    both = tl.join(x, x >> 16).reshape(i.shape[0], N)
    return (both & 0x7FFF) < THRESHOLD
