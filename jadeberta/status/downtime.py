"""What an attempt did while it trained no step: it started up, rolled back, hung, or waited for its last save. Pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jadeberta.errors import StopRequested
from jadeberta.status.attempts import AttemptHistory, stall_seconds
from jadeberta.status.step_table import StepTable
from jadeberta.utils.json_lines import JsonRow, finite


@dataclass
class Downtime:
    """Seconds before, between and after the steps of an attempt, without the stalls that the ledger names."""

    startup: float = 0.0
    """Time before the first step."""
    rollback: float = 0.0
    """Time around roll-backs."""
    hang: float = 0.0
    """Time without progress, as the watchdog reported it."""
    last_save: float = 0.0
    """Time from the last step until the last checkpoint was safe, of an attempt that ended in order and saved there."""


def time_between_steps(history: AttemptHistory) -> Downtime:
    """Adds up what an attempt did between its steps, as far as its events say."""
    result = Downtime()
    for idle in idle_times(history):
        setattr(result, idle.what, getattr(result, idle.what) + idle.seconds)
    return result


@dataclass(frozen=True)
class IdleTime:
    """Part of the time between two steps."""

    what: str
    """Field of `Downtime`."""
    begin: float
    """Unix time at which the gap between the steps begins."""
    end: float
    seconds: float
    """Of that gap; the rest of it is in another part, or a stall that the ledger names."""


def idle_times(history: AttemptHistory) -> Iterator[IdleTime]:
    """Yields what an attempt did between its steps, as far as its events say."""
    begin, end = history.started, history.last
    steps = history.steps[~np.isnan(history.steps.time)]
    events = sorted((e for e in history.events if finite(e, "time") is not None), key=lambda e: e["time"])
    if begin is None or end is None or (len(history.steps) and not len(steps)):
        return
    stalls = _stalls_after(steps, events)
    # The gap before each step, and the one after the last: where it begins and ends, and the events in it.
    lows = np.concatenate(([begin], steps.time))
    highs = np.maximum(lows, np.concatenate((steps.begin, [end])))
    found: dict[int, list[JsonRow]] = {0: [], len(steps): []}
    times = np.array([e["time"] for e in events], dtype=np.float64)
    gaps = np.searchsorted(np.maximum.accumulate(highs), times, side="left")
    for gap, event in zip(gaps, events, strict=True):
        # One beyond the last gap, or before its own, was written while a step was computed: it is no part of a gap.
        if gap <= len(steps) and event["time"] >= lows[gap]:
            found.setdefault(int(gap), []).append(event)
    for gap, inside in found.items():
        low, high = float(lows[gap]), float(highs[gap])
        silent, mark, went_back, saved = 0.0, low, False, False
        for event in inside:
            went_back |= event.get("event") == "rollback"
            saved |= event.get("event") in ("save", "save_failed") and gap > 0 and finite(event, "step") == steps.number[gap - 1]
            if event.get("event") == "hang":
                seconds = finite(event, "seconds")
                silent += event["time"] - mark if seconds is None else max(0.0, min(seconds, event["time"] - mark))
                mark = event["time"]  # several ranks may report one hang: count it once
        rest = max(0.0, high - low - stalls.get(gap, 0.0) - silent)
        if gap == 0:
            yield IdleTime("startup", low, high, rest)
        elif went_back:
            yield IdleTime("rollback", low, high, rest)
        elif gap == len(steps) and saved and _ended_in_order(history):
            yield IdleTime("last_save", low, high, rest)
        if silent:
            yield IdleTime("hang", low, high, silent)


def _ended_in_order(history: AttemptHistory) -> bool:
    """Whether the attempt waited for its last checkpoint before it ended."""
    ending = history.ending or {}
    return ending.get("event") in ("requeue", "done") or ending.get("status") == StopRequested.exit_status


def _stalls_after(steps: StepTable, events: list[JsonRow]) -> dict[int, float]:
    """Seconds that an attempt stood still after its n-th step; 0 stands for the time before the first step.

    A save in the background is recorded some steps later, so the step number of the event counts, not its time.
    """
    stalls: dict[int, float] = {}
    ends = np.maximum.accumulate(steps.time)
    for event in events:
        if (stall := stall_seconds(event)) > 0:
            # Steps done when the event was written; the newest of that number is meant.
            done = int(np.searchsorted(ends, event["time"], side="right"))
            same = np.flatnonzero(steps.number[:done] == int(finite(event, "step") or 0))
            gap = int(same[-1]) + 1 if len(same) else done
            stalls[gap] = stalls.get(gap, 0.0) + stall
    return stalls
