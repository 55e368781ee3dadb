"""The row lengths that model and attention take, and the check of a length against a model; stated here alone."""

from jadeberta.config.schema import ModelConfig
from jadeberta.errors import ConfigError

FUSED_HEAD_SIZES = (32, 64, 128)
"""Head sizes for which the Triton kernels are written."""
FUSED_LENGTH = 8192
"""Longest row, in tokens, for which they are written."""


def offsets_fit(batch: int, length: int, heads: int, size: int) -> bool:
    """Whether the kernels' offsets stay below 2^31: they count in 32 bits within a row of q, k and v, a head's scratch and the row sums."""
    within_row = 3 * heads * size * (length + 128)  # tiles of up to 128 rows may begin before the row's end
    within_scratch = (length + 128) * (length + 17)  # rows are padded to multiples of 16
    return max(within_row, within_scratch, batch * heads * length, 2 * heads * 2 * length * size) < 2**31


def check_rows(model: ModelConfig, length: int, rows: int, attention: str, key: str) -> None:
    """Checks that a model takes rows of a length with an attention.

    Args:
        model: the sizes.
        length: tokens of a row.
        rows: of a micro-batch.
        attention: eager, sdpa or fused.
        key: what sets the length, for the sentence: a recipe key with its place, or a file.

    Raises:
        ConfigError: the rows are longer than the model's, or than the attention takes.
    """
    if length > model.max_position_embeddings:
        raise ConfigError(
            f"{key} is {length}, but model.max_position_embeddings is {model.max_position_embeddings}; "
            f"set model.max_position_embeddings to {length} or more."
        )
    if attention != "fused":
        return
    if model.attention_head_size not in FUSED_HEAD_SIZES:
        raise ConfigError(
            f"model.attention 'fused' takes a model.attention_head_size of {', '.join(map(str, FUSED_HEAD_SIZES))}, "
            f"not {model.attention_head_size}; choose 'sdpa' (the same function)."
        )
    if length > FUSED_LENGTH:
        raise ConfigError(
            f"model.attention 'fused' takes rows of up to {FUSED_LENGTH} tokens, and {key} is {length}; "
            "choose 'sdpa' (the same function)."
        )
    if not offsets_fit(rows, length, model.num_attention_heads, model.attention_head_size):
        raise ConfigError(
            f"model.attention 'fused' counts in 32 bits, too few for a micro-batch of {rows} rows of {length} tokens ({key}) "
            f"x {model.num_attention_heads} heads of {model.attention_head_size}; choose 'sdpa' (the same function), or smaller ones."
        )
