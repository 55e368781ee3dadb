"""Kills a small run with SIGKILL, again and again, at moments that hurt: `python -m tests.chaos.kills --kills 200 --output FILE`.

After each kill nothing is done by hand: the launcher starts the job again, and where the launcher itself was killed it is started again
as a service manager would. Every run must end with the bits of one that nobody touched; the figures go into a JSON file.
"""

import argparse
import collections
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bench.results_file import write_results
from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.utils.json_lines import read_jsonl
from tests.chaos.killer import HELPERS, Kill, Killer, Plan, all_plans
from tests.chaos.observer import Job, left_over
from tests.helpers import make_recipe, make_shards

SETTING = {"steps": 48, "checkpoint_every": 3, "keep_last": 2, "keep_every": 12, "evaluate_every": 5, "precision": "bf16"}
STEPS: int = SETTING["steps"]  # type: ignore[assignment]
EVALUATE_EVERY: int = SETTING["evaluate_every"]  # type: ignore[assignment]
VOCABULARY = 8000
"""Makes checkpoints of two MB: a save lasts long enough to be hit."""
ORPHANED_S = 15.0
"""Longest time for which ranks may outlive a killed launcher. They end within two seconds; a busy machine takes longer."""


@dataclass
class Run:
    """One run from its start to its end, however often it was killed in between."""

    directory: Path
    kills: list[Kill] = field(default_factory=list)
    seconds: float = 0.0
    attempts: int = 0
    launchers: int = 0
    orphaned_s: float = 0.0
    lost_steps: int = 0
    """Steps that were made more than once."""
    identical: bool = False
    hangs: int = 0
    faults: list[str] = field(default_factory=list)


def write_recipe(work: Path, name: str, steps: int) -> Path:
    """Writes the recipe of a run with everything that a real one has; its directory is `work/name`."""
    shards = work / "shards"
    if not shards.exists():
        make_shards(shards, {"wikipedia": (60, 2), "cc100": (120, 1)}, VOCABULARY)
    return make_recipe(
        work / f"{name}.yaml",
        shards,
        work / name,
        data={"workers": 1},
        model={"vocab_size": VOCABULARY},
        training={"max_steps": steps, "global_batch_size": 4, "precision": SETTING["precision"]},
        checkpoint={"every_steps": SETTING["checkpoint_every"]} | {key: SETTING[key] for key in ("keep_last", "keep_every")},
        evaluation={"every_steps": EVALUATE_EVERY},
        watchdog={"start_s": 180.0, "first_step_s": 120.0, "step_s": 90.0, "save_s": 120.0, "eval_s": 90.0},
    )


def do_run(work: Path, name: str, ahead: list[Plan], seed: str, steps: int) -> Run:
    """One run from start to end, which is killed as planned; plans whose moment never comes stay in `ahead` for the next run.

    Raises:
        AssertionError: it does not get on, or ends for good.
    """
    job, began = Job(write_recipe(work, name, steps), work / name), time.monotonic()
    killer = Killer(job, steps, EVALUATE_EVERY, random.Random(seed))
    try:
        while killer.alive():
            plan = next(filter(killer.possible, ahead), None)
            if plan is None:
                time.sleep(0.05)
            elif killer.kill_at(*plan):
                ahead.remove(plan)
                report(name, killer.kills[-1])
                killer.settle()
        run = Run(work / name, killer.kills, time.monotonic() - began, job.attempt, len(job.launchers), job.orphaned_s)
        run.faults = killer.faults + [f"left over: {part}" for part in left_over(job.mark, 10)]
        if run.orphaned_s > ORPHANED_S:
            run.faults.append(f"ranks outlived a killed launcher by {run.orphaned_s:.1f} s")
        if (unplanned := run.attempts - 1 - sum(not kill.without_restart for kill in run.kills)) > 0:
            run.faults.append(f"{unplanned} attempts ended without a kill; see {job.log}")
        return run
    finally:
        job.end()


def report(name: str, kill: Kill) -> None:
    print(
        f"{name} attempt {kill.attempt} step {kill.step}: {kill.target} killed, aimed at {kill.aimed}, hit {kill.phase}, "
        f"checkpoints: {kill.directory}, newest {kill.trusted}",
        flush=True,
    )


def compare(run: Run, unbroken: Path) -> Run:
    """Fills in what a run's records show, and how it differs from the unbroken run."""
    rows, ledger = read_jsonl(run.directory / "metrics.jsonl"), read_jsonl(run.directory / "ledger.jsonl")
    steps = {row["step"] for row in rows}
    run.lost_steps, run.hangs = len(rows) - len(steps), sum(row["event"] == "hang" for row in ledger)
    run.identical = trained(run.directory) == trained(unbroken)
    if not run.identical:
        run.faults.append("the last checkpoint differs from that of the unbroken run")
    expected = {row["step"]: row for row in read_jsonl(unbroken / "metrics.jsonl")}
    for key in ("batch_hash", "loss"):
        if odd := [row["step"] for row in rows if row[key] != expected[row["step"]][key]]:
            run.faults.append(f"{key} differs from the unbroken run's at steps {odd}")
    if missing := expected.keys() - steps:
        run.faults.append(f"steps {sorted(missing)} are missing")
    if not (run.directory / "DONE").exists():
        run.faults.append("DONE is missing")
    for row in ledger:
        of_killed_writer = row["event"] == "save_failed" and any(kill.target == "writer" for kill in run.kills)
        if row["event"] in ("checkpoint_passed_over", "save_failed") and not of_killed_writer:
            run.faults.append(f"{row['event']}: {row.get('reason') or row.get('error')}")
    run.faults += resumed_too_early(run.kills, rows, ledger)
    return run


def resumed_too_early(kills: list[Kill], rows: list[dict[str, Any]], ledger: list[dict[str, Any]]) -> list[str]:
    """Attempts that resumed from less than was committed before the kill, or at another step than they recorded."""
    resumed = {row["attempt"]: row["step"] for row in ledger if row["event"] == "resume"}
    first = {row["attempt"]: row["step"] for row in reversed(rows)}
    faults = []
    for attempt, began in ((row["attempt"], row["time"]) for row in ledger if row["event"] == "start"):
        at_least = max((kill.trusted for kill in kills if kill.time < began), default=0)
        at = resumed.get(attempt, 0)
        if attempt in first and first[attempt] != at + 1:
            faults.append(f"attempt {attempt} resumed at step {at} and began with step {first[attempt]}")
        if (attempt in resumed or attempt in first) and at < at_least:
            faults.append(f"attempt {attempt} resumed at step {at} although step {at_least} had been committed")
    return faults


def trained(run_dir: Path) -> dict[str, str]:
    """sha256 of weights, masters and moments of the last checkpoint."""
    newest = list_checkpoints(run_dir / "checkpoints")[-1]
    files = orjson.loads((newest / "manifest.json").read_bytes())["files"]
    return {f"{newest.name}/{name}": entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def runs_until(work: Path, kills: int, plans: Iterator[Plan], seed: int, steps: int = STEPS) -> Iterator[list[Run]]:
    """The unbroken run first, then one killed run after the other until there were enough kills; yields all up to now after each."""
    runs = [do_run(work, "unbroken", [], "", steps)]
    yield runs
    ahead = [next(plans) for _ in range(kills)]
    while ahead:
        run = do_run(work, f"killed-{len(runs):03d}", ahead, f"{seed} {len(runs)}", steps)
        runs.append(compare(run, runs[0].directory))
        yield runs


def figures(unbroken: Run, runs: list[Run], seconds: float) -> dict[str, Any]:
    """What the runs amount to."""
    kills = [kill for run in runs for kill in run.kills]

    def count(key: str) -> dict[str, int]:
        return dict(collections.Counter(getattr(kill, key) for kill in kills).most_common())

    def went_on(target: str) -> int:
        return sum(kill.without_restart for kill in kills if kill.target == target)

    def total(key: str) -> int:
        return sum(getattr(run, key) for run in runs)

    table = ("launchers", "lost_steps", "hangs", "identical")
    return {
        "kills": len(kills),
        "runs": len(runs),
        "bit_identical_runs": total("identical"),
        "faults": [f"{run.directory.name}: {fault}" for run in runs for fault in run.faults],
        # Old spelling of attempts, kept: the key of the results file.
        "lives": total("attempts"),
        "launchers": total("launchers"),
        "lost_steps": total("lost_steps"),
        "hangs_found_by_the_watchdog": total("hangs"),
        "longest_orphaned_s": round(max((run.orphaned_s for run in runs), default=0.0), 1),
        "kills_by_target": count("target"),
        "kills_by_aim": count("aimed"),
        "kills_by_phase_hit": count("phase"),
        "kills_by_checkpoints_directory_hit": count("directory"),
        "kills_without_restart": {target: went_on(target) for target in HELPERS},
        "seconds": round(seconds, 1),
        "seconds_of_the_unbroken_run": round(unbroken.seconds, 1),
        "setting": {"ranks": 2, "zero_stage": 1, "vocabulary": VOCABULARY, **SETTING},
        "command": " ".join(["python -m tests.chaos.kills", *sys.argv[1:]]),
        "machine": {
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).date().isoformat(),
        "each_run": [
            {
                "kills": len(run.kills),
                "seconds": round(run.seconds, 1),
                "lives": run.attempts,
                **{key: getattr(run, key) for key in table},
            }
            for run in runs
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in all, over as many runs as they need")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, renewed after every run")
    parser.add_argument("--seed", type=int, default=0, help="of moments, targets and delays")
    parser.add_argument(
        "--work", type=Path, help="empty directory for the runs, kept; else a temporary one, kept where there is a fault"
    )
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="jadeberta-chaos-"))).absolute()
    work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the run too
    began, result = time.monotonic(), {}
    for unbroken, *runs in runs_until(work, options.kills, all_plans(options.seed), options.seed):
        result = figures(unbroken, runs, time.monotonic() - began)
        print(
            f"{result['kills']} kills, {result['bit_identical_runs']} of {len(runs)} runs bit-identical, {result['faults']}",
            flush=True,
        )
        if options.output:
            write_results(options.output, result)
    if result["faults"]:
        sys.exit(f"faults; the runs lie in {work}")
    if not options.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
