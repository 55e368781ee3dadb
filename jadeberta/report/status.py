"""`jadeberta status RUN`: how far a run is, and where its time went, as a plain table or as JSON.

Only reads: it may be asked about a run at any time, from any host that sees the run directory.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import yaml

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.report.accounts import PARTS, RECENT_STEPS, Account, account
from jadeberta.report.arguments import OneSentenceParser, positive
from jadeberta.report.history import finite, read_rows
from jadeberta.training.progress import duration

SILENT_S = 600.0
"""A run that has not said how it ended counts as living while its last sign of life is younger."""
SILENT_HEART_S = 120.0
"""The same for one with heartbeats, which are renewed every second or so; file systems hand them on late."""
ROWS_SHOWN = 8
"""Lives and heartbeats in the table; --json has every life."""


def main(arguments: list[str]) -> int:
    """Prints the state of a run. Raises InputError where the directory holds no run."""
    parser = OneSentenceParser(
        prog="jadeberta status",
        description="How far a run is, and where its time went: steps that stayed, lost steps, saves, starts, gaps between lives.",
        epilog="Goodput is the share of the wall time spent in steps that stayed. Everything is computed from ledger.jsonl and "
        "metrics.jsonl; checkpoints are listed by name, 'jadeberta checkpoint verify' reads them.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, run.dir of the recipe")
    parser.add_argument("--json", action="store_true", help="the account as one JSON object a time, with all its figures")
    parser.add_argument("--watch", type=positive, metavar="SECONDS", help="again every so many seconds, until the run is done")
    options = parser.parse_args(arguments)
    while True:
        now = time.time()
        beats = heartbeats(options.run)
        result = read_account(options.run, now, max((b["time"] for b in beats), default=0.0))
        text = orjson.dumps(asdict(result)).decode() if options.json else table(options.run, result, beats, now)
        clear = "\033[H\033[2J" if options.watch and not options.json and sys.stdout.isatty() else ""
        print(clear + text, flush=True)
        if options.watch is None or result.lives[-1].ended == "done":
            return 0
        time.sleep(options.watch)


def read_account(run: Path, now: float | None = None, heard: float = 0.0) -> Account:
    """The account of a run directory.

    Args:
        run: run directory.
        now: unix time; a run that was alive shortly before is accounted up to it.
        heard: unix time of its newest heartbeat.

    Raises:
        InputError: there is no ledger, or nothing in it.
    """
    ledger, metrics = read_rows(run)
    signs = [at for row in (ledger[-1], *metrics[-1:]) if (at := finite(row, "time")) is not None]
    lives = now is not None and now - max(heard, *signs, 0.0) < (SILENT_HEART_S if heard else SILENT_S)
    return account(ledger, metrics, now if lives else None)


def heartbeats(run: Path) -> list[dict[str, Any]]:
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


def max_steps(run: Path) -> int | None:
    """Steps of the whole run by its recipe.yaml; None where it does not say. The recipe may be of another version."""
    try:
        value = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["training"]["max_steps"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def table(run: Path, result: Account, beats: list[dict[str, Any]], now: float) -> str:
    """The state of a run for people."""
    lines = [
        f"{run}",
        *_aligned(_progress(run, result, now)),
        "",
        *_times(result),
        "",
        *_lives(result),
        "",
        f"checkpoints  {_checkpoints(run)}",
    ]
    # Ranks that an earlier life had and this one has not are no news.
    present = [beat for beat in beats if beat["time"] >= (result.lives[-1].started or 0.0)]
    if present and result.lives[-1].ended != "done":
        lines += ["", *_beats(present, now)]
    return "\n".join(lines)


def _progress(run: Path, result: Account, now: float) -> list[tuple[str, str]]:
    last_step, life = max_steps(run), result.lives[-1]
    step = f"{result.step:,}" + (f" of {last_step:,}  ({100 * result.step / last_step:.1f}%)" if last_step else "")
    said = "" if life.last is None else f", last sign of life {duration(max(0.0, now - life.last))} ago"
    rows = [("state", life.ended + said), ("step", step), ("tokens", f"{result.tokens:,}")]
    if result.loss is not None:
        rows.append(("loss", f"{result.loss:.4f}  (mean of the last {RECENT_STEPS} steps)"))
    if result.tokens_per_second is not None:
        mfu = "" if result.mfu is None else f", MFU {100 * result.mfu:.1f}%"
        rows.append(("speed", f"{result.tokens_per_second:,.0f} tokens/s{mfu}"))
    if last_step and result.step_s and result.goodput and result.step < last_step and life.ended != "done":
        left = result.step_s * (last_step - result.step)
        rows.append(("time left", f"{duration(left)}, at the goodput so far {duration(left / result.goodput)}"))
    waited = 100 * result.data_wait_s / (result.productive_s + result.skipped_s) if result.productive_s else 0.0
    rows.append(("goodput", f"{100 * result.goodput:.2f}%  (waiting for data: {waited:.2f}% of the steps' time)"))
    rows.append(("steps", f"{result.steps:,} stayed, {result.skipped_steps:,} of them skipped, {result.lost_steps:,} lost"))
    rows.append(("saves", f"{result.saves:,}, {result.failed_saves:,} failed; {result.rollbacks:,} roll-backs"))
    return rows


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {value}" for name, value in rows]


def _times(result: Account) -> list[str]:
    """The wall time by what it was spent on; in seconds where a run is short."""
    unit, name = (3600.0, "hours") if result.wall_s >= 3600 else (1.0, "seconds")
    lines = [f"{'where the time went':<22} {name:>9}       %"]
    for label, seconds in {"wall time": result.wall_s, **result.parts()}.items():
        if seconds > 0 or label == PARTS["productive_s"]:
            share = 100 * seconds / result.wall_s if result.wall_s else 0.0
            lines.append(f"  {label:<20} {seconds / unit:>9.2f}  {share:>6.2f}")
    return lines


def _lives(result: Account) -> list[str]:
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


def _checkpoints(run: Path) -> str:
    names = [directory.name for directory in list_checkpoints(run / "checkpoints")]
    before = f"{len(names) - ROWS_SHOWN} before, " if len(names) > ROWS_SHOWN else ""
    return before + ", ".join(names[-ROWS_SHOWN:]) if names else "none"


def _beats(beats: list[dict[str, Any]], now: float) -> list[str]:
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
