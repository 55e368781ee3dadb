"""What can be seen of a run from outside at one moment: is it alive, in which state, with what room on its disk.

`read_facts` looks at the run directory, its disk and Slurm once; everything that judges the run gets its answer.
"""

import shutil
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import yaml

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.cluster.slurm import CANCELLED
from jadeberta.config.alerts_config import AlertsConfig, end_of_day
from jadeberta.errors import ConfigError
from jadeberta.jobs.job_records import JobRecords
from jadeberta.status.attempts import AttemptHistory, read_history, read_run
from jadeberta.status.eta import Goal, read_goal
from jadeberta.status.goodput import Goodput, goodput_of
from jadeberta.status.slurm_jobs import JobStatus, look_up_jobs
from jadeberta.training.watchdog.rank_pace import NetworkWait, WaitedFor, judge_pace
from jadeberta.utils.json_lines import JsonRow, finite, read_jsonl
from jadeberta.utils.locks import LOCK_NAME, is_held

SILENT_S = 600.0
"""A run without an ending counts as running while its last row is younger than this."""
SILENT_HEARTBEAT_S = 120.0
"""Limit for a run with heartbeats. They are written about every second, but a shared file system shows them late."""
DECIDED = {"finish": "done", "stop": "stopped", "leave": "ended by Slurm", "requeue": "requeued", "next": "handed on"}
"""State of a run whose job has ended by itself, by the action that was decided."""
NOT_CONTINUED = "not continued"


@dataclass(frozen=True)
class Bounds:
    """What a run is measured by, from its resolved recipe; the defaults where that is of an older version or says nothing."""

    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    attempts_without_progress: int = 3
    """`cluster.max_attempts_without_progress`."""
    keep_last: int = 3
    """`checkpoint.keep_last`; 0: all checkpoints are kept."""
    keep_every: int = 0
    """`checkpoint.keep_every`."""
    silent_s: float = 1800.0
    """Longest time limit of the watchdog, seconds: a run that lives writes something within it."""


@dataclass(frozen=True)
class Disk:
    """Room for a run, bytes."""

    free: int
    """Free for this user on the file system of its checkpoints."""
    checkpoint: int = 0
    """Size of its newest checkpoint; 0: there is none."""
    metrics: int = 0
    """Size of metrics.jsonl."""


@dataclass(frozen=True)
class Facts:
    """A run at one moment. Of a run whose first job is still starting up, most of it is empty."""

    run: Path
    now: float
    """Unix time."""
    result: Goodput
    jobs: JobStatus
    goal: Goal
    bounds: Bounds = field(default_factory=Bounds)
    histories: list[AttemptHistory] = field(default_factory=list)
    beats: list[JsonRow] = field(default_factory=list)
    """Newest heartbeat of each rank."""
    disk: Disk | None = None
    """None where it cannot be asked."""
    began: float = 0.0
    """Unix time at which the newest attempt of its Slurm job began, by jobs.jsonl; 0 where there is none."""

    @property
    def state(self) -> str:
        return state(self.result, self.jobs)

    @property
    def last(self) -> float | None:
        """Unix time of the newest sign of the run: a row of its ledger or metrics, else the begin of its job."""
        return max((at for history in self.histories if (at := history.last) is not None), default=self.began or None)

    @property
    def present_beats(self) -> list[JsonRow]:
        """Heartbeats of the newest attempt: an earlier one may have had more ranks, and their files are stale."""
        last = self.result.attempts[-1] if self.result.attempts else None
        # Heartbeats of old versions do not name their attempt: of those the time must tell.
        began = self.now if last is None else last.started or 0.0
        return [
            b for b in self.beats if (last is not None and b["attempt"] == last.number if "attempt" in b else b["time"] >= began)
        ]

    @property
    def waits_for(self) -> WaitedFor | None:
        """The rank that all others wait for, where the run is running and one stands out."""
        return judge_pace(self.present_beats)[0] if self.state == "running" else None

    @property
    def network_wait(self) -> NetworkWait | None:
        """The network that all ranks wait for, where the run is running and no rank stands out."""
        return judge_pace(self.present_beats)[1] if self.state == "running" else None

    @property
    def progressed(self) -> float | None:
        """Unix time of the newest row that the training itself wrote: the watchdog records the energy of one that hangs too."""
        if not self.histories:
            return self.began or None
        newest = self.histories[-1]
        return replace(newest, events=[e for e in newest.events if e.get("event") != "energy"]).last


def read_facts(run: Path, now: float) -> Facts:
    """Looks at a run once.

    Args:
        run: run directory.
        now: unix time.

    Raises:
        InputError: the directory holds no run.
    """
    beats = read_heartbeats(run)
    jobs = look_up_jobs(run, read_jsonl(run / "ledger.jsonl"), now)
    histories, alive = _read_histories(run, now, max((b["time"] for b in beats), default=0.0), jobs)
    result = goodput_of(histories, now if alive else None)
    return Facts(
        run, now, result, jobs, read_goal(run), read_bounds(run), histories, beats, look_at_disk(run), JobRecords.read(run).began
    )


def read_goodput(run: Path, now: float | None = None, last_heartbeat: float = 0.0, jobs: JobStatus | None = None) -> Goodput:
    """Computes the goodput of a run directory; an empty one for a run whose first job is still starting up.

    Args:
        run: run directory.
        now: unix time; the wall time of a run that is alive goes up to it.
        last_heartbeat: unix time of its newest heartbeat; 0: it has none.
        jobs: state of its Slurm job, which decides whether the run is alive where Slurm answers.

    Raises:
        InputError: there is no ledger, or it is empty.
    """
    histories, alive = _read_histories(run, now, last_heartbeat, jobs or JobStatus())
    return goodput_of(histories, now if alive else None)


def _read_histories(run: Path, now: float | None, last_heartbeat: float, jobs: JobStatus) -> tuple[list[AttemptHistory], bool]:
    """The attempts of a run, and whether it is alive; arguments as those of `read_goodput`."""
    if jobs.attempts and not (run / "ledger.jsonl").exists():
        return [], False
    ledger, steps, newest = read_run(run)
    times = [at for at in (finite(ledger[-1], "time"), newest) if at is not None]
    alive = now is not None and now - max(last_heartbeat, *times, 0.0) < (SILENT_HEARTBEAT_S if last_heartbeat else SILENT_S)
    if now is not None and (held := lives_by_lock(run)) is not None:
        alive = held
    # Where Slurm or the records know about the job they decide; an interactive job may outlive its ranks, so its rows count too.
    if jobs.state or jobs.starting or jobs.ended:
        alive = jobs.works and not jobs.starting and not jobs.ended and (alive or jobs.has_records)
    return read_history(ledger, steps), alive


def read_bounds(run: Path) -> Bounds:
    """Reads what a run is measured by from recipe.yaml of its directory, as far as that is possible."""
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return Bounds()
    sections = recipe if isinstance(recipe, dict) else {}

    def number(section: str, key: str, default: float) -> float:
        keys = sections.get(section)
        value = finite(keys, key) if isinstance(keys, dict) else None
        return default if value is None or value < 0 else value

    limits = [number("watchdog", key, 1800.0) for key in ("start_s", "first_step_s", "step_s", "save_s", "eval_s")]
    return Bounds(
        _alerts_of(sections),
        int(number("cluster", "max_attempts_without_progress", Bounds.attempts_without_progress)),
        int(number("checkpoint", "keep_last", Bounds.keep_last)),
        int(number("checkpoint", "keep_every", Bounds.keep_every)),
        max(limits) or 3600.0,  # without limits nothing would end a run that hangs
    )


def _alerts_of(sections: dict[str, Any]) -> AlertsConfig:
    """The section alerts of a resolved recipe; the default of every key that is missing or wrong there."""
    keys = sections.get("alerts")
    found = AlertsConfig()
    for name, value in keys.items() if isinstance(keys, dict) else ():
        default = getattr(found, str(name), None)
        if default is not None and isinstance(value, int | float if isinstance(default, float) else type(default)):
            setattr(found, name, value)
    try:
        end_of_day(found.done_by)
    except ConfigError:
        found.done_by = ""
    return found


def look_at_disk(run: Path) -> Disk | None:
    """Asks how much room a run has, and how much it takes; None where the file system does not say."""
    try:
        root = run / "checkpoints"
        free = shutil.disk_usage(root if root.is_dir() else run).free
        newest = list_checkpoints(root)[-1:]
        size = sum(file.stat().st_size for directory in newest for file in directory.iterdir() if file.is_file())
        metrics = run / "metrics.jsonl"
        return Disk(free, size, metrics.stat().st_size if metrics.exists() else 0)
    except OSError:
        return None  # pruned while it was counted, or a file system that does not answer


def lives_by_lock(run: Path) -> bool | None:
    """Whether rank 0 of a run lives, by the lock that it holds; None where that does not tell.

    The kernel gives the lock back when the process dies. On another host than rank 0's a lock that is not held proves nothing: not every
    shared file system passes locks on.
    """
    try:
        with open(run / LOCK_NAME, "rb") as file:
            if is_held(file.fileno()):
                return True
            holder = orjson.loads(file.read())
    except (OSError, orjson.JSONDecodeError):
        return None
    return False if isinstance(holder, dict) and holder.get("host") == socket.gethostname() else None


def read_heartbeats(run: Path) -> list[JsonRow]:
    """Reads the last heartbeat of every rank, by rank; one that cannot be read is skipped."""
    found = []
    for path in sorted((run / "heartbeat").glob("rank-*.json")):
        try:
            beat = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        if isinstance(beat, dict) and finite(beat, "time") is not None:
            found.append(beat)
    return sorted(found, key=lambda beat: finite(beat, "rank") or 0)


def state(result: Goodput, jobs: JobStatus) -> str:
    """Returns the state of the run in a word or two: done, running, starting up, queued, stopped, or how its last attempt ended."""
    last = result.attempts[-1].ended if result.attempts else "killed"
    if jobs.starting:
        return "starting up"
    if last == "done":
        return last
    if jobs.waits:
        return "queued"
    if jobs.state == CANCELLED:
        return "cancelled"
    if jobs.ended:
        action = str(jobs.ends[-1].get("action"))
        abandoned = action in ("requeue", "next") and jobs.state and not jobs.works
        return NOT_CONTINUED if abandoned else DECIDED.get(action, last)
    return last
