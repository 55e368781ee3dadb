"""What a recipe's objective trains: the model, the loss of a step, and what the sums of its micro-batches mean."""

from dataclasses import dataclass

import torch

from jadeberta.config import Recipe
from jadeberta.errors import ConfigError
from jadeberta.model import DebertaForMaskedLM, build
from jadeberta.model.initialise import scale_residual_outputs
from jadeberta.model.replaced_tokens import ReplacedTokenModel, build_replaced_token_model
from jadeberta.shards.tokenizer_format import SpecialTokens

SUMS = {
    "mlm": ("loss", "correct"),
    "rtd": ("loss", "correct", "discriminator_loss", "replaced", "replaced_found", "original_found"),
}
"""Fields of what the model returns for a micro-batch, by objective; each is summed over micro-batches and ranks."""


@dataclass
class ReplacedFigures:
    """What the discriminator did in a step, over all ranks."""

    discriminator_loss: float
    """Mean binary cross-entropy of a token that is no padding, nats."""
    replaced_share: float
    """Share of these tokens that were replaced by another one."""
    replaced_accuracy: float
    """Share of the replaced ones that the discriminator finds; NaN where none was replaced."""
    original_accuracy: float
    """Share of the others that it takes for the text's own."""


def build_model(recipe: Recipe, special: SpecialTokens, attention: str) -> DebertaForMaskedLM | ReplacedTokenModel:
    """Builds the freshly initialised model of a recipe.

    Args:
        recipe: of the run.
        special: special tokens of the data's tokenizer.
        attention: of the first phase.
    """
    config, rtd = recipe.model.hugging_face(special), recipe.rtd
    seed = recipe.training.seed
    model: DebertaForMaskedLM | ReplacedTokenModel
    if recipe.training.objective == "mlm":
        model = build(config, attention, seed=seed)
    else:
        layers = rtd.layers_of_generator(recipe.model.num_hidden_layers)
        model = build_replaced_token_model(config, layers, rtd.embedding_sharing, rtd.temperature, attention, seed=seed)
    if recipe.model.initializer_scale_by_depth:
        scale_residual_outputs(model)
    return model


def require_stage_of(recipe: Recipe, stage: int) -> None:
    """Raises ConfigError where the objective cannot be trained under a stage of ZeRO."""
    if recipe.training.objective == "rtd" and stage == 3:
        raise ConfigError(
            "training.objective rtd works under ZeRO stage 1 or 2, and the recipe's DeepSpeed file has stage 3, which takes the shared "
            "embeddings apart; set deepspeed to ds_configs/zero1.json or zero2.json."
        )


def loss_of(recipe: Recipe, sums: tuple[torch.Tensor, ...], world_size: int, masked_tokens: int, tokens: int) -> torch.Tensor:
    """A micro-batch's part of the loss that is minimised, times the world size: DeepSpeed averages gradients over the ranks.

    Each loss is a mean over the whole global batch, so that it does not depend on how the batch is cut.

    Args:
        recipe: of the run.
        sums: of the micro-batch, in the order of SUMS.
        world_size: ranks.
        masked_tokens: of the global batch.
        tokens: of the global batch, without padding.
    """
    loss = sums[0] * (world_size / max(1, masked_tokens))
    if recipe.training.objective == "mlm":
        return loss
    return loss + sums[2] * (recipe.rtd.loss_weight * world_size / max(1, tokens))


def replaced_figures(sums: list[float], tokens: int) -> ReplacedFigures:
    """Figures of a step.

    Args:
        sums: the last four of SUMS["rtd"], over the global batch.
        tokens: of the global batch, without padding.
    """
    loss, replaced, replaced_found, original_found = sums
    shares = ((loss, tokens), (replaced, tokens), (replaced_found, replaced), (original_found, tokens - replaced))
    return ReplacedFigures(*(part / whole if whole else float("nan") for part, whole in shares))
