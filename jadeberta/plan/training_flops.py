"""The floating-point operations of a whole run, so that runs of other recipes can be given as many."""

from jadeberta.config import Recipe
from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.config.phases import phases_of, with_lengths
from jadeberta.training.metrics import step_flops_per_token
from jadeberta.training.optimizers.orthogonalise import multiplications


def flops_and_tokens(recipe: Recipe, row_length: int) -> tuple[float, int]:
    """Returns the FLOPs of a run and its tokens; every position of every row counts, as the device computes it.

    Args:
        recipe: of the run.
        row_length: tokens in a row where neither the recipe nor a phase names them.
    """
    flops, tokens = 0.0, 0
    for phase in with_lengths(phases_of(recipe), row_length):
        length = phase.sequence_length or row_length
        sizes = recipe.training.batch_sizes if not recipe.phases else BatchSizes(phase.global_batch_size)
        trained = sizes.before(phase.steps) * length
        share = sum(phase.mask_bounds) / 2
        flops += trained * step_flops_per_token(recipe, length, phase.micro_batch_size, share)
        tokens += trained
    return flops + recipe.training.max_steps * update_flops(recipe), tokens


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
