"""Parts of the table of `jadeberta status`: text of an account, of heartbeats, and of what lies in the directory."""

from pathlib import Path

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.status.attempts import Row, finite
from jadeberta.status.goodput import PARTS, Account
from jadeberta.status.slurm_jobs import Slurm
from jadeberta.utils.durations import format_duration as duration

ROWS_SHOWN = 8
"""Lives and heartbeats in the table; --json has every life."""
DECISIONS_SHOWN = 3


def aligned(rows: list[tuple[str, str]]) -> list[str]:
    """Names and values as two columns."""
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {value}" for name, value in rows]


def times(result: Account) -> list[str]:
    """The wall time by what it was spent on; in seconds where a run is short."""
    unit, name = (3600.0, "hours") if result.wall_s >= 3600 else (1.0, "seconds")
    lines = [f"{'where the time went':<22} {name:>9}       %"]
    for label, seconds in {"wall time": result.wall_s, **result.parts()}.items():
        if seconds > 0 or label == PARTS["productive_s"]:
            share = 100 * seconds / result.wall_s if result.wall_s else 0.0
            lines.append(f"  {label:<20} {seconds / unit:>9.2f}  {share:>6.2f}")
    return lines


def lives(result: Account) -> list[str]:
    """Each life, how it ended and what it did, and each hang."""
    lines = [f"{len(result.lives)} lives, {result.failures} ended by a failure" if len(result.lives) != 1 else "1 life"]
    if len(result.lives) > ROWS_SHOWN:
        lines.append(f"  ... {len(result.lives) - ROWS_SHOWN} before")
    for life in result.lives[-ROWS_SHOWN:]:
        steps = "no step" if life.first_step is None else f"steps {life.first_step:,} to {life.last_step:,}"
        lasted = duration(life.last - life.started) if life.last is not None and life.started is not None else "?"
        back = "" if life.recovery_s is None else f"  back after {duration(life.recovery_s)}"
        lines.append(f"  {life.number:>3}  {life.ended:<8} {lasted:>8}  {steps:<28} {life.host}{back}".rstrip())
    for hang in result.hangs[-ROWS_SHOWN:]:
        where = ", ".join(f"{key} {value}" for key, value in hang.items() if value is not None and key != "seconds")
        lines.append(f"  hang: {where}" + (f", {duration(s)} silent" if (s := finite(hang, "seconds")) else ""))
    return lines


def checkpoints(run: Path) -> str:
    """Names of the newest."""
    names = [directory.name for directory in list_checkpoints(run / "checkpoints")]
    before = f"{len(names) - ROWS_SHOWN} before, " if len(names) > ROWS_SHOWN else ""
    return before + ", ".join(names[-ROWS_SHOWN:]) if names else "none"


def beats_of_ranks(beats: list[Row], now: float) -> list[str]:
    """What the ranks last said; of many, those that are longest at one thing."""
    many = len(beats) > ROWS_SHOWN
    lines = [f"heartbeats of {len(beats)} ranks" + (f", the {ROWS_SHOWN} that are longest at one thing" if many else "")]
    longest = sorted(beats, key=lambda beat: now - beat["time"] + (finite(beat, "seconds") or 0.0))[-ROWS_SHOWN:]
    for beat in sorted(longest, key=lambda beat: finite(beat, "rank") or 0):
        since, limit = finite(beat, "seconds"), finite(beat, "limit_s")
        what = [f"{key} {beat[key]}" for key in ("phase", "step", "place") if beat.get(key) not in (None, "")]
        what += [f"for {duration(since)}" + (f" of {duration(limit)}" if limit else "")] if since is not None else []
        age = duration(max(0.0, now - beat["time"]))
        lines.append(f"  rank {beat.get('rank', '?'):>4} on {beat.get('host', '?')}, {age} ago: {', '.join(what)}")
    return lines


def job_rows(slurm: Slurm) -> list[tuple[str, str]]:
    """The run's job in Slurm; nothing of a run that never was one."""
    if slurm.job is None:
        return []
    number = f"{slurm.job}" + (f" (task {slurm.array} of an array)" if slurm.array else "")
    rows = [("job", " ".join(part for part in (number, slurm.name, f"in {slurm.partition}" if slurm.partition else "") if part))]
    where = f" on {slurm.hosts}" if slurm.hosts else ""
    when = "" if slurm.starts_in_s is None else f", expected to start in {duration(slurm.starts_in_s)}"
    why = f" ({slurm.reason})" if slurm.reason else ""
    rows.append(
        ("in Slurm", f"{slurm.state}{why}{where}{when}" if slurm.state else slurm.note + (f" It was{where}." if where else ""))
    )
    requeued = f"; this job was requeued {slurm.restarts} time{'s' * (slurm.restarts != 1)}" if slurm.restarts else ""
    rows.append(("lives", f"{slurm.lives} of the run{requeued}"))
    if slurm.limit_in_s is not None:
        whole = "" if slurm.limit_s is None else f" of {duration(slurm.limit_s)}"
        rows.append(("time limit", f"in {duration(slurm.limit_in_s)}{whole}"))
    elif slurm.works:
        rows.append(("time limit", "none"))
    if slurm.excluded:
        rows.append(("left out", slurm.excluded))
    if slurm.preflight:
        rows.append(("preflight", slurm.preflight))
    return rows


def decisions(ends: list[Row], now: float) -> list[str]:
    """What became of the jobs whose ranks had ended."""
    if not ends:
        return []
    lines = ["what was decided at the end of a life"]
    for row in ends[-DECISIONS_SHOWN:]:
        at = finite(row, "time")
        ago = "" if at is None else f"{duration(max(0.0, now - at))} ago"
        without = row.get("excluded") or []
        left_out = f" Without {', '.join(map(str, without))}." if without and row.get("action") in ("requeue", "next") else ""
        lines.append(
            f"  {row.get('life', '?'):>3}  {row.get('action', '?'):<8} {ago:>12}  {row.get('reason', '')}{left_out}".rstrip()
        )
    return lines
