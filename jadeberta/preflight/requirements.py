"""What a run will ask of memory and disks, from its recipe: pure functions."""

from dataclasses import dataclass

from jadeberta.config import Recipe
from jadeberta.plan.forecast import bytes_per_parameter

FILES_PER_CHECKPOINT = 12
"""Beside one file of every rank: weights, configuration, tokenizer, state, manifest."""


@dataclass(frozen=True)
class Need:
    """Of one run."""

    checkpoint_bytes: int
    world_size: int
    soon: int
    """Checkpoints that are to be written before the first old one goes."""
    whole_run: int
    """Checkpoints that are to be written and stay, and the one that is being written."""
    save_s: float
    """After which a save is given up; infinite where there is no limit."""

    def share(self, ranks: int) -> float:
        """Bytes of a checkpoint that some ranks write, and that they need memory for."""
        return self.checkpoint_bytes * ranks / self.world_size

    @property
    def files(self) -> int:
        return self.world_size + FILES_PER_CHECKPOINT


def need_of(recipe: Recipe, parameters: int, world_size: int, existing: int) -> Need:
    """What a run needs.

    Args:
        recipe: checked.
        parameters: of the model.
        world_size: ranks.
        existing: checkpoints that are in the run directory already.
    """
    keep, steps = recipe.checkpoint, recipe.training.max_steps
    if keep.keep_last == 0:
        kept = -(-steps // keep.every_steps)
        soon = 1
    else:
        kept = keep.keep_last + (steps // keep.keep_every if keep.keep_every else 0)
        soon = max(1, keep.keep_last + 1 - existing)
    return Need(
        checkpoint_bytes=parameters * bytes_per_parameter(recipe.training),
        world_size=world_size,
        soon=soon,
        whole_run=max(soon, kept + 1 - existing),
        save_s=recipe.watchdog.save_s / 2 or float("inf"),  # the other half is the watchdog's
    )
