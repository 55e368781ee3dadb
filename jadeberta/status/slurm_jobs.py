"""The Slurm jobs of a run: what jobs.jsonl, ledger and preflight.json say about them, combined with what Slurm says now.

`look_up_jobs` asks Slurm; everything else is a function of plain rows. Kills may have truncated their files, so any key may be missing.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from jadeberta.cluster.slurm import SlurmJob, find_next_job, query_job
from jadeberta.jobs.job_records import JobRecords
from jadeberta.utils.json_lines import JsonRow, finite, names_in, time_of

MAX_STARTUP_S = 600.0
"""Where Slurm cannot be asked, an attempt that began longer ago than this and trains no step counts as dead."""


@dataclass
class JobStatus:
    """State of a run's newest Slurm job. For a run that never was one, every field has its default."""

    job: int | None = None
    array: str | None = None
    """Array job and task, such as 11_3."""
    name: str = ""
    state: str = ""
    """State in Slurm; empty where Slurm does not say, and `note` says why."""
    reason: str = ""
    """Reason for which the job waits."""
    partition: str = ""
    hosts: str = ""
    """Hosts that the job has, or had, in Slurm's short form."""
    restarts: int = 0
    """Number of times that this job was requeued."""
    attempts: int = 0
    """Number of attempts of the whole run, over all its jobs."""
    starts_in_s: float | None = None
    """Seconds until a waiting job is expected to start; None where Slurm does not say."""
    limit_in_s: float | None = None
    """Seconds until the time limit of a job that works; None: no limit."""
    limit_s: float | None = None
    """Seconds from the start of the job to its time limit."""
    excluded: str = ""
    """Hosts that the job, or its next attempt, must not use, in Slurm's short form."""
    starting: bool = False
    """Whether an attempt has begun and no rank has written anything yet: preflight, imports."""
    preflight: str = ""
    """A sentence on the preflight's verdict."""
    ends: list[JsonRow] = field(default_factory=list)
    """Rows `end` of jobs.jsonl: what was decided about attempts that ended by themselves, first to last."""
    has_records: bool = False
    """Whether slurm/attempt.sh runs the job, which then ends soon after its ranks. Without it (an interactive job) it may outlive them."""
    ended: bool = False
    """Whether the newest attempt has a row `end`."""
    note: str = ""
    """Reason for which Slurm says nothing."""
    waits: bool = False
    works: bool = False


def look_up_jobs(run: Path, ledger: list[JsonRow], now: float) -> JobStatus:
    """Returns the state of a run's newest job; asks Slurm once, and in a chain of jobs once more for the next job.

    Args:
        run: run directory.
        ledger: rows of ledger.jsonl.
        now: unix time.
    """
    records = JobRecords.read(run)
    own = newest_job(records, ledger)
    if own is None:
        return JobStatus()
    answer = query_job(own["job"])
    job = answer.job
    if records.newest.get("action") == "next" and not (job and job.works):
        job = find_next_job(str(own.get("name") or ""), own["job"]) or job
    known = replace(from_records(records, ledger), preflight=_read_verdict(run, records.began))
    if job is not None:
        return with_slurm(known, job, now)
    may_start = now - records.began < MAX_STARTUP_S and not answer.forgotten
    return replace(known, note=answer.why, starting=known.starting and may_start)


def newest_job(records: JobRecords, ledger: list[JsonRow]) -> JsonRow | None:
    """Returns the Slurm fields (job, array, restarts, name, partition, hosts) of the newest attempt; None where it was no Slurm job.

    A job that does not run by slurm/attempt.sh has no records; then the ledger's event `start` has the fields.
    """
    candidates = [(time_of(row), row) for row in records.begins[-1:]]
    candidates += [(time_of(row), row.get("slurm") or {}) for row in ledger if row.get("event") == "start"][-1:]
    newest = max(candidates, key=lambda one: one[0], default=(0.0, {}))[1]
    return newest if isinstance(newest, dict) and isinstance(newest.get("job"), int) else None


def from_records(records: JobRecords, ledger: list[JsonRow]) -> JobStatus:
    """Returns what a run's own files say about its jobs.

    Args:
        records: of jobs.jsonl.
        ledger: rows of ledger.jsonl.
    """
    own = newest_job(records, ledger) or {}
    starts = [row for row in ledger if row.get("event") == "start"]
    has_started = bool(starts) and _start_of(starts[-1].get("slurm")) == _start_of(own)
    excluded = {*names_in(records.newest_begin, "users_exclusions"), *names_in(records.newest_end, "excluded")}
    return JobStatus(
        job=own.get("job"),
        array=own.get("array"),
        name=str(own.get("name") or ""),
        partition=str(own.get("partition") or ""),
        hosts=",".join(names_in(own, "hosts")),
        restarts=int(min(max(0.0, finite(own, "restarts") or 0.0), 1e9)),
        attempts=len(records.begins or starts),
        excluded=",".join(sorted(map(str, excluded))),
        starting=not records.has_ended and not has_started,
        ends=records.ends,
        has_records=bool(records.begins) and records.newest_begin.get("job") == own.get("job"),
        ended=records.has_ended,
    )


def with_slurm(known: JobStatus, job: SlurmJob, now: float) -> JobStatus:
    """Returns the same state with what Slurm says.

    Args:
        known: what the run's own files say.
        job: the run's newest job, or the next job of its chain.
        now: unix time.
    """
    # Slurm has started an attempt that has not written its first row yet.
    begins = job.works and (job.job != known.job or (job.restarts > known.restarts))
    limit = (job.ends, job.starts) if job.works and job.ends is not None else (None, None)
    return replace(
        known,
        job=job.job,
        array=job.array,
        name=job.name,
        partition=job.partition,
        state=job.state,
        reason=job.reason,
        restarts=job.restarts,
        hosts=job.hosts or ("" if job.waits else known.hosts),
        # Slurm's list is that of this attempt; what was decided for the next one is in the records.
        excluded=job.excluded,
        waits=job.waits,
        works=job.works,
        starting=begins or (job.works and not known.ended and known.starting),
        ended=known.ended and not begins,
        starts_in_s=max(0.0, job.starts - now) if job.waits and job.starts is not None else None,
        limit_in_s=None if limit[0] is None else max(0.0, limit[0] - now),
        limit_s=None if limit[0] is None or limit[1] is None else limit[0] - limit[1],
    )


def _start_of(slurm: object) -> tuple[object, object]:
    """Job and restart count, which together identify an attempt."""
    return (slurm.get("job"), slurm.get("restarts")) if isinstance(slurm, dict) else (None, None)


def _read_verdict(run: Path, began: float) -> str:
    """Reads what the last preflight found; empty where there was none."""
    try:
        verdict = orjson.loads((run / "preflight.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return ""
    return verdict_sentence(verdict, began) if isinstance(verdict, dict) else ""


def verdict_sentence(verdict: JsonRow, began: float) -> str:
    """Returns preflight.json as a sentence.

    Args:
        verdict: content of preflight.json.
        began: unix time at which the newest attempt began.
    """
    hosts = verdict["hosts"] if isinstance(verdict.get("hosts"), list) else []
    faults = [str(fault) for fault in names_in(verdict, "common")]
    found = verdict.get("unfit")
    unfit: JsonRow = found if isinstance(found, dict) else {}
    for host in unfit:
        faults.append(f"{host}: {', '.join(names_in(unfit, host))}")
    text = (
        f"fit, {len(hosts)} host{'s' * (len(hosts) != 1)}"
        if verdict.get("fit") is True
        else "not fit: " + ("; ".join(faults) or "no reason is given")
    )
    return text + (" (of an earlier attempt)" if time_of(verdict) < began else "")
