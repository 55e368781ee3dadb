"""What the files of a run directory say, read once for a report. A file that is missing or damaged is a sentence in `notes`."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import yaml

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.errors import JadebertaError
from jadeberta.jobs.job_records import JobRecords
from jadeberta.status.attempts import AttemptHistory, read_history
from jadeberta.status.eta import read_goal
from jadeberta.status.facts import Facts, look_at_disk, read_bounds, read_facts
from jadeberta.status.goodput import Goodput, goodput_of
from jadeberta.status.metrics_cache import read_steps
from jadeberta.status.run_verdict import Verdict, judge
from jadeberta.status.slurm_jobs import JobStatus
from jadeberta.status.step_table import StepTable, encode_rows, to_table
from jadeberta.utils.json_lines import JsonRow, finite

Found = TypeVar("Found")


@dataclass
class RunFacts:
    """One run directory; every part may be empty."""

    name: str
    seen: Facts
    """What `jadeberta status` sees of it."""
    verdict: Verdict | None = None
    """None where there is nothing to judge."""
    records: JobRecords = field(default_factory=lambda: JobRecords([]))
    recipe: dict[str, Any] = field(default_factory=dict)
    preflight: JsonRow = field(default_factory=dict)
    checkpoints: list[Path] = field(default_factory=list)
    """Directories named like checkpoints, oldest first."""
    paces: list[JsonRow] = field(default_factory=list)
    """Rows of ranks.jsonl with what the report needs of them."""
    standing: StepTable = field(default_factory=lambda: to_table(encode_rows([])))
    """Steps that stayed, in order."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, one sentence each."""

    @property
    def run(self) -> Path:
        return self.seen.run

    @property
    def histories(self) -> list[AttemptHistory]:
        """Attempts, with the times of all on one clock."""
        return self.seen.histories

    @property
    def goodput(self) -> Goodput:
        return self.seen.result

    @property
    def alive(self) -> bool:
        attempts = self.goodput.attempts
        return bool(attempts) and attempts[-1].ended == "running"

    @property
    def events(self) -> list[JsonRow]:
        """Events of the ledger that have a time, in the order of the attempts."""
        return [e for history in self.histories for e in history.events if finite(e, "time") is not None]

    @property
    def began(self) -> float | None:
        """Unix time of the first row."""
        return min((t for h in self.histories if (t := h.started) is not None), default=None)

    @property
    def last(self) -> float | None:
        """Unix time of the last row."""
        return max((t for h in self.histories if (t := h.last) is not None), default=None)

    @property
    def at(self) -> float:
        """Unix time that the report is about: now for a run that is alive or waits, else that of its last row."""
        waits = self.alive or self.seen.jobs.waits or self.seen.jobs.starting
        return self.seen.now if waits or self.last is None else min(self.seen.now, self.last)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the recipe; empty where the recipe has none that can be read."""
        found = self.recipe.get(name)
        return found if isinstance(found, dict) else {}

    def world_size(self, history: AttemptHistory) -> int:
        """Ranks of an attempt; 1 where its start does not say."""
        sizes = [finite(e, "world_size") for e in history.events if e.get("event") == "start"]
        return int(min(1e6, max(1.0, sizes[-1] or 1.0))) if sizes else 1


def read_run_facts(run: Path, now: float, name: str = "") -> RunFacts:
    """Reads a run directory.

    Args:
        run: run directory.
        now: unix time.
        name: of the run in the report; empty: that of its directory.
    """
    notes: list[str] = []
    seen = _attempted(notes, "the run", lambda: read_facts(run, now), None)
    if seen is None:
        notes[:] = ["ledger.jsonl is missing, damaged or has no row: events, attempts and causes are not known."]
        # An empty ledger says nothing, but the steps may be there.
        steps, _ = _attempted(notes, "metrics.jsonl", lambda: read_steps(run), (to_table(encode_rows([])), None))
        histories = read_history([], steps)
        bounds, disk = read_bounds(run), look_at_disk(run)
        seen = Facts(run, now, goodput_of(histories), JobStatus(), read_goal(run), bounds, histories, disk=disk)
    found = RunFacts(name or run.resolve().name or str(run), seen, notes=notes)
    found.records = _attempted(notes, "jobs.jsonl", lambda: JobRecords.read(run), found.records)
    found.recipe = _attempted(notes, "recipe.yaml", lambda: _read_recipe(run / "recipe.yaml"), {})
    found.preflight = _attempted(notes, "preflight.json", lambda: _read_object(run / "preflight.json"), {})
    found.paces = _attempted(notes, "ranks.jsonl", lambda: _read_paces(run / "ranks.jsonl"), [])
    found.checkpoints = _attempted(notes, "checkpoints/", lambda: list_checkpoints(run / "checkpoints"), [])
    found.standing = _joined([h.standing for h in seen.histories if len(h.steps)])
    if not len(found.standing):
        notes.append("metrics.jsonl is missing or has no step yet: there are no curves.")
    if seen.histories or seen.jobs.job is not None:
        found.verdict = _attempted(notes, "the verdict", lambda: judge(seen), None)
    return found


def _attempted(notes: list[str], what: str, read: Callable[[], Found], otherwise: Found | Any) -> Any:
    """What a function reads; what stands in for it, and a note, where it cannot."""
    try:
        return read()
    except JadebertaError as e:
        notes.append(str(e))
    except OSError as e:
        notes.append(f"{what} cannot be read ({e.strerror}).")
    except Exception as e:  # hostile rows fail in many ways, and the rest of the page must be written
        notes.append(f"{what} is damaged ({type(e).__name__}).")
    return otherwise


def _read_recipe(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(2, "there is no such file")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    return found


def _read_object(path: Path) -> JsonRow:
    """A file of one JSON object; empty where there is none."""
    if not path.exists():
        return {}
    found = orjson.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _read_paces(path: Path) -> list[JsonRow]:
    """The rows of ranks.jsonl, a row a minute of the whole run, without the figures that no part of the report shows."""
    found: list[JsonRow] = []
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(orjson.JSONDecodeError):  # a kill has cut it
                row = orjson.loads(line)
                if isinstance(row, dict):
                    found.append({key: row[key] for key in ("time", "attempt", "waits_for", "network") if key in row})
    return found


def _joined(tables: list[StepTable]) -> StepTable:
    if not tables:
        return to_table(encode_rows([]))
    return StepTable(**{f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(StepTable)})
