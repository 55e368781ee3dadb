"""A run's jobs: what jobs.jsonl, ledger and preflight.json tell of them, laid beside what Slurm says now.

`look` asks Slurm; all else are functions of plain rows. Rows come from files that kills have cut, so that any key may be missing.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from jadeberta.cluster.slurm import Job, ask, ask_following
from jadeberta.status.attempts import Row, finite
from jadeberta.utils.json_lines import read_jsonl

BOOKS = "jobs.jsonl"
STILL_STARTING_S = 600.0
"""Where Slurm cannot be asked, a life that began longer ago than this and trains not is taken for dead."""


@dataclass
class Slurm:
    """A run as jobs of Slurm. Of a run that never was one every field is as it stands here."""

    job: int | None = None
    array: str | None = None
    name: str = ""
    state: str = ""
    """In Slurm; empty where that cannot be told, and `note` says why."""
    reason: str = ""
    """Why it waits."""
    partition: str = ""
    hosts: str = ""
    """Slurm's short form of the hosts it has, or had."""
    restarts: int = 0
    """Of this job."""
    lives: int = 0
    """Of the run: how often a job began to work at it."""
    starts_in_s: float | None = None
    """Of a job that waits, where Slurm says."""
    limit_in_s: float | None = None
    """Until the time limit of a job that works."""
    limit_s: float | None = None
    """From its beginning to its time limit."""
    excluded: str = ""
    """Hosts that the job does without, or that its next life is to do without."""
    starting: bool = False
    """A life has begun and no rank has said anything yet: preflight, imports."""
    preflight: str = ""
    """A sentence on its verdict."""
    ends: list[Row] = field(default_factory=list)
    """What was decided about lives that ended by themselves, first to last."""
    kept_books: bool = False
    """slurm/attempt.sh runs the job, which ends soon after its ranks. Without, say in an interactive one, it may outlive them."""
    ended: bool = False
    """The newest life has such a row."""
    note: str = ""
    """Why Slurm says nothing."""
    waits: bool = False
    works: bool = False


def look(run: Path, ledger: list[Row], now: float) -> Slurm:
    """The jobs of a run directory; asks Slurm once, and where jobs follow one another also for the next.

    Args:
        run: run directory.
        ledger: its rows.
        now: unix time.
    """
    books = read_jsonl(run / BOOKS)
    own = newest_job(books, ledger)
    if own is None:
        return Slurm()
    answer = ask(own["job"])
    job = answer.job
    if books and books[-1].get("action") == "next" and not (job and job.works):
        job = ask_following(str(own.get("name") or ""), own["job"]) or job
    told = replace(by_the_books(books, ledger), preflight=_read_verdict(run, books))
    if job is not None:
        return with_slurm(told, job, now)
    may_start = now - _began(books) < STILL_STARTING_S and not answer.forgotten
    return replace(told, note=answer.why, starting=told.starting and may_start)


def newest_job(books: list[Row], ledger: list[Row]) -> Row | None:
    """What Slurm said of its job to the run's newest life: job, array, restarts, name, partition, hosts; None where that was no job.

    Jobs that do not run by slurm/attempt.sh keep no books; then the ledger's `start` has it.
    """
    told = [(_at(row), row) for row in books if row.get("event") == "begin"][-1:]
    told += [(_at(row), row.get("slurm") or {}) for row in ledger if row.get("event") == "start"][-1:]
    newest = max(told, key=lambda one: one[0], default=(0.0, {}))[1]
    return newest if isinstance(newest, dict) and isinstance(newest.get("job"), int) else None


def by_the_books(books: list[Row], ledger: list[Row]) -> Slurm:
    """What a run's own files tell of its jobs.

    Args:
        books: rows of jobs.jsonl.
        ledger: rows of ledger.jsonl.
    """
    own = newest_job(books, ledger) or {}
    begins, ends = ([row for row in books if row.get("event") == event] for event in ("begin", "end"))
    starts = [row for row in ledger if row.get("event") == "start"]
    ended = bool(books) and books[-1].get("event") == "end"
    has_started = bool(starts) and _life_of_job(starts[-1].get("slurm")) == _life_of_job(own)
    return Slurm(
        job=own.get("job"),
        array=own.get("array"),
        name=str(own.get("name") or ""),
        partition=str(own.get("partition") or ""),
        hosts=",".join(map(str, own.get("hosts") or [])),
        restarts=int(finite(own, "restarts") or 0),
        lives=len(begins or starts),
        excluded=",".join(_left_out(begins, ends)),
        starting=not ended and not has_started,
        ends=ends,
        kept_books=bool(begins) and begins[-1].get("job") == own.get("job"),
        ended=ended,
    )


def with_slurm(told: Slurm, job: Job, now: float) -> Slurm:
    """The same with what Slurm says.

    Args:
        told: by the books.
        job: the run's newest, or the next where that one goes on with it.
        now: unix time.
    """
    # A life that Slurm has begun and that has not come as far as the books.
    begins = job.works and (job.job != told.job or (job.restarts > told.restarts))
    limit = (job.ends, job.starts) if job.works and job.ends is not None else (None, None)
    return replace(
        told,
        job=job.job,
        array=job.array,
        name=job.name,
        partition=job.partition,
        state=job.state,
        reason=job.reason,
        restarts=job.restarts,
        hosts=job.hosts or ("" if job.waits else told.hosts),
        # What it was given for this life; of a job that works the books know already what becomes of the next.
        excluded=job.excluded,
        waits=job.waits,
        works=job.works,
        starting=begins or (job.works and not told.ended and told.starting),
        ended=told.ended and not begins,
        starts_in_s=max(0.0, job.starts - now) if job.waits and job.starts is not None else None,
        limit_in_s=None if limit[0] is None else max(0.0, limit[0] - now),
        limit_s=None if limit[0] is None or limit[1] is None else limit[0] - limit[1],
    )


def _at(row: Row) -> float:
    return finite(row, "time") or 0.0


def _began(books: list[Row]) -> float:
    """When the newest life began, unix time."""
    return max((_at(row) for row in books if row.get("event") == "begin"), default=0.0)


def _life_of_job(slurm: object) -> tuple[object, object]:
    return (slurm.get("job"), slurm.get("restarts")) if isinstance(slurm, dict) else (None, None)


def _left_out(begins: list[Row], ends: list[Row]) -> list[str]:
    """Hosts that the decision about the last end leaves out, and those of the user."""
    users = (begins[-1].get("users_exclusions") or []) if begins else []
    decided = (ends[-1].get("excluded") or []) if ends else []
    return sorted({*map(str, users), *map(str, decided)})


def _read_verdict(run: Path, books: list[Row]) -> str:
    """What the last preflight found; empty where there was none."""
    try:
        told = orjson.loads((run / "preflight.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return ""
    return verdict_sentence(told, _began(books)) if isinstance(told, dict) else ""


def verdict_sentence(told: Row, began: float) -> str:
    """preflight.json in a sentence; `began` is when the newest life began, unix time."""
    hosts = told.get("hosts") or []
    faults = [str(fault) for fault in told.get("common") or []]
    faults += [f"{host}: {', '.join(map(str, reasons))}" for host, reasons in (told.get("unfit") or {}).items()]
    text = (
        f"fit, {len(hosts)} host{'s' * (len(hosts) != 1)}"
        if told.get("fit") is True
        else "not fit: " + ("; ".join(faults) or "no reason is given")
    )
    return text + (" (of an earlier life)" if _at(told) < began else "")
