"""What lies ahead of a run: its next save, its end, the jobs that it still needs. Pure functions, except `read_goal`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from jadeberta.config.batch_sizes import ALIKE, BatchSizes
from jadeberta.config.lineage import Lineage, read_lineage
from jadeberta.errors import CheckpointError, JadebertaError
from jadeberta.shards.index import find_index
from jadeberta.status.goodput import Goodput
from jadeberta.status.slurm_jobs import JobStatus


@dataclass(frozen=True)
class Goal:
    """Course of a run by its resolved recipe; None where that says nothing, as it may be of another version."""

    max_steps: int | None = None
    """Steps of the whole run."""
    every_steps: int | None = None
    """Steps between two saves."""
    sizes: BatchSizes = ALIKE
    """Global batch sizes, in tokens where there are phases; all the same where the recipe does not say."""
    lineage: Lineage = ()
    """What the run has started from; empty for random weights."""


def read_goal(run: Path) -> Goal:
    """Reads recipe.yaml and lineage.json of a run directory, as far as that is possible."""
    try:
        lineage = read_lineage(run)
    except CheckpointError:
        lineage = ()
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return Goal(lineage=lineage)
    found = []
    for section, key in (("training", "max_steps"), ("checkpoint", "every_steps")):
        keys = recipe.get(section) if isinstance(recipe, dict) else None
        value = keys.get(key) if isinstance(keys, dict) else None
        found.append(value if isinstance(value, int) and value > 0 else None)
    return Goal(found[0], found[1], _sizes_of(recipe), lineage)


def _sizes_of(recipe: Any) -> BatchSizes:
    try:
        training = recipe["training"]
        if phases := recipe.get("phases"):
            # In tokens: a row of twice the length takes twice the time, or more.
            says_all = all(p.get("sequence_length") for p in phases)
            length, batch = 0 if says_all else _length_of(recipe), int(training["global_batch_size"])
            sizes = [
                (int(p.get("global_batch_size") or batch) * int(p.get("sequence_length") or length), int(p["steps"]))
                for p in phases
            ]
            return BatchSizes(sizes[-1][0], tuple(sizes[:-1]))
        return BatchSizes(int(training["global_batch_size"]), tuple((int(n), int(s)) for n, s in training["batch_size_warmup"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ALIKE


def _length_of(recipe: Any) -> int:
    """Tokens in a row where a phase leaves it out: the only or first length of the shards; the model's longest where they are away."""
    try:
        return int(orjson.loads(find_index(recipe["data"]["shards"]).read_bytes())["sequence_length"])
    except (OSError, KeyError, TypeError, ValueError, JadebertaError):
        return int(recipe["model"]["max_position_embeddings"])


def next_save(result: Goodput, goal: Goal) -> tuple[int, float] | None:
    """Returns the step of the next save, and the seconds until then; None where they are not known."""
    if goal.every_steps is None and goal.max_steps is None:
        return None
    due = (result.step // goal.every_steps + 1) * goal.every_steps if goal.every_steps else math.inf
    step = int(min(due, goal.max_steps or math.inf))
    if step <= result.step or not result.step_s:
        return None
    return step, _size_s(result, goal) * (goal.sizes.before(step) - goal.sizes.before(result.step))


def training_left_s(result: Goodput, goal: Goal) -> float | None:
    """Returns the seconds of steps until the end of the training; None where they are not known, or it has ended."""
    if not goal.max_steps or not result.step_s or result.step >= goal.max_steps:
        return None
    return _size_s(result, goal) * (goal.sizes.before(goal.max_steps) - goal.sizes.before(result.step))


def _size_s(result: Goodput, goal: Goal) -> float:
    """Seconds of a sequence, or of a token where there are phases: a step takes as long as its batch is large."""
    return (result.step_s or 0.0) / goal.sizes.of_step(max(0, result.step - 1))


def jobs_to_come(jobs: JobStatus, left_s: float) -> int | None:
    """Returns how many more jobs with this job's time limit the training needs; None where there is no limit.

    Args:
        jobs: state of the present job.
        left_s: seconds of training left.
    """
    if jobs.limit_in_s is None or not jobs.limit_s:
        return None
    return math.ceil(max(0.0, left_s - jobs.limit_in_s) / jobs.limit_s)
