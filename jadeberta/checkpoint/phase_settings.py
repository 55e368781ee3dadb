"""What ties a checkpoint to the phases of its run: those that have begun stay as they were, those to come may be changed."""

from pathlib import Path
from typing import Any

from jadeberta.config import Recipe
from jadeberta.config.phases import mask_range, phases_of
from jadeberta.errors import CheckpointError
from jadeberta.shards import ShardReader

FREE = ("steps", "decay_steps")
"""Keys of the present phase that may change, as max_steps and decay_steps of a run may; its end must not lie behind."""
OF_THE_ORDER = ("mixed", "rows")
"""Keys that decide which order a phase draws from."""


def phase_settings(recipe: Recipe, shards: ShardReader, repeats: dict[str, int]) -> list[dict[str, Any]]:
    """Returns the settings of each phase that a checkpoint belongs to.

    Args:
        recipe: of the run.
        shards: the training split.
        repeats: of each corpus in an epoch, run-wide.
    """
    of_index = {name: corpus.repeats for name, corpus in shards.index.corpora.items()}
    run_wide = recipe.training.mask_probability
    found = []
    for entry, phase in zip(recipe.phases, phases_of(recipe), strict=True):
        own_mask = entry.mask_probability
        is_own = own_mask is not None and (mask_range(own_mask) != mask_range(run_wide) or isinstance(run_wide, list))
        times = repeats if entry.repeats is None else of_index | entry.repeats
        found.append(
            {
                "steps": phase.steps,
                "global_batch_size": phase.global_batch_size,
                "mixed": {"weights": phase.weights} if phase.weights else {"repeats": times},
                "mask_probability": list(mask_range(own_mask)) if is_own and own_mask is not None else None,
                **{key: getattr(entry, key) for key in ("lr", "schedule", "warmup_steps", "decay_steps")},
                "rows": shards.fingerprint_of(phase.sequence_length or shards.sequence_length),
            }
        )
    return found


def has_phases(*found: dict[str, Any]) -> bool:
    """Whether one of some states, or what is expected of them, is of a run with phases."""
    return any("phases" in each["settings"] for each in found)


def without_phases(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the run-wide settings; how the corpora are mixed and the batch are among those of the phases."""
    of_phases = ("phases", "training.global_batch_size", "data.weights")
    return {key: value for key, value in settings.items() if key not in of_phases and not key.startswith("data.repeats.")}


def refuse_changed_phases(directory: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises CheckpointError where a phase that has begun at the step of a checkpoint is another one in the run; names the values."""
    if changed := changed_phase(state, expected):
        raise CheckpointError(
            f"{directory}: made with other phases ({changed}). Set them back, or choose another run.dir; phases that have not begun may "
            "change."
        )


def changed_phase(state: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Says in words which phase that has begun at the step of a checkpoint is another one in a run; None where none is.

    A run without phases is one phase without an end. What a phase reads stays also where a roll-back has led back before it: samples that
    it skips are places in its order.
    """
    step, first = state["step"], 0
    last_read = max((number for number, _, _ in state.get("skipped_samples", ())), default=0)
    before, now = (_phases_in(found) for found in (state, expected))
    for number, (old, new) in enumerate(zip(before, [*now, *[{}] * len(before)], strict=False), 1):
        if first >= step and number > last_read:
            return None
        is_present = old["steps"] is None or first + old["steps"] >= step
        keys = [key for key in old if key not in FREE] if first < step else OF_THE_ORDER
        differ = [key for key in keys if not new or old[key] != new[key]]
        if not is_present:
            differ += [key for key in FREE if not new or old[key] != new[key]]
        elif new and new["steps"] is not None and first + new["steps"] < step:
            differ.append("steps")
        if differ:
            text = "; ".join(f"{key} {old[key]} -> {new[key] if new else 'no such phase'}" for key in differ)
            return f"phase {number}, which has begun: {text}"
        if is_present and number >= last_read:
            return None
        first += old["steps"]
    return None


def _phases_in(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The phases in a checkpoint's state, or in what is expected of it."""
    settings = found["settings"]
    if "phases" in settings:
        return settings["phases"]
    repeats = {key.removeprefix("data.repeats."): n for key, n in settings.items() if key.startswith("data.repeats.")}
    weights = settings.get("data.weights")
    run = dict.fromkeys(("steps", "mask_probability", "lr", "schedule", "warmup_steps", "decay_steps"))
    return [
        {
            **run,
            "global_batch_size": settings.get("training.global_batch_size"),
            "mixed": {"weights": weights} if weights else {"repeats": repeats},
            "rows": found["fingerprints"]["shards"],
        }
    ]
