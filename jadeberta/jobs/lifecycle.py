"""Records and decisions of a Slurm job: `python -m jadeberta.jobs.lifecycle begin|fit|watch|end`, called by slurm/attempt.sh.

Writes jobs.jsonl in the run directory: a row where an attempt begins, and one where it ends by itself. Prints one line for the shell on
standard output, and the sentence for people on standard error. The decisions are made in `requeue_policy` and `preflight_policy`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import orjson

from jadeberta.checkpoint.manifest import newest_step
from jadeberta.cluster.environment import slurm_job
from jadeberta.cluster.hostlist import expand
from jadeberta.cluster.slurm import RUNNING
from jadeberta.config import Recipe, load_recipe
from jadeberta.errors import HangError, JadebertaError
from jadeberta.jobs.exit_reason import EXIT_REASONS_FOLDER, clear_exit_reasons, read_exit_reason
from jadeberta.jobs.job_records import BeginFields, EndFields, JobRecords, append_begin, append_end
from jadeberta.jobs.preflight_policy import judge_fitness
from jadeberta.jobs.requeue_policy import Decision, Ending, Limits, decide
from jadeberta.training.ledger import ENDING_EVENTS
from jadeberta.training.watchdog.slow_rank_rule import EVENT as SLOW_RANK
from jadeberta.utils.json_lines import JsonRow, read_jsonl, time_of
from jadeberta.utils.paths import path_option

LATE_S = 25.0
"""Time in which srun ends after the ranks have reported their end. They need some seconds; for a host that is gone srun waits until Slurm
gives it up after SlurmdTimeout, five minutes by default."""


def main() -> None:
    """Runs one verb; ends with the status of a JadebertaError."""
    options, overrides = _parser().parse_known_args()
    verbs = {"begin": begin, "fit": fit, "watch": watch, "end": end}
    try:
        recipe = load_recipe(options.config, tuple(overrides), options.branch_from)
        answer = verbs[options.what](recipe, options, slurm_job(os.environ))
    except JadebertaError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        sys.exit(e.exit_status)
    if answer:
        try:
            print(*answer, flush=True)
        except BrokenPipeError:  # the shell did not wait for the answer
            os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jadeberta.jobs.lifecycle", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=("begin", "fit", "watch", "end"))
    parser.add_argument("--config", type=path_option, required=True, help="recipe; its keys are options too")
    parser.add_argument("--status", type=int, default=0, help="end: exit status of srun")
    parser.add_argument("--state", default=RUNNING, help="state of the job in Slurm")
    parser.add_argument(
        "--next", choices=("requeue", "singleton", "none"), default="none", help="how the next attempt would start"
    )
    parser.add_argument("--excluded", default="", help="begin: the job's ExcNodeList")
    parser.add_argument("--down", default="", help="begin: hosts that are down, says Slurm")
    parser.add_argument("--usable", default="", help="hosts of the partition that Slurm could use")
    parser.add_argument("--answered", default="", help="end: hosts of the job that still answer; empty: unknown")
    parser.add_argument("--tasks", type=int, default=1, help="fit: ranks on a host")
    parser.add_argument("--parent", type=int, default=0, help="watch: process that reads the answer; 0: the parent process")
    # attempt.sh hands the training's own options over whole; these three are not keys of a recipe.
    parser.add_argument("--resume", help=argparse.SUPPRESS)
    parser.add_argument("--branch-from", type=path_option, help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)
    return parser


def begin(recipe: Recipe, options: argparse.Namespace, job: JsonRow) -> list[str]:
    """Records that an attempt begins, and which hosts the attempt before has lost; prints nothing for the shell."""
    run_dir = Path(recipe.run.dir)
    clear_exit_reasons(run_dir / EXIT_REASONS_FOLDER)
    records = JobRecords.read(run_dir)
    # An attempt that did not end by itself was ended by Slurm; a host of it that is down now is the likely cause.
    ended_by_slurm = records.newest.get("event") == "begin" or records.newest.get("action") == "leave"
    lost = sorted(set(records.newest_begin.get("hosts") or []) & set(options.down.split())) if ended_by_slurm else []
    # ExcNodeList holds the hosts that we excluded before, too; all others in it are the user's.
    own = set(records.newest_end.get("excluded") or [])
    users = [host for host in expand(options.excluded.replace("(null)", "")) if host not in own]
    append_begin(run_dir, records, job, BeginFields(newest_step(run_dir), lost, users))
    return []


def fit(recipe: Recipe, options: argparse.Namespace, job: JsonRow) -> list[str]:
    """Decides after the preflight: go; without HOSTS TASKS MICRO_BATCH; requeue STATUS HOSTS; stop STATUS."""
    run_dir = Path(recipe.run.dir)
    verdict = _read_verdict(run_dir / "preflight.json", JobRecords.read(run_dir).began)
    found = judge_fitness(verdict, job.get("hosts", []), options.tasks, recipe)
    _log(found.reason)
    if found.action == "go":
        return ["go"]
    if found.action == "without":
        return ["without", ",".join(found.hosts), str(found.ranks), str(found.micro_batch_size)]
    ending = Ending(1, False, found.status, found.reason, options.state, newest_step(run_dir), time.time(), found.hosts)
    return _conclude(recipe, options, job, ending)


def watch(recipe: Recipe, options: argparse.Namespace, job: JsonRow) -> list[str]:
    """Returns `late` when the ranks reported their end long ago and srun still waits: for a host that nobody can reach."""
    # The shell may have ended while Python was starting: asked now, the parent would be another process, and this one would never end.
    run_dir, parent = Path(recipe.run.dir), options.parent or os.getppid()
    ledger, began = run_dir / "ledger.jsonl", JobRecords.read(run_dir).began
    seen: int = 0
    reported: list[float] = []
    while os.getppid() == parent:  # the shell ends with srun; without it nobody reads the answer
        size = ledger.stat().st_size if ledger.exists() else 0
        if size != seen:
            rows = read_jsonl(ledger)
            seen, reported = size, [time_of(r) for r in rows if r.get("event") in ENDING_EVENTS and time_of(r) >= began]
        if seen and reported and time.time() - min(reported) > LATE_S:
            return ["late"]
        time.sleep(1.0)  # the ledger lies on a shared file system, and LATE_S is long
    return []


def end(recipe: Recipe, options: argparse.Namespace, job: JsonRow) -> list[str]:
    """Decides after the ranks have ended: ACTION STATUS HOSTS; HOSTS is for ExcNodeList, - where there are none."""
    run_dir = Path(recipe.run.dir)
    began = JobRecords.read(run_dir).began
    rows = [row for row in read_jsonl(run_dir / "ledger.jsonl") if time_of(row) >= began]
    reported, reason = reported_cause(rows)
    if reported is None:  # a rank that failed before it could open the ledger
        reported, reason = read_exit_reason(run_dir / EXIT_REASONS_FOLDER)
    hosts = job.get("hosts", [])
    silent = set(hosts) - set(options.answered.split()) if options.answered else set()
    ending = Ending(
        status=options.status,
        finished=is_finished(run_dir, recipe.training.max_steps),
        reported=reported,
        reason=reason,
        state=options.state,
        step=newest_step(run_dir),
        time=time.time(),
        blamed=tuple(sorted(silent | set(_hung(rows, hosts)) | set(_slow(rows, hosts)))),
    )
    return _conclude(recipe, options, job, ending)


def _conclude(recipe: Recipe, options: argparse.Namespace, job: JsonRow, ending: Ending) -> list[str]:
    """Decides, records the decision, logs it, and returns the line for the shell."""
    run_dir, cluster = Path(recipe.run.dir), recipe.cluster
    records = JobRecords.read(run_dir)
    hosts = set(job.get("hosts", []))
    # A job that excludes more hosts than the partition can spare would wait for ever.
    spare = len(set(options.usable.split()) | hosts) - len(hosts) if options.usable else 0
    limits = Limits(cluster.max_attempts_without_progress, min(cluster.excluded_hosts, spare), cluster.excluded_hours)
    decision = decide(ending, records.rows, limits, options.next)
    row = EndFields(
        job=job.get("job"),
        status=ending.status,
        state=ending.state,
        step=ending.step,
        action=decision.action,
        reason=decision.reason,
        blamed=list(ending.blamed),
        excluded=list(decision.excluded),
    )
    append_end(run_dir, records, row)
    _log(_sentence(decision))
    excluded = sorted({*(records.newest_begin.get("users_exclusions") or []), *decision.excluded})
    return [decision.action, str(decision.status), ",".join(excluded) or "-"]


def reported_cause(rows: list[JsonRow]) -> tuple[int | None, str]:
    """Returns exit status and reason of the event that ended an attempt: the last that is not merely caused by another rank's end.

    Args:
        rows: the ledger's rows of one attempt.
    """
    statuses = {"stop": None, "requeue": None, "hang": HangError.exit_status, "lost_rank": None}
    endings = [row for row in rows if row.get("event") in statuses]
    # Ranks that saw another one go report lost_rank; the one that went knows why.
    causes = [row for row in endings if row["event"] != "lost_rank"] or endings
    if not causes:
        return None, ""
    row = causes[-1]
    status = statuses[row["event"]] or row.get("status")
    reason = str(row.get("reason") or "").strip()
    return (status if isinstance(status, int) else None), reason if not reason or reason.endswith(".") else f"{reason}."


def is_finished(run_dir: Path, max_steps: int) -> bool:
    """Whether DONE is there with the run's last step; the DONE of a run that was shorter does not count."""
    try:
        step = orjson.loads((run_dir / "DONE").read_bytes())["step"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return isinstance(step, int) and step >= max_steps


def _hung(rows: list[JsonRow], hosts: list[str]) -> list[str]:
    """Hosts that the watchdog blamed, by Slurm's names; none where it blamed more than half, which points to a common cause."""
    blamed = {
        s.get("host") for row in rows if row.get("event") == "hang" for s in row.get("suspects") or [] if isinstance(s, dict)
    }
    short = {str(name).split(".")[0] for name in blamed if name}
    found = [host for host in hosts if host in blamed or host.split(".")[0] in short]
    return found if 2 * len(found) <= len(hosts) else []


def _slow(rows: list[JsonRow], hosts: list[str]) -> list[str]:
    """Hosts that `watchdog.slow_rank` asks to leave out, by Slurm's names: slow beside the others, so there is no common cause."""
    named = {str(row.get("host")) for row in rows if row.get("event") == SLOW_RANK and row.get("requeue") is True}
    short = {name.split(".")[0] for name in named}
    return [host for host in hosts if host in named or host.split(".")[0] in short]


def _read_verdict(path: Path, began: float) -> JsonRow | None:
    """Reads what the preflight of this attempt found; None where it reached no verdict."""
    try:
        verdict = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return verdict if isinstance(verdict, dict) and time_of(verdict) >= began else None


def _sentence(decision: Decision) -> str:
    without = f" Without {', '.join(decision.excluded)}." if decision.excluded and decision.action in ("requeue", "next") else ""
    return f"{decision.action.upper()} ({decision.reason}){without}"


def _log(line: str) -> None:
    """Prints a line of the job's log: standard output belongs to the shell."""
    print(f"{time.strftime('%F %T')} jadeberta: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
