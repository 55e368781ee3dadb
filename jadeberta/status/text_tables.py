"""Parts of the output of `jadeberta status`: tables of the time, the attempts, the heartbeats, the job and the decisions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.status.goodput import PARTS, Goodput
from jadeberta.status.slurm_jobs import JobStatus
from jadeberta.utils.durations import format_duration
from jadeberta.utils.json_lines import JsonRow, finite, names_in
from jadeberta.utils.text_table import format_table

MAX_ROWS = 8
"""Most attempts and heartbeats in the output; --json has every attempt."""
MAX_DECISIONS = 3


def format_pairs(rows: list[tuple[str, str]]) -> list[str]:
    """Returns names and values as lines of two columns."""
    return _indented(("", ""), rows, left=2)


def format_times(result: Goodput) -> list[str]:
    """Returns the wall time by what it was spent on: hours, or seconds for a run below an hour."""
    unit, name = (3600.0, "hours") if result.wall_s >= 3600 else (1.0, "seconds")
    rows = []
    for label, seconds in {"wall time": result.wall_s, **result.parts()}.items():
        if seconds > 0 or label == PARTS["productive_s"]:
            share = 100 * seconds / result.wall_s if result.wall_s else 0.0
            rows.append((label, f"{seconds / unit:.2f}", f"{share:.2f}"))
    return _indented(("where the time went", name, "%"), rows)


def format_attempts(result: Goodput) -> list[str]:
    """Returns each attempt, how it ended and what it did, and each hang."""
    count = len(result.attempts)
    lines = [f"{count} attempts, {result.failures} ended by a failure" if count != 1 else "1 attempt"]
    if count > MAX_ROWS:
        lines.append(f"  ... {count - MAX_ROWS} before")
    rows = []
    for attempt in result.attempts[-MAX_ROWS:]:
        steps = "no step" if attempt.first_step is None else f"steps {attempt.first_step:,} to {attempt.last_step:,}"
        known = attempt.last is not None and attempt.started is not None
        lasted = format_duration(attempt.last - attempt.started) if known else "?"  # type: ignore[operator]
        recovery = "" if attempt.recovery_s is None else f"recovered after {format_duration(attempt.recovery_s)}"
        rows.append((attempt.number, attempt.ended, lasted, steps, attempt.host, recovery))
    lines += _indented(("",) * 6, rows, left=6)
    for hang in result.hangs[-MAX_ROWS:]:
        where = ", ".join(f"{key} {value}" for key, value in hang.items() if value is not None and key != "seconds")
        silence = finite(hang, "seconds")
        lines.append(f"  hang: {where}" + (f", {format_duration(silence)} silent" if silence else ""))
    return lines


def format_checkpoints(run: Path) -> str:
    """Returns the names of the newest checkpoints."""
    names = [directory.name for directory in list_checkpoints(run / "checkpoints")]
    before = f"{len(names) - MAX_ROWS} before, " if len(names) > MAX_ROWS else ""
    return before + ", ".join(names[-MAX_ROWS:]) if names else "none"


def format_heartbeats(beats: list[JsonRow], now: float) -> list[str]:
    """Returns the last heartbeat of each rank; of many ranks, those that have been in one section of the step for the longest time.

    Args:
        beats: heartbeats, each with a time.
        now: unix time.
    """
    many = len(beats) > MAX_ROWS
    lines = [f"heartbeats of {len(beats)} ranks" + (f", the {MAX_ROWS} that are longest in one section" if many else "")]
    longest = sorted(beats, key=lambda beat: now - beat["time"] + (finite(beat, "seconds") or 0.0))[-MAX_ROWS:]
    for beat in sorted(longest, key=lambda beat: finite(beat, "rank") or 0):
        since, limit = finite(beat, "seconds"), finite(beat, "limit_s")
        # Heartbeats of old versions have `place` for the section.
        fields = [("phase", beat.get("phase")), ("step", beat.get("step")), ("section", beat.get("section", beat.get("place")))]
        what = [f"{name} {value}" for name, value in fields if value not in (None, "")]
        if since is not None:
            what.append(f"for {format_duration(since)}" + (f" of {format_duration(limit)}" if limit else ""))
        age = format_duration(max(0.0, now - beat["time"]))
        lines.append(f"  rank {beat.get('rank', '?')!s:>4} on {beat.get('host', '?')}, {age} ago: {', '.join(what)}")
    return lines


def job_pairs(jobs: JobStatus) -> list[tuple[str, str]]:
    """Returns names and values about the run's Slurm job; none for a run that never was one."""
    if jobs.job is None:
        return []
    number = f"{jobs.job}" + (f" (task {jobs.array} of an array)" if jobs.array else "")
    partition = f"in {jobs.partition}" if jobs.partition else ""
    rows = [("job", " ".join(part for part in (number, jobs.name, partition) if part))]
    where = f" on {jobs.hosts}" if jobs.hosts else ""
    if jobs.state:
        why = f" ({jobs.reason})" if jobs.reason else ""
        when = "" if jobs.starts_in_s is None else f", expected to start in {format_duration(jobs.starts_in_s)}"
        rows.append(("in Slurm", f"{jobs.state}{why}{where}{when}"))
    else:
        rows.append(("in Slurm", jobs.note + (f" It was{where}." if where else "")))
    requeued = f"; this job was requeued {jobs.restarts} time{'s' * (jobs.restarts != 1)}" if jobs.restarts else ""
    rows.append(("attempts", f"{jobs.attempts} of the run{requeued}"))
    if jobs.limit_in_s is not None:
        whole = "" if jobs.limit_s is None else f" of {format_duration(jobs.limit_s)}"
        rows.append(("time limit", f"in {format_duration(jobs.limit_in_s)}{whole}"))
    elif jobs.works:
        rows.append(("time limit", "none"))
    if jobs.excluded:
        rows.append(("excluded", jobs.excluded))
    if jobs.preflight:
        rows.append(("preflight", jobs.preflight))
    return rows


def without_hosts(end: JsonRow) -> str:
    """Returns a sentence with a space before it on the hosts that the next attempt goes without; empty where there are none.

    Args:
        end: row `end` of jobs.jsonl.
    """
    excluded = names_in(end, "excluded")
    return f" Without {', '.join(excluded)}." if excluded and end.get("action") in ("requeue", "next") else ""


def format_decisions(ends: list[JsonRow], now: float) -> list[str]:
    """Returns what was decided at the ends of the newest attempts.

    Args:
        ends: rows `end` of jobs.jsonl.
        now: unix time.
    """
    if not ends:
        return []
    rows = []
    for row in ends[-MAX_DECISIONS:]:
        at = finite(row, "time")
        age = "" if at is None else f"{format_duration(max(0.0, now - at))} ago"
        number = row.get("attempt", row.get("life", "?"))  # rows of old versions have `life`
        rows.append((number, row.get("action", "?"), age, f"{row.get('reason', '')}{without_hosts(row)}"))
    return ["decisions at the ends of attempts", *_indented(("",) * 4, rows, left=4)]


def _indented(headers: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    return [f"  {line}" for line in format_table(headers, rows, left=left, rule=False).splitlines()]
