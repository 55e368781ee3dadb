"""`jadeberta status RUN`: how far a run is, and where its time went, as a plain table or as JSON.

It changes nothing that a run reads, so it can be called at any time, on any host that sees the run directory; `metrics_cache.py` keeps what
it has read. Where Slurm answers it says more.
"""

import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path

import orjson

from jadeberta.cluster.slurm import CANCELLED
from jadeberta.config.lineage import describe_entry
from jadeberta.status.attempts import read_run
from jadeberta.status.eta import Goal, jobs_to_come, next_save, read_goal, training_left_s
from jadeberta.status.goodput import RECENT_STEPS, Goodput, compute_goodput
from jadeberta.status.slurm_jobs import JobStatus, look_up_jobs
from jadeberta.status.text_tables import (
    format_attempts,
    format_checkpoints,
    format_decisions,
    format_heartbeats,
    format_pairs,
    format_times,
    job_pairs,
)
from jadeberta.utils.command_line import OneSentenceParser, positive
from jadeberta.utils.durations import format_duration
from jadeberta.utils.json_lines import JsonRow, finite, read_jsonl
from jadeberta.utils.locks import LOCK_NAME, is_held
from jadeberta.utils.paths import path_option

SILENT_S = 600.0
"""A run without an ending counts as running while its last row is younger than this."""
SILENT_HEARTBEAT_S = 120.0
"""Limit for a run with heartbeats. They are written about every second, but a shared file system shows them late."""
DECIDED = {"finish": "done", "stop": "stopped", "leave": "ended by Slurm", "requeue": "requeued", "next": "handed on"}
"""State of a run whose job has ended by itself, by the action that was decided."""
NOT_CONTINUED = "not continued"


def main(arguments: list[str]) -> int:
    """Prints the state of a run.

    Raises:
        InputError: the directory holds no run.
    """
    parser = OneSentenceParser(
        prog="jadeberta status",
        description="How far a run is, and where its time went: steps that stayed, lost steps, saves, starts, time between attempts; "
        "and its job in Slurm.",
        epilog="Goodput is the share of the wall time spent in steps that stayed. Everything is computed from ledger.jsonl and "
        "metrics.jsonl; checkpoints are listed by name, 'jadeberta checkpoint verify' reads them. A run that is a job of Slurm is looked "
        "up there, on any host that has scontrol; jobs.jsonl says how its earlier attempts ended.",
    )
    parser.add_argument("run", type=path_option, metavar="RUN", help="run directory, run.dir of the recipe")
    parser.add_argument("--json", action="store_true", help="one JSON object with all figures instead of the table")
    parser.add_argument("--watch", type=positive, metavar="SECONDS", help="again every so many seconds, until the run is done")
    options = parser.parse_args(arguments)
    while True:
        now = time.time()
        beats = read_heartbeats(options.run)
        jobs = look_up_jobs(options.run, read_jsonl(options.run / "ledger.jsonl"), now)
        result = read_goodput(options.run, now, max((b["time"] for b in beats), default=0.0), jobs)
        goal = read_goal(options.run)
        text = _json(result, jobs, goal) if options.json else table(options.run, result, beats, now, jobs, goal)
        clear = "\033[H\033[2J" if options.watch and not options.json and sys.stdout.isatty() else ""
        print(clear + text, flush=True)
        if options.watch is None or state(result, jobs) == "done":
            return 0
        time.sleep(options.watch)  # the user's own interval


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
    jobs = jobs or JobStatus()
    if jobs.attempts and not (run / "ledger.jsonl").exists():
        return Goodput()
    ledger, steps, newest = read_run(run)
    times = [at for at in (finite(ledger[-1], "time"), newest) if at is not None]
    alive = now is not None and now - max(last_heartbeat, *times, 0.0) < (SILENT_HEARTBEAT_S if last_heartbeat else SILENT_S)
    if now is not None and (held := lives_by_lock(run)) is not None:
        alive = held
    # Where Slurm or the records know about the job they decide; an interactive job may outlive its ranks, so its rows count too.
    if jobs.state or jobs.starting or jobs.ended:
        alive = jobs.works and not jobs.starting and not jobs.ended and (alive or jobs.has_records)
    return compute_goodput(ledger, steps, now if alive else None)


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


def table(run: Path, result: Goodput, beats: list[JsonRow], now: float, jobs: JobStatus, goal: Goal) -> str:
    """Returns the state of a run as text.

    Args:
        run: run directory, for its name and its checkpoints.
        result: goodput of the run.
        beats: newest heartbeat of each rank.
        now: unix time.
        jobs: state of its Slurm job.
        goal: what its recipe says about its course.
    """
    lines = [f"{run}", *format_pairs(_progress(result, now, jobs, goal))]
    if result.attempts:
        lines += ["", *format_times(result), "", *format_attempts(result)]
    if decisions := format_decisions(jobs.ends, now):
        lines += ["", *decisions]
    lines += ["", f"checkpoints  {format_checkpoints(run)}"]
    # An earlier attempt may have had more ranks; their files are stale.
    last = result.attempts[-1] if result.attempts else None
    # Heartbeats of old versions do not name their attempt: of those the time must tell.
    began = now if last is None else last.started or 0.0
    present = [b for b in beats if (last is not None and b["attempt"] == last.number if "attempt" in b else b["time"] >= began)]
    if present and state(result, jobs) not in ("done", "queued", "starting up"):
        lines += ["", *format_heartbeats(present, now)]
    return "\n".join(lines)


def _json(result: Goodput, jobs: JobStatus, goal: Goal) -> str:
    """All figures of the table and more, one JSON object."""
    save = next_save(result, goal) or (None, None)
    left = training_left_s(result, goal)
    ahead = {"max_steps": goal.max_steps, "left_s": left, "next_save_step": save[0], "next_save_s": save[1]}
    ahead["jobs_to_come"] = None if left is None else jobs_to_come(jobs, left)
    figures, slurm = asdict(result), asdict(jobs)
    # `lives` and `kept_books` are the old spellings of `attempts` and `has_records`, kept for readers.
    figures["lives"], slurm["lives"], slurm["kept_books"] = figures["attempts"], slurm["attempts"], slurm["has_records"]
    return orjson.dumps(
        {**figures, "state": state(result, jobs), "lineage": goal.lineage, "ahead": ahead, "slurm": slurm}
    ).decode()


def _progress(result: Goodput, now: float, jobs: JobStatus, goal: Goal) -> list[tuple[str, str]]:
    attempt = result.attempts[-1] if result.attempts else None
    last = "" if attempt is None or attempt.last is None else f", last row {format_duration(max(0.0, now - attempt.last))} ago"
    now_is = state(result, jobs)
    rows = [("state", now_is + last)]
    if now_is == DECIDED["stop"]:
        rows.append(("because", str(jobs.ends[-1].get("reason", ""))))
    if now_is == NOT_CONTINUED:
        rows.append(("because", "Slurm has no job that goes on with it, though one was to. Submit it again."))
    rows += job_pairs(jobs)
    if attempt is None:
        return rows
    done = "" if not goal.max_steps else f" of {goal.max_steps:,}  ({100 * result.step / goal.max_steps:.1f}%)"
    rows += [("started from", describe_entry(entry)) for entry in goal.lineage[-1:]]
    rows += [("step", f"{result.step:,}{done}"), ("tokens", f"{result.tokens:,}")]
    if result.loss is not None:
        rows.append(("loss", f"{result.loss:.4f}  (mean of the last {RECENT_STEPS} steps)"))
    if result.tokens_per_second is not None:
        mfu = "" if result.mfu is None else f", MFU {100 * result.mfu:.1f}%"
        rows.append(("speed", f"{result.tokens_per_second:,.0f} tokens/s{mfu}"))
    left = training_left_s(result, goal)
    if left is not None and result.goodput and now_is != "done":
        more = jobs_to_come(jobs, left)
        further = f"; {more} more job{'s' * (more != 1)} of this time limit" if more else ""
        at_goodput = format_duration(left / result.goodput)
        rows.append(("time left", f"{format_duration(left)}, at the goodput so far {at_goodput}{further}"))
    if now_is == "running" and (save := next_save(result, goal)):
        rows.append(("next save", f"step {save[0]:,}, in about {format_duration(save[1])}"))
    waited = 100 * result.data_wait_s / (result.productive_s + result.skipped_s) if result.productive_s else 0.0
    rows.append(("goodput", f"{100 * result.goodput:.2f}%  (waiting for data: {waited:.2f}% of the steps' time)"))
    rows.append(("steps", f"{result.steps:,} stayed, {result.skipped_steps:,} of them skipped, {result.lost_steps:,} lost"))
    rows.append(("saves", f"{result.saves:,}, {result.failed_saves:,} failed; {result.rollbacks:,} roll-backs"))
    return rows
