"""The row lengths that model and attention take, and the check of a length against a model; stated here alone."""

from jadeberta.config.schema import ModelConfig
from jadeberta.errors import ConfigError

FUSED_HEAD_SIZES = (32, 64, 128)
"""Head sizes for which the Triton kernels are written."""
FUSED_LENGTH = 8192
"""Longest row, in tokens, for which they are written."""


def check_rows(model: ModelConfig, length: int, attention: str, key: str) -> None:
    """Checks that a model takes rows of a length with an attention.

    Args:
        model: the sizes.
        length: tokens of a row.
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
