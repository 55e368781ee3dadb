"""The memory and disk space that a run requires, from its recipe: pure functions."""

from dataclasses import dataclass

from jadeberta.config import Recipe
from jadeberta.plan.forecast import checkpoint_bytes
from jadeberta.plan.run_costs import kept_checkpoints

FILES_PER_CHECKPOINT = 12
"""Files of a checkpoint beside one per rank: weights, configuration, tokenizer, state, manifest."""


@dataclass(frozen=True)
class Requirements:
    """Memory and disk space that one run requires."""

    checkpoint_bytes: int
    """Size of one checkpoint."""
    world_size: int
    soon: int
    """Checkpoints that are written before the first old one is removed."""
    whole_run: int
    """Checkpoints that the whole run adds and keeps, and the one that is being written."""
    save_s: float
    """Time limit of a save, seconds; infinite if there is none."""

    def share(self, ranks: int) -> float:
        """Returns the bytes of a checkpoint that `ranks` ranks write, for which they also need memory."""
        return self.checkpoint_bytes * ranks / self.world_size

    @property
    def files(self) -> int:
        """Files of one checkpoint."""
        return self.world_size + FILES_PER_CHECKPOINT


def requirements_of(recipe: Recipe, parameters: int, world_size: int, existing: int) -> Requirements:
    """Computes the requirements of a run.

    Args:
        recipe: checked.
        parameters: of the model.
        world_size: ranks.
        existing: checkpoints that are already in the run directory.
    """
    keep, kept = recipe.checkpoint, kept_checkpoints(recipe)
    soon = 1 if keep.keep_last == 0 else max(1, keep.keep_last + 1 - existing)
    return Requirements(
        checkpoint_bytes=checkpoint_bytes(recipe, parameters),
        world_size=world_size,
        soon=soon,
        whole_run=max(soon, kept + 1 - existing),
        save_s=recipe.watchdog.save_s / 2 or float("inf"),  # the other half belongs to the watchdog
    )
