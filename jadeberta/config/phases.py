"""The phases of a run: what holds at each step, as a pure function of the recipe. A recipe without phases is one phase.

A phase is a range of training steps: a roll-back moves no border.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.config.phase_config import PhaseConfig
from jadeberta.config.row_lengths import check_rows
from jadeberta.config.schema import Recipe, accumulation_steps
from jadeberta.errors import ConfigError

WEIGHT_TOLERANCE = 1e-6
"""How far the sum of weights may lie from 1."""


@dataclass(frozen=True)
class Phase:
    """A phase with nothing left open but a row length that the shards say."""

    number: int
    """From 1."""
    first_step: int
    """First training step, from 0."""
    steps: int
    sequence_length: int | None
    """Tokens in a row; None: the shard directory's only or first length."""
    global_batch_size: int
    micro_batch_size: int
    weights: dict[str, float]
    """Share of the rows from each corpus; empty where the corpora are mixed by repeats."""
    repeats: dict[str, int]
    """Changes to the repeats of the index; empty where the corpora are mixed by weight."""
    mask_probability: tuple[float, float]
    """At the first and at the last step of `mask_steps`; a straight line in between."""
    mask_steps: tuple[int, int]
    """Training steps [first, end) over which the mask probability changes: the phase's or the run's."""
    attention: str

    @property
    def end(self) -> int:
        """Training step after the last one."""
        return self.first_step + self.steps

    def mask_probability_at(self, step: int) -> float:
        """Share of the tokens to predict at a training step, from 0."""
        (first, last), (begin, end) = self.mask_probability, self.mask_steps
        if first == last:
            return first
        return first + (last - first) * min(1.0, max(0, step - begin) / max(1, end - begin - 1))

    @property
    def mask_bounds(self) -> tuple[float, float]:
        """Mask probability at the first and at the last step of the phase."""
        return self.mask_probability_at(self.first_step), self.mask_probability_at(self.end - 1)

    def in_words(self, world_size: int) -> str:
        """The phase as text, for ranks of which each gets an equal share."""
        accumulation = self.global_batch_size // (self.micro_batch_size * world_size)
        mixed = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items() if weight)
        first, last = self.mask_bounds
        return (
            f"steps {self.first_step + 1:,} to {self.end:,}, rows of {self.sequence_length}, {self.global_batch_size} sequences a step "
            f"(micro-batch {self.micro_batch_size} x accumulation {accumulation}), masks {_percent(first)}"
            + (f" to {_percent(last)}" if first != last else "")
            + f", attention {self.attention}"
            + (f"; {mixed}" if mixed else "")
        )


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def phases_of(recipe: Recipe) -> tuple[Phase, ...]:
    """Returns the phases of a run in order; one where the recipe has none."""
    training = recipe.training
    entries = recipe.phases or [PhaseConfig(steps=training.max_steps)]
    firsts = [0, *accumulate(entry.steps for entry in entries)]
    phases = []
    for number, (entry, first) in enumerate(zip(entries, firsts, strict=False), 1):
        run_wide = entry.mask_probability is None
        mask = training.mask_probability if entry.mask_probability is None else entry.mask_probability
        repeats = {} if entry.weights is not None else recipe.data.repeats if entry.repeats is None else entry.repeats
        phases.append(
            Phase(
                number=number,
                first_step=first,
                steps=entry.steps,
                sequence_length=entry.sequence_length,
                global_batch_size=entry.global_batch_size or training.global_batch_size,
                micro_batch_size=entry.micro_batch_size or training.micro_batch_size,
                weights=(recipe.data.weights if entry.repeats is None else {}) if entry.weights is None else entry.weights,
                repeats=repeats,
                mask_probability=mask_range(mask),
                mask_steps=(0, training.max_steps) if run_wide else (first, first + entry.steps),
                attention=entry.attention or recipe.model.attention,
            )
        )
    return tuple(phases)


def mask_range(value: float | Sequence[float]) -> tuple[float, float]:
    """Returns a mask probability as [from, to]; a constant one as the same number twice."""
    return (value, value) if isinstance(value, int | float) else (value[0], value[1])


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase of a training step (from 0); the last one after the end."""
    return phases[min(bisect_right([phase.first_step for phase in phases], step), len(phases)) - 1]


def with_lengths(phases: Sequence[Phase], default: int) -> tuple[Phase, ...]:
    """Returns the phases with `default` as the row length where the recipe leaves it out."""
    return tuple(replace(phase, sequence_length=phase.sequence_length or default) for phase in phases)


def has_own_order(recipe: Recipe) -> bool:
    """Whether the samples come in the order of phases or weights, not in the published one."""
    return bool(recipe.phases or recipe.data.weights)


def batch_sizes_of(recipe: Recipe, phase: Phase) -> BatchSizes:
    """Returns the batch size of every step of a phase; only a recipe without phases may warm it up."""
    return BatchSizes(phase.global_batch_size) if recipe.phases else recipe.training.batch_sizes


def token_sizes(recipe: Recipe, length: int) -> BatchSizes:
    """Size of every step for a reckoning of time: sequences, and tokens where there are phases.

    Args:
        recipe: of the run.
        length: tokens in a row where a phase does not say it.
    """
    if not recipe.phases:
        return recipe.training.batch_sizes
    sizes = [(p.global_batch_size * (p.sequence_length or length), p.steps) for p in phases_of(recipe)]
    return BatchSizes(sizes[-1][0], tuple(sizes[:-1]))


def schedule_at(training: Mapping[str, Any], phases: Sequence[Mapping[str, Any]], step: int) -> tuple[int, dict[str, Any]]:
    """Returns the learning-rate schedule of a training step.

    Args:
        training: that section of a recipe; of an older one too, which lacks keys.
        phases: entries of `phases`.
        step: from 0.

    Returns:
        The step within the schedule, and the arguments of `lr_schedule.learning_rate`.
    """
    first = 0
    for phase in phases:
        if step < first + phase["steps"]:
            own = {key: phase.get(key) for key in ("lr", "schedule", "warmup_steps", "decay_steps")}
            if all(value is None for value in own.values()):
                break
            return step - first, {
                "peak": training["lr"] if own["lr"] is None else own["lr"],
                "schedule": own["schedule"] or training["schedule"],
                "warmup_steps": own["warmup_steps"] or 0,
                "decay_steps": own["decay_steps"] or 0,
                "max_steps": phase["steps"],
            }
        first += phase["steps"]
    keys = ("warmup_steps", "max_steps", "schedule", "decay_steps")
    return step, {"peak": training["lr"], **{key: training[key] for key in keys if key in training}}


def recipe_in(recipe: Recipe, phase: Phase) -> Recipe:
    """Returns a recipe without phases whose run is this phase alone: what holds in the phase holds in it run-wide."""
    result = deepcopy(replace(recipe, phases=[]))
    entry = recipe.phases[phase.number - 1] if recipe.phases else None
    training = result.training
    training.global_batch_size, training.micro_batch_size = phase.global_batch_size, phase.micro_batch_size
    bounds = phase.mask_bounds
    training.mask_probability = bounds[0] if bounds[0] == bounds[1] else list(bounds)
    result.model.attention = phase.attention  # type: ignore[assignment]
    result.data.weights, result.data.repeats = phase.weights, phase.repeats
    if entry is None:
        return result
    training.max_steps = phase.steps
    if entry.has_schedule:
        training.lr = training.lr if entry.lr is None else entry.lr
        training.schedule = entry.schedule or training.schedule
        training.warmup_steps, training.decay_steps = entry.warmup_steps or 0, entry.decay_steps or 0
    else:  # the run's, of which the phase is a part
        training.warmup_steps, training.decay_steps = 0, 0
    return result


def require_divisible(recipe: Recipe, world_size: int) -> int:
    """Checks that the batch of every phase divides over the ranks; returns the micro-batches of a rank in a step of the first phase.

    Raises:
        ConfigError: one does not; names the phase, and the world sizes and micro-batches that fit.
    """
    if not recipe.phases:
        return recipe.training.accumulation(world_size)
    counts = []
    for phase in phases_of(recipe):
        try:
            counts.append(accumulation_steps(phase.global_batch_size, phase.micro_batch_size, world_size))
        except ConfigError as e:
            raise ConfigError(f"phases, entry {phase.number}: {e}") from e
    return counts[0]


def check_phases(recipe: Recipe) -> None:
    """Checks what concerns the phases together, and each phase's own keys.

    Raises:
        ConfigError: a key is out of its range, or the phases do not make up the run.
    """
    _check_weights(recipe.data.weights, "data.weights")
    if recipe.data.weights and recipe.data.repeats:
        raise ConfigError("data.weights and data.repeats are two ways to mix the corpora; give one of them.")
    if has_own_order(recipe) and recipe.training.batch_size_warmup:
        other = "phases" if recipe.phases else "data.weights"
        raise ConfigError(
            f"training.batch_size_warmup does not go together with {other}; write each of its entries as a phase with steps and "
            "global_batch_size, which goes on in the same order of the data."
        )
    for number, phase in enumerate(recipe.phases, 1):
        _check_entry(phase, f"phases, entry {number}", recipe)
    steps = [phase.steps for phase in recipe.phases]
    if recipe.phases and sum(steps) != recipe.training.max_steps:
        raise ConfigError(
            f"the steps of phases are {' + '.join(map(str, steps))} = {sum(steps)}, but training.max_steps is "
            f"{recipe.training.max_steps}; change one of them."
        )


def _check_entry(phase: PhaseConfig, where: str, recipe: Recipe) -> None:
    for key, low in (("steps", 1), ("sequence_length", 1), ("global_batch_size", 1), ("micro_batch_size", 1), ("warmup_steps", 0),
                     ("decay_steps", 0)):  # fmt: skip
        if (value := getattr(phase, key)) is not None and value < low:
            raise ConfigError(f"{where}: {key} is {value}; it must be at least {low}.")
    if phase.weights is not None and phase.repeats is not None:
        raise ConfigError(f"{where}: weights and repeats are two ways to mix the corpora; give one of them.")
    if phase.weights is not None:
        if not phase.weights:
            raise ConfigError(f"{where}: weights is empty; name each corpus with its share, or leave the key out.")
        _check_weights(phase.weights, f"{where}: weights")
    model, rows = recipe.model, phase.micro_batch_size or recipe.training.micro_batch_size
    length = phase.sequence_length or model.max_position_embeddings
    check_rows(model, length, rows, phase.attention or model.attention, f"{where}: sequence_length")


def _check_weights(weights: Mapping[str, float], key: str) -> None:
    if any(not math.isfinite(weight) or weight < 0 for weight in weights.values()):
        raise ConfigError(f"{key} holds a number below 0: {dict(weights)}.")
    if weights and abs((total := math.fsum(weights.values())) - 1) > WEIGHT_TOLERANCE:
        raise ConfigError(f"{key} add up to {total:.6g}; shares of the rows must add up to 1: {dict(weights)}.")
