"""What happens to a job when its ranks have ended: a pure function of how they ended and of the attempts before.

Promises that only a finished run counts as finished, that a job which Slurm or a person is ending is left alone, and that attempts
without progress come to an end however long the run is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from jadeberta.cluster.slurm import RUNNING
from jadeberta.errors import RequeueRequested, StopRequested, is_retryable
from jadeberta.jobs.job_records import rows_of
from jadeberta.utils.json_lines import JsonRow, finite

NextAttempt = Literal["requeue", "singleton", "none"]
"""How the next attempt starts: this job is requeued, the next job of the same name starts, or a person submits one."""


ABORTED = 134
"""Exit status of a process that SIGABRT ended. NCCL's watchdog ends a rank so where a collective fails or does not end in time; gloo
raises an error there, and the rank ends with status 12 itself."""


@dataclass(frozen=True)
class Limits:
    """Limits on attempts and excluded hosts, from the recipe's `cluster` section."""

    attempts_without_progress: int
    """Consecutive attempts without a newer checkpoint after which the job stops."""
    excluded_hosts: int
    """Most hosts that may be excluded at once."""
    excluded_hours: float
    """Hours for which a host stays excluded after its last failure."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, as far as can be seen from outside its ranks."""

    status: int
    """Exit status of srun; 128 and more: a signal."""
    finished: bool
    """Whether DONE is there, with the run's last step."""
    reported: int | None = None
    """Exit status that a rank wrote down beside its reason; None where no rank did."""
    reason: str = ""
    """Reason that this rank wrote down, a sentence."""
    state: str = RUNNING
    """State of the job in Slurm at this moment."""
    step: int = -1
    """Step of the newest checkpoint; -1: there is none."""
    time: float = 0.0
    """Unix time of the ending."""
    blamed: tuple[str, ...] = ()
    """Hosts that hung, were lost, do not answer or were slow for too long."""


@dataclass(frozen=True)
class Decision:
    """A decision on the job."""

    action: Literal["finish", "requeue", "next", "stop", "leave"]
    """finish: the run is done; requeue: ask Slurm to start the job again; next: the next job of this name goes on; stop: nothing goes on
    without a person; leave: Slurm is ending this job for a reason of its own."""
    status: int
    """Exit status of the job."""
    reason: str
    """A sentence for the log."""
    excluded: tuple[str, ...] = ()
    """Hosts that the next attempt must not use, the latest failure first."""


def decide(ending: Ending, past: Iterable[JsonRow], limits: Limits, following: NextAttempt) -> Decision:
    """Decides what happens to the job.

    Args:
        ending: how this attempt ended.
        past: rows of jobs.jsonl before this ending, oldest first.
        limits: when to stop, and how many hosts may be excluded.
        following: how the next attempt would start.
    """
    # DONE counts more than any status: a rank may fail while it shuts down after the last save.
    if ending.finished:
        return Decision("finish", 0, f"finished at step {ending.step}")
    status = ending.status or RequeueRequested.exit_status  # srun may end with 0 after a failed launch
    # srun's status may be that of its own signal to the other ranks, so the rank's own report counts first.
    final = next((s for s in (ending.reported, ending.status) if s and not is_retryable(s)), None)
    if ending.status == ABORTED and not ending.reason:
        why = f"status {ABORTED} (SIGABRT): another rank is silent or gone, or a GPU failed, if the log names NCCL's watchdog."
    else:
        why = f"status {ending.status}: {ending.reason}" if ending.reason else f"status {ending.status}, no rank gave a reason."
    if final is not None:
        advice = (
            "" if final == StopRequested.exit_status else " Another attempt would end alike; mend the cause and submit again."
        )
        return Decision("stop", final, why + advice)
    if ending.state != RUNNING:
        # Cancelled, preempted, requeued by an administrator, or out of time: a requeue of ours would undo that.
        return Decision("leave", status, f"{why} Slurm is ending this job ({ending.state}).")
    rows = list(past)
    if (attempts := attempts_without_progress(ending, rows)) >= limits.attempts_without_progress:
        return Decision(
            "stop",
            status,
            f"{why} {attempts} attempts in a row ended without a newer checkpoint (cluster.max_attempts_without_progress). "
            "Look for the cause.",
        )
    excluded = tuple(hosts_to_exclude(ending, rows, limits))
    if following == "none":
        return Decision("stop", status, f"{why} NEXT=none: submit it again to go on.", excluded)
    if following == "singleton":
        return Decision("next", status, f"{why} The next job of this name goes on.", excluded)
    return Decision("requeue", status, f"{why} It is requeued.", excluded)


def attempts_without_progress(ending: Ending, past: Iterable[JsonRow]) -> int:
    """Counts the latest consecutive attempts, this one included, that ended by themselves without a checkpoint newer than all before.

    Attempts that Slurm ended (a lost node, preemption) do not count, with or without a row: they say nothing about the run.

    Args:
        ending: how this attempt ended.
        past: rows of jobs.jsonl before it, oldest first.
    """
    ends = [row for row in rows_of("end", past) if isinstance(row.get("step"), int) and row.get("action") != "leave"]
    # After a stop a person has submitted the job again, hopefully with the cause mended: the count starts anew.
    last_stop = max((n for n, row in enumerate(ends) if row.get("action") == "stop"), default=-1)
    known = max((row["step"] for row in ends[: last_stop + 1]), default=-1)
    count = 0
    for step in [row["step"] for row in ends[last_stop + 1 :]] + [ending.step]:
        count = 0 if step > known else count + 1
        known = max(known, step)
    return count


def hosts_to_exclude(ending: Ending, past: Iterable[JsonRow], limits: Limits) -> list[str]:
    """Lists the hosts that the next attempt must not use, the latest failure first.

    Args:
        ending: how this attempt ended, with the hosts that it blames.
        past: rows of jobs.jsonl before it; their blame expires after `limits.excluded_hours`.
        limits: beyond `limits.excluded_hosts` the oldest failures are dropped.
    """
    blames: list[tuple[float, str]] = [(ending.time, host) for host in ending.blamed]
    for row in past:
        at = finite(row, "time")
        if at is not None and ending.time - at < limits.excluded_hours * 3600:
            blames += [(at, str(host)) for host in row.get("blamed") or []]
    latest: dict[str, float] = {}
    for at, host in blames:
        latest[host] = max(at, latest.get(host, 0.0))
    return sorted(latest, key=lambda host: (-latest[host], host))[: limits.excluded_hosts]
