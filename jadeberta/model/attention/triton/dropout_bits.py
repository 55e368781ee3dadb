"""The dropout mask in Triton: bit for bit that of `jadeberta.model.attention.dropout.DropoutMask`, for every tile size."""

import triton
import triton.language as tl

from jadeberta.model.attention import dropout

_GOLDEN = tl.constexpr(dropout.GOLDEN)
_FIRST = tl.constexpr(dropout.signed32(dropout.MULTIPLIERS[0]))
_SECOND = tl.constexpr(dropout.signed32(dropout.MULTIPLIERS[1]))


@triton.jit
def rng_keys(seed, head):
    """The two 32-bit keys of one head of one row, as `dropout.rng_keys` makes them; `seed` points to an int64."""
    x = tl.load(seed).to(tl.uint64) + (head + 1).to(tl.uint64) * _GOLDEN
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = x ^ (x >> 31)
    return x.to(tl.int32), (x >> 32).to(tl.int32)


@triton.jit
def dropout_keep_mask(rng_key0, rng_key1, i, j0, length, N: tl.constexpr, THRESHOLD: tl.constexpr):
    """The weights that dropout keeps for queries i [M] and the N keys from j0 on, bool [M, N].

    j0 and N must be even, because one 32-bit number serves two neighbouring keys.
    """
    pair = j0 // 2 + tl.arange(0, N // 2)
    x = (i * ((length + 1) // 2) + rng_key0)[:, None] + pair[None, :]
    x = (x ^ (x >> 16)) * _FIRST
    x = (x ^ (x >> 15) ^ rng_key1) * _SECOND
    x = x ^ (x >> 16)
    both = tl.join(x, x >> 16).reshape(i.shape[0], N)
    return (both & 0x7FFF) < THRESHOLD
