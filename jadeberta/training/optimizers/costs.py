"""The floating-point operations of an update, as far as they are matrix products. Pure functions of a recipe."""

from jadeberta.config import Recipe
from jadeberta.training.optimizers.orthogonalise import multiplications


def update_flops(recipe: Recipe) -> float:
    """Returns the FLOPs of the matrix products of one update: those of Muon's orthogonalisation; other optimizers have none."""
    if recipe.training.optimizer != "muon":
        return 0.0
    return 2.0 * sum(map(multiplications, hidden_matrix_shapes(recipe)))


def hidden_matrix_shapes(recipe: Recipe) -> list[tuple[int, int]]:
    """Returns the shapes (rows, columns) of the weight matrices of all layers, those of a generator too, without embeddings, convolution
    and heads.
    """
    model, layers = recipe.model, recipe.model.num_hidden_layers
    if recipe.training.objective == "rtd":
        layers += recipe.rtd.layers_of_generator(layers)
    hidden, heads = model.hidden_size, model.num_attention_heads * model.attention_head_size
    layer = [(heads, hidden)] * 3 + [(hidden, heads), (model.intermediate_size, hidden), (hidden, model.intermediate_size)]
    return layer * layers
