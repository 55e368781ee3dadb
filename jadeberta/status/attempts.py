"""The attempts of a run, put together from its ledger and metrics rows: what each did, and which of its steps stayed.

An attempt is one start of the run. Pure functions of plain rows, except `read_run`. Any key of a row may be missing, because kills may
have truncated the files; whatever is there is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jadeberta.errors import InputError
from jadeberta.status.metrics_cache import read_steps
from jadeberta.status.step_table import LARGEST, Floats, StepTable, encode_rows, to_table
from jadeberta.training.ledger import ENDING_EVENTS
from jadeberta.utils.json_lines import JsonRow, finite, read_jsonl, time_of

CLOCK_SKEW_S = 5.0
"""Differences up to this much are those between the clocks of two hosts, and are left as they are."""
STALL_EVENTS = ("save", "save_failed", "evaluation")
"""Events that say how long the training stood still."""


@dataclass
class AttemptHistory:
    """Rows of one attempt of a run, in the order of time."""

    attempt: int
    events: list[JsonRow] = field(default_factory=list)
    steps: StepTable = field(default_factory=lambda: to_table(encode_rows([])))

    @property
    def times(self) -> list[float]:
        """Unix times at which the attempt is known to have been running."""
        ends = self.steps[np.array([0, -1])] if len(self.steps) else self.steps
        steps = [float(t) for t in (*ends.begin, *ends.time) if not np.isnan(t)]
        return [t for e in self.events if (t := finite(e, "time")) is not None] + steps

    @property
    def standing(self) -> StepTable:
        """Its steps that stayed."""
        kept = np.flatnonzero(~self.steps.lost)
        if len(kept) and kept[-1] - kept[0] + 1 == len(kept):
            return self.steps[int(kept[0]) : int(kept[-1]) + 1]  # a view: of a long run a copy takes as much memory again
        return self.steps[kept]

    @property
    def started(self) -> float | None:
        """Unix time of its first row; None where no row has a time."""
        return min(self.times, default=None)

    @property
    def last(self) -> float | None:
        """Unix time of its last row; None where no row has a time."""
        return max(self.times, default=None)

    @property
    def ending(self) -> JsonRow | None:
        """The event that says how it ended; None where it was killed, or is running."""
        found = next((e for e in reversed(self.events) if e.get("event") in ENDING_EVENTS), None)
        if found is None or found["event"] != "hang":
            return found
        at = finite(found, "time")
        # Steps after a hang mean that the ranks went on, so it ended nothing.
        return None if at is not None and len(self.steps) and self.steps.time[-1] > at else found


def stall_seconds(event: JsonRow) -> float:
    """Returns how long the training stood still for a save or an evaluation; 0 for other events."""
    if event.get("event") not in STALL_EVENTS:
        return 0.0
    # Ledgers of old versions have `seconds` for a save too.
    seconds = finite(event, "seconds" if event["event"] == "evaluation" or "stall_s" not in event else "stall_s")
    return max(0.0, seconds or 0.0)


def read_run(run: Path) -> tuple[list[JsonRow], StepTable, float | None]:
    """Reads a run directory: the rows of its ledger, its steps, and the unix time of the newest row of metrics.jsonl.

    Raises:
        InputError: there is no ledger, or it is empty.
    """
    ledger = read_jsonl(run / "ledger.jsonl")
    if not ledger:
        raise InputError(f"{run}: no ledger.jsonl with a run in it. Name a run directory that 'jadeberta pretrain' has written.")
    return ledger, *read_steps(run)


def read_history(ledger: list[JsonRow], metrics: list[JsonRow] | StepTable) -> list[AttemptHistory]:
    """Puts together the attempts of a run, first to last, and marks the steps that did not stay as lost.

    Args:
        ledger: rows of ledger.jsonl, in its order.
        metrics: rows of metrics.jsonl in its order, or its steps.
    """
    steps = metrics if isinstance(metrics, StepTable) else to_table(encode_rows(metrics))
    attempts: dict[int, AttemptHistory] = {}
    for attempt, event in _with_attempt(ledger):
        attempts.setdefault(attempt, AttemptHistory(attempt)).events.append(event)
    if len(steps):
        if np.any(np.diff(steps.attempt) < 0):
            steps = steps[np.argsort(steps.attempt, kind="stable")]
        borders = [0, *(np.flatnonzero(np.diff(steps.attempt)) + 1), len(steps)]
        for begin, end in pairwise(borders):
            attempt = int(steps.attempt[begin])
            attempts.setdefault(attempt, AttemptHistory(attempt)).steps = steps[begin:end]
    histories = _undo_clock_steps([attempts[attempt] for attempt in sorted(attempts)])
    _mark_lost(histories)
    return histories


def _undo_clock_steps(histories: list[AttemptHistory]) -> list[AttemptHistory]:
    """The attempts of a run, each with all its times on one clock, that of its newest rows, where a clock was set back meanwhile.

    Rows come in the order in which they were written, so a row that seems newer than the one after it was written by a clock that was
    ahead. Steps last as long as their own monotonic clock says, which tells by how much it was set back.
    """
    found, shift, newer_host = [], 0.0, None
    for history in reversed(histories):
        host = history.events[0].get("host") if history.events else None
        if host != newer_host:
            shift = 0.0  # the clock of the attempt after it says nothing about that of another host
        newer_host = host
        steps, shifts = _shift_steps(history.steps, shift)
        trained_from = float(steps.begin[0]) if len(steps) else np.nan
        events, shift = _shift_events(history.events, shifts, None if np.isnan(trained_from) else trained_from)
        found.append(AttemptHistory(history.attempt, events, steps))
    return found[::-1]


def _shift_steps(steps: StepTable, shift: float) -> tuple[StepTable, list[float]]:
    """The steps of an attempt on its newest clock, and what was added to their times: first to the newest, last to the oldest.

    Args:
        steps: in their order.
        shift: what has to be added to the times of the newest.
    """
    timed = np.flatnonzero(~np.isnan(steps.time))
    # By how much each step ends after the next one begins: both by the clock of their time, so the sum of the shifts is that of the gaps.
    ahead = steps.time[timed[:-1]] - steps.begin[timed[1:]]
    jumps: Floats = np.where(ahead > CLOCK_SKEW_S, ahead, 0.0)
    if not shift and not jumps.any():
        return steps, [shift]
    added = np.full(len(timed), shift)
    added[:-1] -= np.cumsum(jumps[::-1])[::-1]
    times = steps.time.copy()
    times[timed] += added
    return replace(steps, time=times), [shift, *(float(one) for one in added[:-1][jumps > 0][::-1])]


def _shift_events(events: list[JsonRow], shifts: list[float], trained_from: float | None) -> tuple[list[JsonRow], float]:
    """The events of an attempt on its newest clock, and what was added to the time of the oldest.

    Args:
        events: in their order.
        shifts: of its steps, see `_shift_steps`.
        trained_from: begin of its first step on the newest clock.
    """
    place, shift, shifted = 0, shifts[0], []
    after: float | None = None
    for event in reversed(events):
        if event.get("event") == "start" and trained_from is not None:
            after = min(after, trained_from) if after is not None else trained_from
        if finite(event, "time") is not None:
            at = time_of(event)
            if after is not None and at + shift > after + CLOCK_SKEW_S:
                if any(event.get(key) != events[0].get(key) for key in ("host", "pid")):
                    at = after - shift  # of another process, whose clock says nothing about that of rank 0
                else:
                    # The shift of some steps where one puts it before the event after it.
                    fitting = [(p, s) for p, s in enumerate(shifts) if p > place and at + s <= after + CLOCK_SKEW_S]
                    place, shift = fitting[0] if fitting else (place, after - at)
            event = {**event, "time": at + shift}
            after = at + shift
        shifted.append(event)
    return shifted[::-1], shift


def _with_attempt(rows: list[JsonRow]) -> Iterator[tuple[int, JsonRow]]:
    """Yields rows with the number of their attempt; a row without one belongs to the attempt of the row before."""
    attempt = 0
    for row in rows:
        # Rows of old versions have `life` only.
        named = finite(row, "attempt" if "attempt" in row else "life")
        if named is not None and abs(named) < LARGEST:  # a number beyond is damage, as in metrics.jsonl
            attempt = int(named)
        yield attempt, row


def _mark_lost(histories: list[AttemptHistory]) -> None:
    """Marks every step that the run went back to before: by a new attempt, a roll-back, or a step number that comes again."""
    standing: list[_Piece] = []
    for history in histories:
        steps = history.steps
        returns = [e for e in history.events if e.get("event") in ("resume", "rollback") and finite(e, "step") is not None]
        # Places at which a number comes again, or a smaller one: in between the numbers rise.
        falls = [*(np.flatnonzero(np.diff(steps.number) <= 0) + 1), len(steps)]
        place = 0
        while place < len(steps):
            while returns and not _done_by(steps.time[place], returns[0]):
                _go_back(standing, int(returns.pop(0)["step"]))
            # A number that comes again replaces the older step, also where no event says that the run went back.
            _go_back(standing, int(steps.number[place]) - 1)
            end = falls[0]
            if returns:
                after = np.flatnonzero(~_done_by(steps.time[place:end], returns[0]))
                end = place + int(after[0]) if len(after) else end
            standing.append(_Piece(steps, place, end))
            if end == falls[0]:
                falls.pop(0)
            place = end
        for event in returns:
            _go_back(standing, int(event["step"]))


@dataclass
class _Piece:
    """Steps from `begin` to `end`, whose numbers rise."""

    steps: StepTable
    begin: int
    end: int


def _done_by(times: Any, event: JsonRow) -> Any:
    """Whether a step was done when an event of its attempt was written, by the step's time, or for each of several times."""
    at = finite(event, "time")
    return times <= (-np.inf if at is None else at)


def _go_back(standing: list[_Piece], step: int) -> None:
    while standing:
        last = standing[-1]
        kept = last.begin + int(np.searchsorted(last.steps.number[last.begin : last.end], step, side="right"))
        last.steps.lost[kept : last.end] = True
        if kept > last.begin:
            last.end = kept
            return
        standing.pop()
