"""Numbers that the model shares with recipe and data. Imports nothing: the model needs torch and transformers alone."""

IGNORED = -100
"""Label of a token that is not predicted; the ignore_index of PyTorch's cross-entropy."""
FUSED_HEAD_SIZES = (32, 64, 128)
"""Head sizes for which the Triton kernels are written."""
FUSED_LENGTH = 8192
"""Longest row, in tokens, for which they are written."""


def offsets_fit(batch: int, length: int, heads: int, size: int) -> bool:
    """Whether the kernels' offsets stay below 2^31: they count in 32 bits within a row of q, k and v, a head's scratch and the row sums."""
    within_row = 3 * heads * size * (length + 128)  # tiles of up to 128 rows may begin before the row's end
    within_scratch = (length + 128) * (length + 17)  # rows are padded to multiples of 16
    return max(within_row, within_scratch, batch * heads * length, 2 * heads * 2 * length * size) < 2**31
