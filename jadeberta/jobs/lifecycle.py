"""The books of a Slurm job and what it asks of them: `python -m jadeberta.jobs.lifecycle begin|fit|watch|end`, called by slurm/attempt.sh.

Writes jobs.jsonl in the run directory, a line where a life begins and one where it ends by itself, and prints one line of words for the
shell; the sentence for people goes to standard error. The decisions are made in `requeue.py` and `fitness.py`.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from jadeberta.checkpoint.manifest import newest_step
from jadeberta.cluster.environment import slurm_job
from jadeberta.cluster.hostlist import expand
from jadeberta.cluster.slurm import RUNNING
from jadeberta.config import Recipe, load_recipe
from jadeberta.errors import HangError, JadebertaError
from jadeberta.jobs.exit_reason import LAST_WORDS_FOLDER, read_last_words
from jadeberta.jobs.preflight_policy import judge_fitness
from jadeberta.jobs.requeue_policy import Decision, Ending, Limits, decide
from jadeberta.training.ledger import Ledger
from jadeberta.utils.json_lines import read_jsonl

NAME = "jobs.jsonl"
ENDINGS = ("hang", "lost_rank", "stop", "requeue", "done")
"""Events of the ledger after which the ranks end."""
LATE_S = 25.0
"""They need some seconds for it; Slurm itself gives up a host after SlurmdTimeout, five minutes by default."""
Row = dict[str, Any]


def main() -> None:
    options, overrides = _parser().parse_known_args()
    try:
        recipe = load_recipe(options.config, tuple(overrides))
        words = {"begin": begin, "fit": fit, "watch": watch, "end": end}[options.what](recipe, options, slurm_job(os.environ))
    except JadebertaError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        sys.exit(e.exit_status)
    if words:
        try:
            print(*words, flush=True)
        except BrokenPipeError:  # the shell that asked has gone on
            os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jadeberta.jobs.lifecycle", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=("begin", "fit", "watch", "end"))
    parser.add_argument("--config", type=Path, required=True, help="recipe; its keys are options too")
    parser.add_argument("--status", type=int, default=0, help="end: of srun")
    parser.add_argument("--state", default=RUNNING, help="of the job in Slurm")
    parser.add_argument("--next", choices=("requeue", "singleton", "none"), default="none", help="how another life is to be had")
    parser.add_argument("--excluded", default="", help="begin: the job's ExcNodeList")
    parser.add_argument("--down", default="", help="begin: hosts that Slurm says are down")
    parser.add_argument("--usable", default="", help="hosts of the partition that Slurm could use")
    parser.add_argument("--answered", default="", help="end: hosts of the job that still answer; empty: nobody asked")
    parser.add_argument("--tasks", type=int, default=1, help="fit: ranks on a host")
    parser.add_argument("--resume", help=argparse.SUPPRESS)  # of the training's own command line, which is handed on whole
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)
    return parser


def begin(recipe: Recipe, options: argparse.Namespace, job: Row) -> list[str]:
    """Notes that a life begins, and which hosts the one before has lost; prints nothing for the shell."""
    path, past = _books(recipe)
    last = past[-1] if past else {}
    # A life that did not end by itself was ended by Slurm; a host of it that is down now is why.
    before = next((row for row in reversed(past) if row.get("event") == "begin"), {})
    by_slurm = last.get("event") == "begin" or last.get("action") == "leave"
    lost = sorted(set(before.get("hosts") or []) & set(options.down.split())) if by_slurm else []
    excluded = expand(options.excluded.replace("(null)", ""))
    own = set(next((row.get("excluded") or [] for row in reversed(past) if row.get("event") == "end"), []))
    Ledger(path, _lives(past)).write(
        "begin",
        **job,
        step=newest_step(Path(recipe.run.dir)),
        blamed=lost,
        users_exclusions=[host for host in excluded if host not in own],
    )
    return []


def fit(recipe: Recipe, options: argparse.Namespace, job: Row) -> list[str]:
    """What the preflight's verdict means for this job: go; without HOSTS TASKS MICRO_BATCH; requeue STATUS HOSTS; stop STATUS."""
    run_dir = Path(recipe.run.dir)
    _, past = _books(recipe)
    began = _began(past)
    verdict = _read_verdict(run_dir / "preflight.json", began)
    found = judge_fitness(verdict, job.get("hosts", []), options.tasks, recipe)
    _say(found.reason)
    if found.action == "go":
        return ["go"]
    if found.action == "without":
        return ["without", ",".join(found.hosts), str(found.ranks), str(found.micro_batch_size)]
    ending = Ending(1, False, reason=found.reason, state=options.state, step=newest_step(run_dir), time=time.time())
    return _conclude(recipe, options, job, ending, blamed=found.hosts, told=found.status)


def watch(recipe: Recipe, options: argparse.Namespace, job: Row) -> list[str]:
    """Returns `late` where the ranks said long ago that they end and srun still waits: for a host that nobody can reach."""
    ledger, began, parent = Path(recipe.run.dir) / "ledger.jsonl", _began(_books(recipe)[1]), os.getppid()
    seen, said = 0, []
    while os.getppid() == parent:
        size = ledger.stat().st_size if ledger.exists() else 0
        if size != seen:
            seen, said = size, [_at(r) for r in read_jsonl(ledger) if r.get("event") in ENDINGS and _at(r) >= began]
        if seen and said and time.time() - min(said) > LATE_S:
            return ["late"]
        time.sleep(1.0)
    return []


def end(recipe: Recipe, options: argparse.Namespace, job: Row) -> list[str]:
    """What becomes of the job whose ranks have ended: ACTION STATUS HOSTS, the last for ExcNodeList and - where there are none."""
    run_dir = Path(recipe.run.dir)
    _, past = _books(recipe)
    began = _began(past)
    rows = [r for r in read_jsonl(run_dir / "ledger.jsonl") if _at(r) >= began]
    told, reason = told_by(rows)
    if told is None:  # before a rank has a ledger to write to
        told, reason = read_last_words(run_dir / LAST_WORDS_FOLDER, began)
    silent = set(job.get("hosts", [])) - set(options.answered.split()) if options.answered else set()
    ending = Ending(
        options.status,
        is_finished(run_dir, recipe.training.max_steps),
        told,
        reason,
        options.state,
        newest_step(run_dir),
        time.time(),
    )
    return _conclude(recipe, options, job, ending, blamed=sorted(silent | set(_hung(rows, job.get("hosts", [])))), told=told)


def _conclude(
    recipe: Recipe, options: argparse.Namespace, job: Row, ending: Ending, blamed: Iterable[str], told: int | None
) -> list[str]:
    """Decides, notes it, and says it."""
    path, past = _books(recipe)
    cluster = recipe.cluster
    # A job without enough hosts to run on would wait for ever.
    spare = (
        max(0, len(set(options.usable.split()) | set(job.get("hosts", []))) - len(job.get("hosts", []))) if options.usable else 0
    )
    limits = Limits(cluster.fruitless_lives, min(cluster.excluded_hosts, spare), cluster.excluded_hours)
    ending = Ending(**vars(ending) | {"blamed": tuple(blamed), "told": told})
    decision = decide(ending, past, limits, options.next)
    Ledger(path, max(0, _lives(past) - 1)).write(
        "end",
        job=job.get("job"),
        status=ending.status,
        state=ending.state,
        step=ending.step,
        action=decision.action,
        reason=decision.reason,
        blamed=list(ending.blamed),
        excluded=list(decision.excluded),
    )
    _say(_sentence(decision))
    users = next((row.get("users_exclusions") or [] for row in reversed(past) if row.get("event") == "begin"), [])
    left_out = sorted({*users, *decision.excluded})
    return [decision.action, str(decision.status), ",".join(left_out) or "-"]


def told_by(rows: list[Row]) -> tuple[int | None, str]:
    """Status and reason that the ranks wrote into the ledger in one life: of the last that is no mere consequence of another's end."""
    statuses = {"stop": None, "requeue": None, "hang": HangError.exit_status, "lost_rank": None}
    said = [row for row in rows if row.get("event") in statuses]
    causes = [row for row in said if row["event"] != "lost_rank"] or said
    if not causes:
        return None, ""
    row = causes[-1]
    status = statuses[row["event"]] or row.get("status")
    reason = str(row.get("reason") or "").strip()
    return (status if isinstance(status, int) else None), reason if not reason or reason.endswith(".") else f"{reason}."


def is_finished(run_dir: Path, max_steps: int) -> bool:
    """Whether the run's DONE is that of its last step; the one of a shorter run does not count."""
    try:
        step = orjson.loads((run_dir / "DONE").read_bytes())["step"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return isinstance(step, int) and step >= max_steps


def _hung(rows: list[Row], hosts: list[str]) -> list[str]:
    """Hosts that the watchdog blamed, under Slurm's names; nobody where it blames more than half of them."""
    blamed = {
        s.get("host") for row in rows if row.get("event") == "hang" for s in row.get("suspects") or [] if isinstance(s, dict)
    }
    short = {str(name).split(".")[0] for name in blamed if name}
    found = [host for host in hosts if host in blamed or host.split(".")[0] in short]
    return found if 2 * len(found) <= len(hosts) else []


def _books(recipe: Recipe) -> tuple[Path, list[Row]]:
    path = Path(recipe.run.dir) / NAME
    return path, read_jsonl(path)


def _lives(past: list[Row]) -> int:
    return sum(row.get("event") == "begin" for row in past)


def _began(past: list[Row]) -> float:
    """When this life began, unix time; the ledger's rows before it are of others."""
    return max((_at(row) for row in past if row.get("event") == "begin"), default=0.0)


def _at(row: Row) -> float:
    at = row.get("time")
    return float(at) if isinstance(at, int | float) else 0.0


def _read_verdict(path: Path, began: float) -> Row | None:
    """What the preflight of this life found; None where it came to no verdict."""
    try:
        verdict = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return verdict if isinstance(verdict, dict) and _at(verdict) >= began else None


def _sentence(decision: Decision) -> str:
    without = f" Without {', '.join(decision.excluded)}." if decision.excluded and decision.action in ("requeue", "next") else ""
    return f"{decision.action.upper()} ({decision.reason}){without}"


def _say(line: str) -> None:
    print(f"{time.strftime('%F %T')} jadeberta: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
