"""Builds a model from a recipe's config or loads one from a directory in Hugging Face's format."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import DebertaV2Config

from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.model.deberta import DebertaForMaskedLM
from jadeberta.model.replaced_tokens import PAIR_KEY, ReplacedTokenModel, build_replaced_token_model

if TYPE_CHECKING:  # the model can then be imported with torch and transformers alone
    from jadeberta.config import ModelConfig, Recipe


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
    if pair_settings(path) is not None:
        raise CheckpointError(
            f"{path}: holds a generator and a discriminator (training.objective rtd), which are two models. Make them with "
            "'jadeberta export' and name one."
        )
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


def pair_settings(path: Path) -> dict[str, Any] | None:
    """What a checkpoint's config.json says of its generator and discriminator; None where it is of one model."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8")).get(PAIR_KEY)
    except (OSError, ValueError, AttributeError):
        return None  # whoever reads the model says what is wrong
    return found if isinstance(found, dict) else None


def load_pair(path: Path, weights: dict[str, torch.Tensor], attention: str = "sdpa") -> ReplacedTokenModel:
    """Loads generator and discriminator of a checkpoint.

    Args:
        path: the checkpoint, with its config.json.
        weights: every parameter by name.
        attention: sdpa or fused.

    Raises:
        CheckpointError: the weights do not fit config.json.
        ConfigError: the attention cannot be used.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    try:
        model = build_replaced_token_model(config, attention=attention, **config.pop(PAIR_KEY))
        model.load_state_dict(weights | _tied(model, weights))
    except (RuntimeError, TypeError, ValueError) as e:
        reason = next(iter(str(e).splitlines()), "") or type(e).__name__
        raise CheckpointError(f"{path}: its weights do not fit config.json ({reason}). Use another checkpoint.") from e
    return model


def _tied(model: ReplacedTokenModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What stands in a state dict a second time under another name, as output layers and shared embeddings do."""
    first = {id(p): name for name, p in model.named_parameters()}
    every = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: weights[own] for name, own in every.items() if own in weights}


def parameter_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of a config, tied ones once. The model is built on the meta device, without memory."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in build(config).named_parameters()}


def count_parameters(model: "ModelConfig") -> int:
    """Counts the parameters that are trained and stored, tied ones once."""
    return sum(math.prod(shape) for shape in parameter_shapes(model.hugging_face()).values())


def count_parameters_of(recipe: "Recipe") -> int:
    """Counts the parameters that a recipe trains: of a generator and its discriminator both, shared ones once."""
    if recipe.training.objective == "mlm":
        return count_parameters(recipe.model)
    with torch.device("meta"):
        layers = recipe.rtd.layers_of_generator(recipe.model.num_hidden_layers)
        model = build_replaced_token_model(recipe.model.hugging_face(), layers, recipe.rtd.embedding_sharing)
        return sum(p.numel() for p in model.parameters())
