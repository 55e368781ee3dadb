"""What an optimizer keeps less than AdamW, whose two moments of each parameter the plan begins with. Pure functions."""

from jadeberta.config import ModelConfig, Recipe

MOMENT_BYTES = 4
"""Of a moment of a parameter, fp32."""


def matrix_parameters(model: ModelConfig) -> int:
    """Returns the parameters of the hidden matrices: of each layer four of the attention and two of the feed-forward."""
    return model.num_hidden_layers * model.hidden_size * (4 * model.hidden_size + 2 * model.intermediate_size)


def saved_bytes(recipe: Recipe, parameters: int) -> int:
    """Returns the bytes of the moments that AdamW would keep and the recipe's optimizer does not.

    Args:
        recipe: of the run.
        parameters: of the model.
    """
    without = {"muon": matrix_parameters(recipe.model), "lion": parameters}
    return MOMENT_BYTES * without.get(recipe.training.optimizer, 0)
