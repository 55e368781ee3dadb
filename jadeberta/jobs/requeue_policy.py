"""What becomes of a job when its ranks have ended: a pure function of how they ended and of the lives before.

Promises that only a finished run counts as finished, that a job which somebody else ends is left alone, and that lives which get no
further come to an end however long the run is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from jadeberta.cluster.slurm import RUNNING
from jadeberta.errors import RequeueRequested, StopRequested, is_retryable

Next = Literal["requeue", "singleton", "none"]


@dataclass(frozen=True)
class Limits:
    """Of the recipe's `cluster` section."""

    fruitless_lives: int
    """Lives in a row without a newer checkpoint, the last of which is not followed by another."""
    excluded_hosts: int
    """Hosts that may be left out at once."""
    excluded_hours: float
    """For so long a host is left out after what it did."""


@dataclass(frozen=True)
class Ending:
    """How a life ended, as far as can be seen from outside its ranks."""

    status: int
    """Of srun; 128 and more: a signal."""
    finished: bool
    """DONE is there, with the run's last step."""
    told: int | None = None
    """Status of the reason that a rank wrote into the ledger; None where none did."""
    reason: str = ""
    """That reason."""
    state: str = RUNNING
    """Of the job in Slurm at this moment."""
    step: int = -1
    """Of the newest checkpoint; -1: none."""
    time: float = 0.0
    """Unix time."""
    blamed: tuple[str, ...] = ()
    """Hosts that hung, were lost or do not answer."""


@dataclass(frozen=True)
class Decision:
    """What is to be done."""

    action: Literal["finish", "requeue", "next", "stop", "leave"]
    """finish: the run is done; requeue: ask Slurm for another life; next: the job after this one goes on; stop: nothing goes on by
    itself; leave: Slurm is ending this job and knows why."""
    status: int
    """That the job ends with."""
    reason: str
    """A sentence for the log."""
    excluded: tuple[str, ...] = ()
    """Hosts that the next life is to do without, those of the latest failure first."""


def decide(ending: Ending, past: Iterable[dict[str, Any]], limits: Limits, following: Next) -> Decision:
    """What becomes of the job.

    Args:
        ending: of this life.
        past: rows of jobs.jsonl before this ending.
        limits: when it is enough.
        following: how another life is to be had.
    """
    if ending.finished:
        return Decision("finish", 0, f"finished at step {ending.step}")
    status = ending.status or RequeueRequested.exit_status  # srun may end with 0 after a failed launch
    final = next((s for s in (ending.told, ending.status) if s and not is_retryable(s)), None)
    why = f"status {ending.status}: {ending.reason}" if ending.reason else f"status {ending.status}, no rank said why."
    if final is not None:
        advice = "" if final == StopRequested.exit_status else " Another life would end alike; mend the cause and submit again."
        return Decision("stop", final, why + advice)
    if ending.state != RUNNING:  # cancelled, preempted, requeued by an administrator, or out of time
        return Decision("leave", status, f"{why} Slurm is ending this job ({ending.state}).")
    rows = list(past)
    if (lives := fruitless(ending, rows)) >= limits.fruitless_lives:
        return Decision(
            "stop",
            status,
            f"{why} {lives} lives in a row ended without a newer checkpoint (cluster.fruitless_lives). Look for the cause.",
        )
    excluded = tuple(bad_hosts(ending, rows, limits))
    if following == "none":
        return Decision("stop", status, f"{why} NEXT=none: submit it again to go on.", excluded)
    if following == "singleton":
        return Decision("next", status, f"{why} The next job of this name goes on.", excluded)
    return Decision("requeue", status, f"{why} It is requeued.", excluded)


def fruitless(ending: Ending, past: list[dict[str, Any]]) -> int:
    """Lives in a row, this one included, that ended by themselves without a checkpoint newer than all before.

    Lives that Slurm ended (a node lost, preemption) do not count, with or without a row: they say nothing about the run.
    """
    told = [row for row in past if row.get("event") == "end" and isinstance(row.get("step"), int)]
    ends = [row for row in told if row.get("action") != "leave"]
    # A job that was submitted again by a person begins a new count.
    last_stop = max((n for n, row in enumerate(ends) if row.get("action") == "stop"), default=-1)
    known = max((row["step"] for row in ends[: last_stop + 1]), default=-1)
    count = 0
    for step in [row["step"] for row in ends[last_stop + 1 :]] + [ending.step]:
        count = 0 if step > known else count + 1
        known = max(known, step)
    return count


def bad_hosts(ending: Ending, past: list[dict[str, Any]], limits: Limits) -> list[str]:
    """Hosts to be left out, the latest failure first; what lies too far back is forgotten, and there is a limit to their number."""
    told: list[tuple[float, str]] = [(ending.time, host) for host in ending.blamed]
    for row in past:
        at = row.get("time")
        if isinstance(at, int | float) and ending.time - at < limits.excluded_hours * 3600:
            told += [(float(at), str(host)) for host in row.get("blamed") or []]
    latest: dict[str, float] = {}
    for at, host in told:
        latest[host] = max(at, latest.get(host, 0.0))
    return sorted(latest, key=lambda host: (-latest[host], host))[: limits.excluded_hosts]
