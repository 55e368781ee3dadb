"""The lives of a run, put together from ledger and metrics rows: what each did, and which of its steps stayed.

Pure functions of plain rows, but for `read_rows`. Rows come from files that kills have cut, so that any key may be missing; what is
there is used.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jadeberta.errors import InputError
from jadeberta.utils.json_lines import read_jsonl

Row = dict[str, Any]

ENDINGS = ("requeue", "stop", "hang", "lost_rank", "done")
"""Events after which a life is over."""
STALLS = ("save", "save_failed", "evaluation")
"""Events that tell how long the training stood still."""


@dataclass
class Step:
    """One row of metrics.jsonl."""

    life: int
    """The process life that took it."""
    number: int
    """Updates of the weights after it, counted from 1."""
    time: float | None
    """Unix time of its end; None where the row does not say."""
    seconds: float
    """How long it took, its wait for data included."""
    skipped: bool
    """It changed no weight."""
    row: Row
    lost: bool = False
    """The run went back to before it."""

    @property
    def begin(self) -> float | None:
        return None if self.time is None else self.time - self.seconds


@dataclass
class History:
    """What one life of a run left behind, in the order of time."""

    life: int
    events: list[Row] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def signs(self) -> list[float]:
        """Unix times at which it is known to have lived."""
        steps = [t for s in (*self.steps[:1], *self.steps[-1:]) for t in (s.begin, s.time) if t is not None]
        return [t for e in self.events if (t := finite(e, "time")) is not None] + steps

    @property
    def started(self) -> float | None:
        """Its first sign of life."""
        return min(self.signs, default=None)

    @property
    def last(self) -> float | None:
        """Its last sign of life."""
        return max(self.signs, default=None)

    @property
    def ending(self) -> Row | None:
        """The event that says how it ended; None where it was killed, or lives."""
        said = next((e for e in reversed(self.events) if e.get("event") in ENDINGS), None)
        if said is None or said["event"] != "hang":
            return said
        at, last_step = finite(said, "time"), max((s.time for s in self.steps[-1:] if s.time is not None), default=None)
        return None if at is not None and last_step is not None and last_step > at else said  # it got over that one


def finite(row: Row, key: str) -> float | None:
    """A finite number of a row; None where there is none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def stall_seconds(event: Row) -> float:
    """How long the training stood still for a save or an evaluation; older ledgers name a save's `seconds`."""
    if event.get("event") not in STALLS:
        return 0.0
    seconds = finite(event, "seconds" if event["event"] == "evaluation" or "stall_s" not in event else "stall_s")
    return max(0.0, seconds or 0.0)


def read_rows(run: Path) -> tuple[list[Row], list[Row]]:
    """Ledger and metrics of a run directory. Raises InputError where there is no ledger, or nothing in it."""
    ledger = read_jsonl(run / "ledger.jsonl")
    if not ledger:
        raise InputError(f"{run}: no ledger.jsonl with a run in it. Name a run directory that 'jadeberta pretrain' has written.")
    return ledger, read_jsonl(run / "metrics.jsonl")


def read_history(ledger: list[Row], metrics: list[Row]) -> list[History]:
    """The lives of a run, first to last, with the steps that did not stay marked as lost."""
    lives: dict[int, History] = {}
    for life, event in _with_life(ledger):
        lives.setdefault(life, History(life)).events.append(event)
    for life, row in _with_life(metrics):
        if (step := finite(row, "step")) is not None:
            seconds = max(0.0, finite(row, "step_s") or 0.0)
            taken = Step(life, int(step), finite(row, "time"), seconds, bool(row.get("skipped")), row)
            lives.setdefault(life, History(life)).steps.append(taken)
    histories = [lives[life] for life in sorted(lives)]
    _mark_lost(histories)
    return histories


def _with_life(rows: list[Row]) -> Iterator[tuple[int, Row]]:
    """Rows with the life they belong to; one that does not name it was written by the life that wrote before it."""
    life = 0
    for row in rows:
        if (named := finite(row, "life")) is not None:
            life = int(named)
        yield life, row


def _mark_lost(histories: list[History]) -> None:
    """Marks every step that the run went back to before, whether by a new life, a roll-back or training the number again."""
    standing: list[Step] = []
    for history in histories:
        returns = [e for e in history.events if e.get("event") in ("resume", "rollback") and finite(e, "step") is not None]
        for step in history.steps:
            while returns and not _done_by(step, returns[0]):
                _go_back(standing, int(returns.pop(0)["step"]))
            _go_back(standing, step.number - 1)
            standing.append(step)
        for event in returns:
            _go_back(standing, int(event["step"]))


def _done_by(step: Step, event: Row) -> bool:
    """Whether a step was done when an event of its life was written."""
    at = finite(event, "time")
    return step.time is not None and at is not None and step.time <= at


def _go_back(standing: list[Step], step: int) -> None:
    while standing and standing[-1].number > step:
        standing.pop().lost = True
