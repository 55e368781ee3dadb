"""The learning rate, a pure function of the step: a resumed run cannot have another one."""

import math

from jadeberta.config import Recipe
from jadeberta.config.phases import schedule_at


def rate_of(recipe: Recipe, step: int) -> float:
    """The learning rate of the update from `step` to `step + 1` (steps from 0), as a recipe and its phases say."""
    within, schedule = schedule_at(vars(recipe.training), [vars(phase) for phase in recipe.phases], step)
    return learning_rate(within, **schedule)


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int, schedule: str, decay_steps: int = 0) -> float:
    """The learning rate of the update from `step` to `step + 1`.

    Same values as transformers' schedules of these names; with its get_linear_schedule_with_warmup the published run was made: the
    first update has a rate of 0 and the rate would be 0 again at max_steps. The decay of wsd (warm-up, stable, decay) is 1 - sqrt,
    which ends with a lower loss than a straight line (Haegele et al.: Scaling laws and compute-optimal training beyond fixed training
    durations, 2024) and which ModernBERT took.

    Args:
        step: from 0.
        peak: rate after the warm-up.
        warmup_steps: over which it rises from 0 in a straight line.
        max_steps: of the run.
        schedule: linear, constant, cosine or wsd.
        decay_steps: last steps of wsd.

    Raises:
        ValueError: the schedule is unknown.
    """
    if step < warmup_steps:
        return peak * step / max(1, warmup_steps)
    share = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))  # done of the steps after the warm-up
    match schedule:
        case "constant":
            return peak
        case "linear":
            return peak * max(0.0, (max_steps - step) / max(1, max_steps - warmup_steps))
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * share))
        case "wsd":
            decayed = max(0, step - (max_steps - decay_steps))
            return peak * (1.0 - math.sqrt(min(1.0, decayed / max(1, decay_steps))))
    raise ValueError(f"unknown schedule {schedule!r}")
