"""What an attempt did while it trained no step: it started up, rolled back, hung, or waited for its last save. Pure functions."""

from dataclasses import dataclass

from jadeberta.errors import StopRequested
from jadeberta.status.attempts import AttemptHistory, StepRow, stall_seconds
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
    begin, end = history.started, history.last
    timed = [step for step in history.steps if step.time is not None]
    events = sorted((e for e in history.events if finite(e, "time") is not None), key=lambda e: e["time"])
    if begin is None or end is None or (history.steps and not timed):
        return result
    stalls = _stalls_after(timed, events)
    # `low` and `high` bound the gap before each step; `place` is the next event to look at.
    place, low = 0, begin
    for gap, step in enumerate([*timed, None]):
        high = max(low, step.begin if step is not None and step.begin is not None else end)
        silent, mark, went_back, saved = 0.0, low, False, False
        while place < len(events) and events[place]["time"] <= high:
            event = events[place]
            place += 1
            if event["time"] < low:
                continue  # written while a step was computed: no part of a gap
            went_back |= event.get("event") == "rollback"
            saved |= event.get("event") in ("save", "save_failed") and gap > 0 and event.get("step") == timed[gap - 1].number
            if event.get("event") == "hang":
                seconds = finite(event, "seconds")
                silent += event["time"] - mark if seconds is None else max(0.0, min(seconds, event["time"] - mark))
                mark = event["time"]  # several ranks may report one hang: count it once
        rest = max(0.0, high - low - stalls.get(gap, 0.0) - silent)
        if gap == 0:
            result.startup += rest
        elif went_back:
            result.rollback += rest
        elif step is None and saved and _ended_in_order(history):
            result.last_save += rest
        result.hang += silent
        low = high if step is None or step.time is None else step.time
    return result


def _ended_in_order(history: AttemptHistory) -> bool:
    """Whether the attempt waited for its last checkpoint before it ended."""
    ending = history.ending or {}
    return ending.get("event") in ("requeue", "done") or ending.get("status") == StopRequested.exit_status


def _stalls_after(steps: list[StepRow], events: list[JsonRow]) -> dict[int, float]:
    """Seconds that an attempt stood still after its n-th step; 0 stands for the time before the first step.

    A save in the background is recorded some steps later, so the step number of the event counts, not its time.
    """
    stalls: dict[int, float] = {}
    place, gap_of = 0, dict[int, int]()
    for event in events:
        while place < len(steps) and (steps[place].time or 0.0) <= event["time"]:
            gap_of[steps[place].number] = place + 1
            place += 1
        if (stall := stall_seconds(event)) > 0:
            gap = gap_of.get(int(finite(event, "step") or 0), place)
            stalls[gap] = stalls.get(gap, 0.0) + stall
    return stalls
