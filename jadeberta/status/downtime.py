"""What a life did while it took no step: started up, went back to a checkpoint, hung, or waited for its last save. Pure functions."""

from dataclasses import dataclass

from jadeberta.errors import StopRequested
from jadeberta.status.attempts import History, Row, Step, finite, stall_seconds


@dataclass
class Gaps:
    """Seconds before, between and after the steps of a life, without the stalls that the ledger names."""

    startup: float = 0.0
    """Before the first step."""
    rollback: float = 0.0
    """Around a roll-back."""
    hang: float = 0.0
    """Nothing moved, as the watchdog says."""
    last_save: float = 0.0
    """After the last step of a life that ended in order, where it saved: until the checkpoint was safe."""


def time_between_steps(history: History) -> Gaps:
    """What a life did between its steps, as far as its events tell."""
    result = Gaps()
    begin, end = history.started, history.last
    timed = [step for step in history.steps if step.time is not None]
    events = sorted((e for e in history.events if finite(e, "time") is not None), key=lambda e: e["time"])
    if begin is None or end is None or (history.steps and not timed):
        return result
    stalls = _stalls_after(timed, events)
    place, low = 0, begin
    for gap, step in enumerate([*timed, None]):
        high = max(low, step.begin if step is not None and step.begin is not None else end)
        silent, mark, went_back, saved = 0.0, low, False, False
        while place < len(events) and events[place]["time"] <= high:
            event = events[place]
            place += 1
            if event["time"] < low:
                continue  # while a step was computed
            went_back |= event.get("event") == "rollback"
            saved |= event.get("event") in ("save", "save_failed") and gap > 0 and event.get("step") == timed[gap - 1].number
            if event.get("event") == "hang":
                seconds = finite(event, "seconds")
                silent += event["time"] - mark if seconds is None else max(0.0, min(seconds, event["time"] - mark))
                mark = event["time"]  # several ranks may report one silence
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


def _ended_in_order(history: History) -> bool:
    """Whether the life waited for its last checkpoint before it ended."""
    ending = history.ending or {}
    return ending.get("event") in ("requeue", "done") or ending.get("status") == StopRequested.exit_status


def _stalls_after(steps: list[Step], events: list[Row]) -> dict[int, float]:
    """Seconds that a life stood still after its n-th step; 0 is before the first. A save beside the training is written down later."""
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
