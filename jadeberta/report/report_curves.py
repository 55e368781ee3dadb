"""The curves of a run with about a thousand points each: medians, with least and largest value between two points. Pure functions."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from jadeberta.config import GuardConfig
from jadeberta.report.run_facts import RunFacts
from jadeberta.status.step_table import Floats
from jadeberta.training.guard import FLOORS, NORMAL
from jadeberta.utils.json_lines import JsonRow, finite

POINTS = 1000
"""Most points of a curve."""
MOST_MARKS = 1500
"""Most marks above a chart; there may be thousands of skipped steps."""
MOST_CORPORA = 40

Axes = dict[str, Floats]
"""Places of the standing steps on each x axis."""


def curves(facts: RunFacts) -> dict[str, Any]:
    """Returns the curves of a run as plain lists; None where a figure is not known.

    Returns:
        `x` with step, tokens, hours since the first row, GPU-hours; `loss`, `grad_norm` and `tokens_per_second` with median, min and
        max; `lr`; `limit` of the guard for the gradient norm; `evaluations`; `marks`.
    """
    axes = places(facts)
    edges = _edges(len(facts.standing))
    steps = facts.standing
    loss = np.where(steps.skipped, np.nan, steps.loss)
    norm = np.where(np.isfinite(steps.grad_norm) & (steps.grad_norm >= 0), steps.grad_norm, np.nan)
    last = edges[1:] - 1
    return {
        "x": {name: plain(values[last], 9) for name, values in axes.items()},
        "loss": banded(loss, edges),
        "grad_norm": banded(norm, edges),
        "limit": _limits(facts, norm, last),
        "lr": plain(steps.lr[last]),
        "tokens_per_second": banded(steps.tokens_per_second, edges),
        "masked_accuracy": banded(steps.masked_accuracy, edges),
        "evaluations": evaluations(facts, axes),
        "marks": marks(facts, axes),
    }


def places(facts: RunFacts) -> Axes:
    """Returns where each standing step lies on each x axis; every axis rises."""
    steps, began = facts.standing, facts.began or 0.0
    gpu_hours = np.zeros(len(steps))
    spent = 0.0
    for history in facts.histories:
        size = facts.world_size(history)
        begin, end = history.started, history.last
        if begin is None or end is None:
            continue
        own = steps.attempt == history.attempt
        gpu_hours[own] = spent + size * np.clip(steps.time[own] - begin, 0.0, None) / 3600
        spent += size * max(0.0, end - begin) / 3600
    hours = (steps.time - began) / 3600
    axes = {"step": steps.number.astype(np.float64), "tokens": steps.tokens, "hours": hours, "gpu_hours": gpu_hours}
    return {name: _rising(values) for name, values in axes.items()}


def _rising(values: Floats) -> Floats:
    """Values with unknown ones filled from their neighbours, and none below the one before it: clocks step back."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.zeros(len(values))
    return np.maximum.accumulate(np.interp(np.arange(len(values)), known, values[known]))


def _edges(count: int) -> np.ndarray:
    """Borders of the groups of steps that make a point each."""
    return np.unique(np.linspace(0, count, min(count, POINTS) + 1).astype(np.int64))


def banded(values: Floats, edges: np.ndarray) -> dict[str, list[float | None]]:
    """Returns median, least and largest value of each group; None for a group without any.

    Args:
        values: NaN where not known.
        edges: borders of the groups.
    """
    found = np.full((3, len(edges) - 1), np.nan)
    if len(values) == found.shape[1]:
        found[:] = values
    else:
        for place, (begin, end) in enumerate(pairwise(edges)):
            group = values[begin:end]
            group = group[np.isfinite(group)]
            if len(group):
                found[:, place] = np.median(group), group.min(), group.max()
    return {name: plain(row) for name, row in zip(("median", "min", "max"), found, strict=True)}


def plain(values: Any, digits: int = 5) -> list[float | None]:
    """Returns numbers for JSON, rounded to some digits so that the page stays small; None for what is no number."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=np.float64).tolist()]


def guard_of(facts: RunFacts) -> GuardConfig:
    """Returns the guard's settings in the run's recipe; the defaults where it has none that can be read."""
    found, default = facts.section("guard"), GuardConfig()
    window, deviations = finite(found, "window"), finite(found, "deviations")
    return GuardConfig(
        window=int(window) if window and 0 < window < 1e6 else default.window,
        deviations=default.deviations if deviations is None else deviations,
    )


def _limits(facts: RunFacts, norm: Floats, ends: np.ndarray) -> list[float | None]:
    """The gradient norm above which the guard would skip the step after each point, by the good steps before it."""
    guard = guard_of(facts)
    if guard.deviations <= 0:
        return [None] * len(ends)
    good = np.flatnonzero(~facts.standing.skipped & np.isfinite(norm))
    values, limits = norm[good], np.full(len(ends), np.nan)
    counts = np.searchsorted(good, ends, side="right")
    for place, count in enumerate(counts.tolist()):
        window = values[max(0, count - guard.window) : count]
        if 2 * len(window) >= guard.window:
            median = float(np.median(window))
            deviation = NORMAL * float(np.median(np.abs(window - median)))
            limits[place] = median + guard.deviations * max(deviation, FLOORS["grad_norm"] * abs(median), 1e-12)
    return plain(limits)


def standing_evaluations(facts: RunFacts) -> list[JsonRow]:
    """Returns the evaluations whose step stayed, by step: those that a run went back to before are left out."""
    found: dict[int, JsonRow] = {}
    for event in facts.events:
        step = finite(event, "step")
        if step is None:
            continue
        if event.get("event") in ("resume", "rollback"):
            found = {at: row for at, row in found.items() if at <= step}
        elif event.get("event") == "evaluation" and isinstance(event.get("corpora"), dict) and event["corpora"]:
            found[int(step)] = event
    return [found[step] for step in sorted(found)]


def accuracies(event: JsonRow) -> dict[str, float]:
    """Returns the held-out accuracy by corpus of an event `evaluation`, as far as it has its form."""
    return {
        str(name): value
        for name, figures in event["corpora"].items()
        if isinstance(figures, dict) and (value := finite(figures, "accuracy")) is not None
    }


def evaluations(facts: RunFacts, axes: Axes) -> dict[str, Any]:
    """Returns held-out accuracy by corpus with the places of the evaluations on each axis."""
    rows = standing_evaluations(facts)
    found = [accuracies(row) for row in rows]
    names = list(dict.fromkeys(name for each in found for name in each))[:MOST_CORPORA]
    return {
        "x": place_of([float(row["step"]) for row in rows], axes),
        "corpora": {name: plain([each.get(name, np.nan) for each in found]) for name in names},
    }


def place_of(steps: list[float], axes: Axes) -> dict[str, list[float | None]]:
    """Returns where steps lie on each axis."""
    numbers = axes["step"]
    if not len(numbers):
        return {name: plain(steps if name == "step" else [np.nan] * len(steps), 9) for name in axes}
    return {name: plain(steps if name == "step" else np.interp(steps, numbers, values), 9) for name, values in axes.items()}


def marks(facts: RunFacts, axes: Axes) -> list[dict[str, Any]]:
    """Returns what the charts mark: kind, text and place of restarts, skips, roll-backs, hangs, failed saves and phases."""
    found: list[tuple[str, float, str]] = []
    for history in facts.histories[1:]:
        resumes = [s for e in history.events if e.get("event") == "resume" and (s := finite(e, "step")) is not None]
        first = float(history.steps.number[0] - 1) if len(history.steps) else None
        if (at := resumes[0] if resumes else first) is not None:
            found.append(("restart", at, f"attempt {history.attempt} from step {at:,.0f}"))
    sentences: dict[str, Callable[[JsonRow], str]] = {
        "skip": lambda e: f"step {e['step']:,} skipped",
        "rollback": lambda e: f"rolled back from step {finite(e, 'from_step') or 0:,.0f} to {e['step']:,}",
        "hang": lambda e: f"hang at step {e['step']:,}",
        "save_failed": lambda e: f"the checkpoint of step {e['step']:,} was not written",
    }
    for event in facts.events:
        step, say = finite(event, "step"), sentences.get(str(event.get("event")))
        if say is not None and step is not None:
            found.append((event["event"], step, say(event)))
    found += [("phase", step, f"phase {number} begins") for number, step in phase_borders(facts)]
    rare = [one for one in found if one[0] != "skip"]
    skips = [one for one in found if one[0] == "skip"]
    room = max(0, MOST_MARKS - len(rare))
    kept = rare[-MOST_MARKS:] + skips[:: max(1, -(-len(skips) // room))] if room else rare[-MOST_MARKS:]
    kept.sort(key=lambda one: one[1])
    where = place_of([step for _, step, _ in kept], axes)
    return [
        {"kind": kind, "text": text, "x": {name: values[place] for name, values in where.items()}}
        for place, (kind, _, text) in enumerate(kept)
    ]


def phase_borders(facts: RunFacts) -> list[tuple[int, float]]:
    """Returns number and first step of each phase after the first that the run has reached."""
    entries, step, found = facts.recipe.get("phases"), 0.0, []
    for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
        if number > 1 and step < facts.goodput.step:
            found.append((number, step))
        step += (finite(entry, "steps") or 0.0) if isinstance(entry, dict) else 0.0
    return found
