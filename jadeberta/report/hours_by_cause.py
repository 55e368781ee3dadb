"""Where every hour of a run went: by day, by attempt, and by what ended an attempt. Pure functions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jadeberta.report.run_facts import RunFacts
from jadeberta.status.attempts import AttemptHistory, stall_seconds
from jadeberta.status.downtime import idle_times
from jadeberta.status.goodput import PARTS
from jadeberta.status.step_table import Booleans, Floats, Integers
from jadeberta.utils.durations import DAY_S
from jadeberta.utils.json_lines import finite

MOST_DAYS = 400
"""Most columns; a longer run, or one with a clock gone wrong, has wider ones."""
IDLE_PARTS = {"startup": "startup_s", "rollback": "rollback_s", "hang": "hang_s", "last_save": "save_stall_s"}
"""Parts of the goodput by the fields of `Downtime`."""
ENDINGS = {
    "killed": "killed, without a record",
    "requeue": "asked to end: time limit, preemption, slow rank",
    "hang": "hang",
    "lost_rank": "lost rank",
    "stop": "stopped by an error or a person",
    "rollback": "roll-back",
    "skip": "skipped steps",
}


def borders_of(facts: RunFacts, width: float) -> Floats:
    """Returns unix times that divide a run into windows of equal width, at most `MOST_DAYS`; empty for a run without a time.

    Args:
        facts: of the run.
        width: seconds of a window.
    """
    began, at = facts.began, facts.at
    if began is None or at <= began:
        return np.zeros(0)
    width = max(width, (at - began) / MOST_DAYS)
    return at - width * np.arange(int(np.ceil((at - began) / width)), -1, -1, dtype=np.float64)


def parts_by_window(facts: RunFacts, borders: Floats) -> dict[str, Floats]:
    """Returns the seconds of each part of the goodput in each window; disjoint, as `Goodput.parts`.

    Args:
        facts: of the run.
        borders: of `borders_of`.
    """
    found = {name: np.zeros(len(borders) - 1) for name in PARTS}
    for place, history in enumerate(facts.histories):
        begin, end = history.started, history.last
        if begin is None or end is None:
            continue
        own = {name: np.zeros(len(borders) - 1) for name in PARTS}
        steps = history.steps
        for name, which in (
            ("lost_s", steps.lost),
            ("skipped_s", steps.skipped & ~steps.lost),
            ("productive_s", ~steps.skipped & ~steps.lost),
        ):
            own[name] += _binned(borders, steps.time[which], steps.seconds[which])
        for event in history.events:
            if (stall := stall_seconds(event)) > 0:
                kind = "evaluation_s" if event["event"] == "evaluation" else "save_stall_s"
                own[kind] += _binned(borders, [finite(event, "time") or end], [stall])
        for idle in idle_times(history):
            share = idle.seconds / (idle.end - idle.begin) if idle.end > idle.begin else 0.0
            own[IDLE_PARTS[idle.what]] += share * _overlap(borders, idle.begin, idle.end)
        known = np.sum(list(own.values()), axis=0)
        own["unaccounted_s"] = np.maximum(0.0, _overlap(borders, begin, end) - known)
        following = facts.histories[place + 1].started if place + 1 < len(facts.histories) else None
        if following is not None:
            own["down_s"] = _overlap(borders, end, following)
        elif facts.alive:
            own["unaccounted_s"] += _overlap(borders, end, facts.seen.now)
        for name, seconds in own.items():
            found[name] += seconds
    return found


def windows_of(borders: Floats, times: Any) -> Integers:
    """Returns the number of the window, from 0, in which each unix time lies; what lies outside belongs to the first or the last.

    Args:
        borders: of `borders_of`, at least two.
        times: unix times, none of them NaN.
    """
    return np.clip(np.searchsorted(borders, times, side="left") - 1, 0, len(borders) - 2)


def _binned(borders: Floats, times: Any, seconds: Any) -> Floats:
    """Seconds by the window in which they end; those of an unknown time belong to the last."""
    times, seconds = np.asarray(times, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    place = windows_of(borders, np.nan_to_num(times, nan=borders[-1]))
    return np.bincount(place, weights=seconds, minlength=len(borders) - 1).astype(np.float64)


def _overlap(borders: Floats, begin: float, end: float) -> Floats:
    """Seconds of [begin, end) in each window."""
    return np.clip(np.minimum(end, borders[1:]) - np.maximum(begin, borders[:-1]), 0.0, None)


@dataclass
class Cause:
    """What cost a run hours."""

    cause: str
    count: int = 0
    lost_steps_s: float = 0.0
    """Steps that were taken again."""
    down_s: float = 0.0
    """From the last row to the first step of the next attempt, and the hang itself."""
    by_hand: int = 0
    """How often a person had to start the run again, as far as the records tell."""
    by_itself: int = 0
    """How often it went on by itself."""


def causes(facts: RunFacts) -> list[Cause]:
    """Returns what cost the run hours, the most expensive first."""
    found: dict[str, Cause] = {}
    decided = _decisions(facts)
    for place, history in enumerate(facts.histories):
        _add_within(found, history)
        following = facts.histories[place + 1] if place + 1 < len(facts.histories) else None
        if following is None:
            continue
        ended = str((history.ending or {}).get("event", "killed"))
        cause = _cause(found, ended)
        cause.count += 1
        cause.lost_steps_s += float(history.steps.seconds[history.steps.lost & ~_undone(history)].sum())
        idle = [i for i in idle_times(history) if i.what == "hang"] + [i for i in idle_times(following) if i.what == "startup"]
        cause.down_s += sum(i.seconds for i in idle)
        if history.last is not None and following.started is not None:
            cause.down_s += max(0.0, following.started - history.last)
        action = decided(history, following)
        cause.by_itself += action in ("requeue", "next", "leave")
        cause.by_hand += action in ("stop", "finish")
    return sorted(found.values(), key=lambda one: -(one.lost_steps_s + one.down_s))


def _cause(found: dict[str, Cause], event: str) -> Cause:
    """The cause among those found so far, or a new one, by the event that tells of it."""
    words = ENDINGS.get(event, event)
    return found.setdefault(words, Cause(words))


def _decisions(facts: RunFacts) -> Callable[[AttemptHistory, AttemptHistory], str]:
    """A function that gives the decision on the job between two attempts; empty where none is recorded."""
    ends = [(finite(row, "time") or 0.0, str(row.get("action"))) for row in facts.records.ends]

    def decided(history: AttemptHistory, following: AttemptHistory) -> str:
        low, high = history.last or 0.0, following.started or 0.0
        return next((action for at, action in reversed(ends) if low - 60 <= at <= high + 60), "")

    return decided


def _undone(history: AttemptHistory) -> Booleans:
    """Which steps of an attempt were undone by its own roll-backs."""
    steps = history.steps
    undone = np.zeros(len(steps), dtype=bool)
    for event in history.events:
        target, at = finite(event, "step"), finite(event, "time")
        if event.get("event") == "rollback" and target is not None and at is not None:
            undone |= (steps.number > target) & (steps.time <= at) & steps.lost
    return undone


def _add_within(found: dict[str, Cause], history: AttemptHistory) -> None:
    """Adds what cost time while an attempt went on."""
    rollbacks = sum(event.get("event") == "rollback" for event in history.events)
    if rollbacks:
        cause = _cause(found, "rollback")
        cause.count += rollbacks
        cause.by_itself += rollbacks
        cause.lost_steps_s += float(history.steps.seconds[_undone(history)].sum())
        cause.down_s += sum(idle.seconds for idle in idle_times(history) if idle.what == "rollback")
    skipped = history.steps.skipped & ~history.steps.lost
    if skipped.any():
        cause = _cause(found, "skip")
        cause.count += int(skipped.sum())
        cause.by_itself += int(skipped.sum())
        cause.lost_steps_s += float(history.steps.seconds[skipped].sum())


def hours(facts: RunFacts) -> dict[str, Any]:
    """Returns `whole` (seconds by part), `days` (`begin`, `end` and seconds by part of each), `attempts` and `causes`."""
    borders = borders_of(facts, DAY_S)
    parts = parts_by_window(facts, borders) if len(borders) > 1 else {}
    days = []
    for place in range(len(borders) - 1):
        seconds = {name: round(float(values[place]), 1) for name, values in parts.items() if values[place] >= 0.05}
        days.append({"begin": float(borders[place]), "end": float(borders[place + 1]), "seconds": seconds})
    whole = {name: round(getattr(facts.goodput, name), 1) for name in PARTS}
    return {"whole": whole, "days": days, "attempts": list(_attempts(facts)), "causes": [vars(cause) for cause in causes(facts)]}


def _attempts(facts: RunFacts) -> Iterator[dict[str, Any]]:
    for history, attempt in zip(facts.histories, facts.goodput.attempts, strict=True):
        steps = history.steps
        trained_from = float(steps.begin[0]) if len(steps) and np.isfinite(steps.begin[0]) else None
        yield {
            "number": attempt.number,
            "ended": attempt.ended,
            "host": attempt.host,
            "ranks": facts.world_size(history),
            "started": attempt.started,
            "trained_from": trained_from,
            "last": attempt.last,
            "first_step": attempt.first_step,
            "last_step": attempt.last_step,
            "steps_s": round(float(steps.seconds[~steps.lost].sum()), 1),
            "lost_s": round(float(steps.seconds[steps.lost].sum()), 1),
            "lost_steps": int(steps.lost.sum()),
            "failed": attempt.failed,
            "gpu_kwh": attempt.gpu_kwh,
            "cpu_kwh": attempt.cpu_kwh,
        }
