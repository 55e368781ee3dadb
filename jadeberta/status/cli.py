"""`jadeberta status RUN`: how far a run is, and where its time went, as a plain table or as JSON.

Only reads: it may be asked about a run at any time, from any host that sees the run directory. Where Slurm can be asked it says more.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import orjson

from jadeberta.cluster.slurm import CANCELLED
from jadeberta.status import text_tables as sections
from jadeberta.status.attempts import Row, finite, read_rows
from jadeberta.status.eta import Goal, jobs_to_come, next_save, read_goal, training_left_s
from jadeberta.status.goodput import RECENT_STEPS, Account, account
from jadeberta.status.slurm_jobs import Slurm, look
from jadeberta.utils.command_line import OneSentenceParser, positive
from jadeberta.utils.durations import format_duration as duration
from jadeberta.utils.json_lines import read_jsonl

SILENT_S = 600.0
"""A run that has not said how it ended counts as living while its last sign of life is younger."""
SILENT_HEART_S = 120.0
"""The same for one with heartbeats, which are renewed every second or so; file systems hand them on late."""
DECIDED = {"finish": "done", "stop": "stopped", "leave": "ended by Slurm", "requeue": "requeued", "next": "handed on"}
"""The state of a run whose job has ended by itself, by what was decided."""
NOT_CONTINUED = "not continued"


def main(arguments: list[str]) -> int:
    """Prints the state of a run. Raises InputError where the directory holds no run."""
    parser = OneSentenceParser(
        prog="jadeberta status",
        description="How far a run is, and where its time went: steps that stayed, lost steps, saves, starts, gaps between lives; "
        "and its job in Slurm.",
        epilog="Goodput is the share of the wall time spent in steps that stayed. Everything is computed from ledger.jsonl and "
        "metrics.jsonl; checkpoints are listed by name, 'jadeberta checkpoint verify' reads them. A run that is a job of Slurm is looked "
        "up there, on any host that has scontrol; jobs.jsonl tells how its earlier lives ended.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, run.dir of the recipe")
    parser.add_argument("--json", action="store_true", help="the account as one JSON object a time, with all its figures")
    parser.add_argument("--watch", type=positive, metavar="SECONDS", help="again every so many seconds, until the run is done")
    options = parser.parse_args(arguments)
    while True:
        now = time.time()
        beats = heartbeats(options.run)
        slurm = look(options.run, read_jsonl(options.run / "ledger.jsonl"), now)
        result = read_account(options.run, now, max((b["time"] for b in beats), default=0.0), slurm)
        goal = read_goal(options.run)
        text = _json(result, slurm, goal) if options.json else table(options.run, result, beats, now, slurm, goal)
        clear = "\033[H\033[2J" if options.watch and not options.json and sys.stdout.isatty() else ""
        print(clear + text, flush=True)
        if options.watch is None or state(result, slurm) == "done":
            return 0
        time.sleep(options.watch)


def read_account(run: Path, now: float | None = None, heard: float = 0.0, slurm: Slurm | None = None) -> Account:
    """The account of a run directory; of one whose first job is starting up an empty one.

    Args:
        run: run directory.
        now: unix time; a run that was alive shortly before is accounted up to it.
        heard: unix time of its newest heartbeat.
        slurm: its job, which knows better where Slurm says how that is.

    Raises:
        InputError: there is no ledger, or nothing in it.
    """
    slurm = slurm or Slurm()
    if slurm.lives and not (run / "ledger.jsonl").exists():
        return Account()
    ledger, metrics = read_rows(run)
    signs = [at for row in (ledger[-1], *metrics[-1:]) if (at := finite(row, "time")) is not None]
    lives = now is not None and now - max(heard, *signs, 0.0) < (SILENT_HEART_S if heard else SILENT_S)
    if slurm.state or slurm.starting or slurm.ended:
        lives = slurm.works and not slurm.starting and not slurm.ended and (lives or slurm.kept_books)
    return account(ledger, metrics, now if lives else None)


def heartbeats(run: Path) -> list[Row]:
    """The last heartbeat of every rank, by rank; one that is being written is left out."""
    found = []
    for path in sorted((run / "heartbeat").glob("rank-*.json")):
        try:
            beat = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        if isinstance(beat, dict) and finite(beat, "time") is not None:
            found.append(beat)
    return sorted(found, key=lambda beat: finite(beat, "rank") or 0)


def state(result: Account, slurm: Slurm) -> str:
    """The run in a word or two: done, running, starting up, queued, stopped, ... or how its last life ended."""
    last = result.lives[-1].ended if result.lives else "killed"
    if slurm.starting:
        return "starting up"
    if last == "done":
        return last
    if slurm.waits:
        return "queued"
    if slurm.state == CANCELLED:
        return "cancelled"
    if slurm.ended:
        action = str(slurm.ends[-1].get("action"))
        left_alone = action in ("requeue", "next") and slurm.state and not slurm.works
        return NOT_CONTINUED if left_alone else DECIDED.get(action, last)
    return last


def table(run: Path, result: Account, beats: list[Row], now: float, slurm: Slurm, goal: Goal) -> str:
    """The state of a run for people."""
    lines = [f"{run}", *sections.aligned(_progress(result, now, slurm, goal))]
    if result.lives:
        lines += ["", *sections.times(result), "", *sections.lives(result)]
    if decided := sections.decisions(slurm.ends, now):
        lines += ["", *decided]
    lines += ["", f"checkpoints  {sections.checkpoints(run)}"]
    # Ranks that an earlier life had and this one has not are no news.
    began = (result.lives[-1].started or 0.0) if result.lives else now
    present = [beat for beat in beats if beat["time"] >= began]
    if present and state(result, slurm) not in ("done", "queued", "starting up"):
        lines += ["", *sections.beats_of_ranks(present, now)]
    return "\n".join(lines)


def _json(result: Account, slurm: Slurm, goal: Goal) -> str:
    """All figures of the table and more, one JSON object."""
    save = next_save(result, goal) or (None, None)
    left = training_left_s(result, goal)
    ahead = {"max_steps": goal.max_steps, "left_s": left, "next_save_step": save[0], "next_save_s": save[1]}
    ahead["jobs_to_come"] = None if left is None else jobs_to_come(slurm, left)
    return orjson.dumps({**asdict(result), "state": state(result, slurm), "ahead": ahead, "slurm": asdict(slurm)}).decode()


def _progress(result: Account, now: float, slurm: Slurm, goal: Goal) -> list[tuple[str, str]]:
    life = result.lives[-1] if result.lives else None
    said = "" if life is None or life.last is None else f", last sign of life {duration(max(0.0, now - life.last))} ago"
    now_is = state(result, slurm)
    rows = [("state", now_is + said)]
    if now_is == DECIDED["stop"]:
        rows.append(("because", str(slurm.ends[-1].get("reason", ""))))
    if now_is == NOT_CONTINUED:
        rows.append(("because", "Slurm has no job that goes on with it, though one was to. Submit it again."))
    rows += sections.job_rows(slurm)
    if life is None:
        return rows
    done = "" if not goal.max_steps else f" of {goal.max_steps:,}  ({100 * result.step / goal.max_steps:.1f}%)"
    rows += [("step", f"{result.step:,}{done}"), ("tokens", f"{result.tokens:,}")]
    if result.loss is not None:
        rows.append(("loss", f"{result.loss:.4f}  (mean of the last {RECENT_STEPS} steps)"))
    if result.tokens_per_second is not None:
        mfu = "" if result.mfu is None else f", MFU {100 * result.mfu:.1f}%"
        rows.append(("speed", f"{result.tokens_per_second:,.0f} tokens/s{mfu}"))
    left = training_left_s(result, goal)
    if left is not None and result.goodput and now_is != "done":
        more = jobs_to_come(slurm, left)
        further = f"; {more} more job{'s' * (more != 1)} of this time limit" if more else ""
        rows.append(("time left", f"{duration(left)}, at the goodput so far {duration(left / result.goodput)}{further}"))
    if now_is == "running" and (save := next_save(result, goal)):
        rows.append(("next save", f"step {save[0]:,}, in about {duration(save[1])}"))
    waited = 100 * result.data_wait_s / (result.productive_s + result.skipped_s) if result.productive_s else 0.0
    rows.append(("goodput", f"{100 * result.goodput:.2f}%  (waiting for data: {waited:.2f}% of the steps' time)"))
    rows.append(("steps", f"{result.steps:,} stayed, {result.skipped_steps:,} of them skipped, {result.lost_steps:,} lost"))
    rows.append(("saves", f"{result.saves:,}, {result.failed_saves:,} failed; {result.rollbacks:,} roll-backs"))
    return rows
