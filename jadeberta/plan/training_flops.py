"""The floating-point operations of a whole run: what a plan states, and what runs of other recipes can be given as many of."""

from jadeberta.config import Recipe
from jadeberta.config.phases import Phase, batch_sizes_of, phases_of, with_lengths
from jadeberta.training.metrics import step_flops_per_token
from jadeberta.training.optimizers.costs import update_flops


def flops_and_tokens(recipe: Recipe, row_length: int) -> tuple[float, int]:
    """Returns the FLOPs of a run and its tokens; every position of every row counts, as the device computes it.

    Args:
        recipe: of the run.
        row_length: tokens in a row where neither the recipe nor a phase names them.
    """
    found = [flops_and_tokens_of(recipe, phase) for phase in with_lengths(phases_of(recipe), row_length)]
    return sum(flops for flops, _ in found), sum(tokens for _, tokens in found)


def flops_and_tokens_of(recipe: Recipe, phase: Phase) -> tuple[float, int]:
    """Returns the FLOPs of a phase, its updates included, and its tokens.

    Args:
        recipe: of the run.
        phase: of it, with its row length.
    """
    assert phase.sequence_length is not None
    tokens = batch_sizes_of(recipe, phase).before(phase.steps) * phase.sequence_length
    share = sum(phase.mask_bounds) / 2
    of_token = step_flops_per_token(recipe, phase.sequence_length, phase.micro_batch_size, share)
    return tokens * of_token + phase.steps * update_flops(recipe), tokens
