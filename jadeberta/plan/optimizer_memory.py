"""What an optimizer keeps less than AdamW, whose two moments of each parameter the plan begins with. Pure functions."""

from jadeberta.config import Recipe
from jadeberta.training.optimizers.costs import hidden_matrix_shapes

MOMENT_BYTES = 4
"""Of a moment of a parameter, fp32."""


def saved_bytes(recipe: Recipe, parameters: int) -> int:
    """Returns the bytes of the moments that AdamW would keep and the recipe's optimizer does not.

    Args:
        recipe: of the run.
        parameters: of the model.
    """
    matrices = sum(rows * columns for rows, columns in hidden_matrix_shapes(recipe))
    return MOMENT_BYTES * {"muon": matrices, "lion": parameters}.get(recipe.training.optimizer, 0)
