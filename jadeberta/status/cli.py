"""`jadeberta status RUN`: how far a run is, and where its time went, as a plain table or as JSON.

It changes nothing that a run reads, so it can be called at any time, on any host that sees the run directory; `metrics_cache.py` keeps what
it has read. Where Slurm answers it says more.
"""

import sys
import time
from dataclasses import asdict

import orjson

from jadeberta.config.lineage import describe_entry
from jadeberta.status.eta import Goal, jobs_to_come, next_save, training_left_s
from jadeberta.status.facts import DECIDED, NOT_CONTINUED, Facts, read_facts, state
from jadeberta.status.goodput import RECENT_STEPS, Goodput
from jadeberta.status.run_verdict import Verdict, judge
from jadeberta.status.slurm_jobs import JobStatus
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
from jadeberta.utils.paths import path_option


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
        facts = read_facts(options.run, now)
        verdict = judge(facts)
        text = _json(facts, verdict) if options.json else table(facts, verdict)
        clear = "\033[H\033[2J" if options.watch and not options.json and sys.stdout.isatty() else ""
        print(clear + text, flush=True)
        if options.watch is None or facts.state == "done":
            return 0
        time.sleep(options.watch)  # the user's own interval


def table(facts: Facts, verdict: Verdict) -> str:
    """Returns the state of a run as text; the first line is its verdict."""
    result, jobs, now = facts.result, facts.jobs, facts.now
    lines = [verdict.sentence, "", f"{facts.run}", *format_pairs(_progress(result, now, jobs, facts.goal))]
    if result.attempts:
        lines += ["", *format_times(result), "", *format_attempts(result)]
    if decisions := format_decisions(jobs.ends, now):
        lines += ["", *decisions]
    lines += ["", f"checkpoints  {format_checkpoints(facts.run)}"]
    present = facts.present_beats
    if present and facts.state not in ("done", "queued", "starting up"):
        lines += ["", *format_heartbeats(present, now)]
        if slow := facts.waits_for or facts.network_wait:
            lines.append(f"  SLOW: {slow.in_words()}")
    return "\n".join(lines)


def _json(facts: Facts, verdict: Verdict) -> str:
    """All figures of the table and more, one JSON object."""
    result, jobs, goal = facts.result, facts.jobs, facts.goal
    save = next_save(result, goal) or (None, None)
    left = training_left_s(result, goal)
    ahead = {"max_steps": goal.max_steps, "left_s": left, "next_save_step": save[0], "next_save_s": save[1]}
    ahead["jobs_to_come"] = None if left is None else jobs_to_come(jobs, left)
    figures, slurm = asdict(result), asdict(jobs)
    # `lives` and `kept_books` are the old spellings of `attempts` and `has_records`, kept for readers.
    figures["lives"], slurm["lives"], slurm["kept_books"] = figures["attempts"], slurm["attempts"], slurm["has_records"]
    slow, network = facts.waits_for, facts.network_wait
    found = {
        "verdict": asdict(verdict), **figures, "state": facts.state, "waits_for": None if slow is None else asdict(slow),
        "network_wait": None if network is None else asdict(network),
        "lineage": goal.lineage, "ahead": ahead, "slurm": slurm,
    }  # fmt: skip
    return orjson.dumps(found).decode()


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
    rows.append(("energy", result.energy.in_words()))
    rows.append(("saves", f"{result.saves:,}, {result.failed_saves:,} failed; {result.rollbacks:,} roll-backs"))
    return rows
