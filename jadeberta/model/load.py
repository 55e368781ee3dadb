"""Builds a model from a recipe's config or loads one from a directory in Hugging Face's format."""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DebertaV2Config

from jadeberta.config import ModelConfig
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.model.deberta import DebertaForMaskedLM


def build(config: DebertaV2Config | dict[str, Any], attention: str = "sdpa", seed: int | None = None) -> DebertaForMaskedLM:
    """Builds a freshly initialised fp32 model; with a seed its weights are a function of config and seed alone."""
    config = DebertaV2Config(**config) if isinstance(config, dict) else config
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return DebertaForMaskedLM(config, attention=attention)


def load(path_or_config: str | Path | DebertaV2Config | dict[str, Any], attention: str = "sdpa") -> DebertaForMaskedLM:
    """Loads a model from a directory with config.json and model.safetensors, or builds a fresh one from a config.

    Args:
        path_or_config: a checkpoint or an exported directory, or a config (an object or its keyword arguments).
        attention: eager, sdpa or fused.

    Raises:
        CheckpointError: the directory holds no model, or its weights do not fit its config.
        ConfigError: the attention is unknown or not available.
    """
    if isinstance(path_or_config, DebertaV2Config | dict):
        return build(path_or_config, attention)
    path = Path(path_or_config)
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise CheckpointError(f"{path}: no config.json and model.safetensors there. Name a checkpoint or an exported directory.")
    transformers.utils.logging.disable_progress_bar()
    try:
        loaded: Any = DebertaForMaskedLM.from_pretrained(str(path), attention=attention, output_loading_info=True)
    except ConfigError:
        raise
    except Exception as e:
        raise CheckpointError(
            f"{path}: cannot be loaded ({type(e).__name__}: {e}). Check it with 'jadeberta checkpoint verify'."
        ) from e
    model, report = loaded
    if problems := sorted([*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])]):
        raise CheckpointError(f"{path}: model.safetensors does not fit config.json: {', '.join(problems[:5])}.")
    return model


def parameter_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of a config, tied ones once. The model is built on the meta device, without memory."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in build(config).named_parameters()}


def count_parameters(model: ModelConfig) -> int:
    """Counts the parameters that are trained and stored, tied ones once."""
    return sum(math.prod(shape) for shape in parameter_shapes(model.hugging_face()).values())
