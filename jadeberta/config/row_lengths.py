"""The check of a row length against a model and its attention, stated here alone."""

from jadeberta.config.schema import ModelConfig
from jadeberta.errors import ConfigError
from jadeberta.model_constants import FUSED_HEAD_SIZES, FUSED_LENGTH, offsets_fit


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
