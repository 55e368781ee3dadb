"""One run without its undone steps, out of what all its attempts have written: the figures of each step, the evaluations, the events.

It reads the run directory alone, so that nothing here can disturb a run that trains.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from jadeberta.errors import InputError
from jadeberta.status.attempts import AttemptHistory
from jadeberta.status.facts import Facts, read_facts
from jadeberta.status.step_table import Floats, Integers
from jadeberta.training.ledger import held_out
from jadeberta.training.sinks.tensorboard import TAGS
from jadeberta.utils.json_lines import JsonRow, finite, time_of

PROGRESS = {"tokens": "progress/tokens", "epoch": "progress/epoch", "attempt": "progress/attempt", "phase": "progress/phase"}
"""Further keys of metrics.jsonl that become curves, to be used as another horizontal axis."""
SYSTEM = ("peak_memory_bytes", "world_size", "energy_kwh", "kwh", "energy_j")
"""Fields of events that become curves named `system/...`."""
COUNTED = ("start", "hang", "lost_rank", "rollback", "skip", "requeue", "save", "save_failed")
"""Events whose number so far is a curve named `events/...`."""
LONGEST_SETTING = 500


@dataclass(frozen=True)
class Point:
    """Figures of one moment of the run, by the name of their curve."""

    step: int
    time: float
    """Unix time."""
    values: dict[str, float]


@dataclass(frozen=True)
class Event:
    """An event of the ledger, and the step of the clean run after which it happened."""

    step: int
    row: JsonRow

    @property
    def time(self) -> float:
        """Unix time."""
        return time_of(self.row)


@dataclass(frozen=True)
class CleanRun:
    """A run as one that was never interrupted."""

    path: Path
    name: str
    """Of its directory."""
    id: str
    """Twelve digits and letters, the same wherever the directory is moved to."""
    started: float
    """Unix time of the first start."""
    settings: dict[str, Any]
    """The resolved recipe, with keys such as training.lr."""
    facts: Facts
    places: Integers
    """Rows of metrics.jsonl that stayed, counted from 0, in the order of the file."""
    steps: Integers
    """Number of the step of each such row."""
    times: Floats
    """Unix time of its end; NaN where it is not known."""
    goodput: Floats
    """Share of the time until then that was spent on steps that stayed and changed weights."""
    evaluations: list[Event]
    """Whole evaluations that stayed."""
    events: list[Event]
    """All events, in their order."""

    def points(self, every: int = 1) -> Iterator[Point]:
        """Yields the figures of each step that stayed, the numbers rising.

        Args:
            every: only of steps that this divides, of the first and of the skipped ones.
        """
        place, following, last = -1, 0, 0
        for row in _rows(self.path / "metrics.jsonl"):
            place += 1
            if following == len(self.places):
                return
            if place != self.places[following]:
                continue
            step, goodput = int(self.steps[following]), float(self.goodput[following])
            following += 1
            if step <= last or finite(row, "step") != step or (step % every and following > 1 and not row.get("skipped")):
                continue  # two attempts that wrote at once, or the file was changed meanwhile
            values = {tag: value for key, tag in (TAGS | PROGRESS).items() if (value := finite(row, key)) is not None}
            if np.isfinite(goodput):
                values[TAGS["goodput"]] = goodput
            last = step
            yield Point(step, time_of(row), values)

    def figures_of_events(self, first: int = 0) -> Iterator[Point]:
        """Yields held-out figures, system figures and the number of events so far, in the order of the ledger.

        Args:
            first: place of the first event to yield; those before are counted.
        """
        kept, counts = {id(e.row) for e in self.evaluations}, Counter[str]()
        for place, event in enumerate(self.events):
            kind = str(event.row.get("event"))
            values = held_out(event.row) if id(event.row) in kept else {}
            values |= {f"system/{key}": value for key in SYSTEM if (value := finite(event.row, key)) is not None}
            if kind in COUNTED:
                counts[kind] += 1
                values[f"events/{kind}"] = float(counts[kind])
            if values and place >= first:
                yield Point(event.step, event.time, values)

    def digest(self, every: int, count: int | None = None) -> str:
        """Hash of what is published, the same where nothing has come or been undone.

        Args:
            every: of `points`.
            count: only of the first so many steps; None: of all of them, and of the events.
        """
        found = hashlib.sha256(f"{every} {self.id}".encode())
        found.update(self.steps[:count].tobytes() + self.times[:count].tobytes())
        if count is None:
            found.update(orjson.dumps([event.row for event in self.events], default=str))
            found.update(orjson.dumps(self.settings, default=str, option=orjson.OPT_NON_STR_KEYS))
        return found.hexdigest()


def read_clean_run(path: Path, now: float) -> CleanRun:
    """Reads a run directory.

    Args:
        path: run directory.
        now: unix time.

    Raises:
        InputError: it holds no run, or one that has not begun.
    """
    facts = read_facts(path, now)
    rows = [event for history in facts.histories for event in history.events]
    if not rows:
        raise InputError(f"{path}: the run has not begun; publish it once ledger.jsonl has an event.")
    first = next((row for row in rows if row.get("event") == "start"), rows[0])
    identity = orjson.dumps([first.get("host"), first.get("pid"), _first_time(path)], default=str)
    started = next((h.started for h in facts.histories if h.started is not None), 0.0)
    places, steps, times, goodput = _standing(facts.histories, started)
    events = _placed(rows, steps, times)
    last = int(steps[-1]) if len(steps) else 0
    return CleanRun(
        path, path.resolve().name, hashlib.sha256(identity).hexdigest()[:12], started, _settings(path), facts, places, steps, times,
        goodput, _evaluations(events, last), events,
    )  # fmt: skip


def _first_time(path: Path) -> Any:
    """The time of the first row of the ledger as it was written: `read_history` may have put it on another clock."""
    return next((row.get("time") for row in _rows(path / "ledger.jsonl")), None)


def _standing(histories: list[AttemptHistory], started: float) -> tuple[Integers, Integers, Floats, Floats]:
    """Place, number, end and goodput of the steps that stayed."""
    parts = [history.steps[~history.steps.lost & (history.steps.number > 0)] for history in histories if len(history.steps)]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    place, number, time, seconds, skipped = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("place", "number", "time", "seconds", "skipped")
    )
    wall = time - started
    with np.errstate(divide="ignore", invalid="ignore"):
        goodput = np.where(wall > 0, np.minimum(1.0, np.cumsum(np.where(skipped, 0.0, seconds)) / wall), np.nan)
    order = np.argsort(place, kind="stable")
    return place[order], number[order], time[order], goodput[order]


def _placed(rows: list[JsonRow], steps: Integers, times: Floats) -> list[Event]:
    """Events with their step in the clean run: their own, or that of the last step before them."""
    known = np.flatnonzero(~np.isnan(times))
    ends = np.maximum.accumulate(times[known]) if len(known) else np.zeros(0)
    last = int(steps[-1]) if len(steps) else 0
    found = []
    for row in rows:
        step = finite(row, "step")
        if step is None or step < 0 or (step > last and row.get("event") != "evaluation"):
            before = int(np.searchsorted(ends, time_of(row), side="right")) - 1
            step = int(steps[known[before]]) if before >= 0 else 0
        found.append(Event(int(step), row))
    return found


def _evaluations(events: list[Event], last: int) -> list[Event]:
    """The evaluations that the run did not go back to before."""
    found: list[Event] = []
    for event in events:
        kind, step = event.row.get("event"), finite(event.row, "step")
        if step is None:
            continue
        if kind in ("resume", "rollback"):
            found = [e for e in found if e.step <= step]
        elif kind == "evaluation" and held_out(event.row):
            found = [*(e for e in found if e.step < step), event]
    return [event for event in found if event.step <= last or not last]


def _rows(path: Path) -> Iterator[JsonRow]:
    """Yields the objects of a JSON Lines file one by one; a truncated line is skipped, as it is where the places were counted."""
    try:
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(orjson.JSONDecodeError):
                    row = orjson.loads(line)
                    if isinstance(row, dict):
                        yield row
    except FileNotFoundError:
        return


def _settings(path: Path) -> dict[str, Any]:
    """The resolved recipe of a run, flat; empty where it cannot be read."""
    try:
        recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix:
            found[prefix] = value if isinstance(value, bool | int | float) else str(value)[:LONGEST_SETTING]

    add("", recipe)
    return found


def read_note(path: Path) -> Any:
    """What the last call has left, so that one that finds nothing new need not read all steps; None where there is none."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
