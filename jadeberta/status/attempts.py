"""The attempts of a run, put together from its ledger and metrics rows: what each did, and which of its steps stayed.

An attempt is one start of the run. Pure functions of plain rows, except `read_rows`. Any key of a row may be missing, because kills may
have truncated the files; whatever is there is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from jadeberta.errors import InputError
from jadeberta.training.ledger import ENDING_EVENTS
from jadeberta.utils.json_lines import JsonRow, finite, read_jsonl, time_of

CLOCK_SKEW_S = 5.0
"""Differences up to this much are those between the clocks of two hosts, and are left as they are."""
STALL_EVENTS = ("save", "save_failed", "evaluation")
"""Events that say how long the training stood still."""


@dataclass
class StepRow:
    """One row of metrics.jsonl."""

    attempt: int
    """Number of the attempt that trained the step, from 0."""
    number: int
    """Number of the step, from 1."""
    time: float | None
    """Unix time of its end; None where the row has none."""
    seconds: float
    """Duration, its wait for data included."""
    skipped: bool
    """Whether it changed no weight."""
    row: JsonRow
    lost: bool = False
    """Whether the run went back to before it."""

    @property
    def begin(self) -> float | None:
        return None if self.time is None else self.time - self.seconds


@dataclass
class AttemptHistory:
    """Rows of one attempt of a run, in the order of time."""

    attempt: int
    events: list[JsonRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)

    @property
    def times(self) -> list[float]:
        """Unix times at which the attempt is known to have been running."""
        steps = [t for s in (*self.steps[:1], *self.steps[-1:]) for t in (s.begin, s.time) if t is not None]
        return [t for e in self.events if (t := finite(e, "time")) is not None] + steps

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
        at, last_step = finite(found, "time"), max((s.time for s in self.steps[-1:] if s.time is not None), default=None)
        # Steps after a hang mean that the ranks went on, so it ended nothing.
        return None if at is not None and last_step is not None and last_step > at else found


def stall_seconds(event: JsonRow) -> float:
    """Returns how long the training stood still for a save or an evaluation; 0 for other events."""
    if event.get("event") not in STALL_EVENTS:
        return 0.0
    # Ledgers of old versions have `seconds` for a save too.
    seconds = finite(event, "seconds" if event["event"] == "evaluation" or "stall_s" not in event else "stall_s")
    return max(0.0, seconds or 0.0)


def read_rows(run: Path) -> tuple[list[JsonRow], list[JsonRow]]:
    """Reads ledger and metrics of a run directory.

    Raises:
        InputError: there is no ledger, or it is empty.
    """
    ledger = read_jsonl(run / "ledger.jsonl")
    if not ledger:
        raise InputError(f"{run}: no ledger.jsonl with a run in it. Name a run directory that 'jadeberta pretrain' has written.")
    return ledger, read_jsonl(run / "metrics.jsonl")


def read_history(ledger: list[JsonRow], metrics: list[JsonRow]) -> list[AttemptHistory]:
    """Puts together the attempts of a run, first to last, and marks the steps that did not stay as lost."""
    attempts: dict[int, AttemptHistory] = {}
    for attempt, event in _with_attempt(ledger):
        attempts.setdefault(attempt, AttemptHistory(attempt)).events.append(event)
    for attempt, row in _with_attempt(metrics):
        if (step := finite(row, "step")) is not None:
            seconds = max(0.0, finite(row, "step_s") or 0.0)
            trained = StepRow(attempt, int(step), finite(row, "time"), seconds, bool(row.get("skipped")), row)
            attempts.setdefault(attempt, AttemptHistory(attempt)).steps.append(trained)
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
        events, shift = _shift_events(history.events, shifts, steps[0].begin if steps else None)
        found.append(AttemptHistory(history.attempt, events, steps))
    return found[::-1]


def _shift_steps(steps: list[StepRow], shift: float) -> tuple[list[StepRow], list[float]]:
    """The steps of an attempt on its newest clock, and what was added to their times: first to the newest, last to the oldest.

    Args:
        steps: in their order.
        shift: what has to be added to the times of the newest.
    """
    shifts, shifted = [shift], []
    after: float | None = None  # when the step after it began
    for step in reversed(steps):
        if step.time is not None:
            if after is not None and step.time + shifts[-1] > after + CLOCK_SKEW_S:
                shifts.append(after - step.time)
            step = replace(step, time=step.time + shifts[-1])
            after = step.begin
        shifted.append(step)
    return shifted[::-1], shifts


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
        if (named := finite(row, "attempt" if "attempt" in row else "life")) is not None:
            attempt = int(named)
        yield attempt, row


def _mark_lost(histories: list[AttemptHistory]) -> None:
    """Marks every step that the run went back to before: by a new attempt, a roll-back, or a step number that comes again."""
    standing: list[StepRow] = []
    for history in histories:
        returns = [e for e in history.events if e.get("event") in ("resume", "rollback") and finite(e, "step") is not None]
        for step in history.steps:
            while returns and not _done_by(step, returns[0]):
                _go_back(standing, int(returns.pop(0)["step"]))
            # A number that comes again replaces the older step, also where no event says that the run went back.
            _go_back(standing, step.number - 1)
            standing.append(step)
        for event in returns:
            _go_back(standing, int(event["step"]))


def _done_by(step: StepRow, event: JsonRow) -> bool:
    """Whether a step was done when an event of its attempt was written."""
    at = finite(event, "time")
    return step.time is not None and at is not None and step.time <= at


def _go_back(standing: list[StepRow], step: int) -> None:
    while standing and standing[-1].number > step:
        standing.pop().lost = True
