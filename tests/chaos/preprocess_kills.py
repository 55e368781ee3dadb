"""Kills small preprocessing jobs with SIGKILL, again and again, in every stage: `python -m tests.chaos.preprocess_kills --output FILE`.

After each kill the same command is started again, and nothing else is done. Every job must end with the bytes of one that nobody touched,
and may do no piece again that was finished. The figures go into a JSON file.
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
from tests.chaos.preprocess_job import RECIPE, STAGES, WAYS, Job, contents, finished_pieces, write_corpora

TARGETS = {"mpi": ("rank 0", "rank 1", "all", "launcher"), "pool": ("rank 0", "rank 1", "all"), "alone": ("all",)}
AIMS = (
    "start",
    "extract",
    "extract",
    "extract",
    "segment",
    "segment",
    "segment",
    "tokenizer",
    "tokenizer",
    "pack",
    "pack",
    "pack",
)
"""Of the kills of one job."""
START_S = 1.2
"""A kill aimed at the start comes within so long."""
STUCK_S, POLL_S = 120.0, 0.002


@dataclass
class Run:
    """One job from its first start to its end."""

    way: str
    kills: list[dict[str, str]] = field(default_factory=list)
    starts: int = 0
    refused: int = 0
    """Starts that met the lock of a process not quite gone, or that mpirun failed in, and were repeated."""
    pieces_kept: int = 0
    """Pieces that were finished when a kill came."""
    identical: bool = False
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def do_run(recipe: Path, out: Path, way: str, aims: list[str], draw: random.Random, durations: dict[str, float]) -> Run:
    """A job that is killed at these aims, in their order; those that it has passed already are left out."""
    job, run, began = Job(recipe, out, way), Run(way), time.monotonic()
    aims, finished = list(aims), dict[str, int]()
    try:
        while True:
            job.start()
            run.starts += 1
            statuses = _follow(job, run, aims, draw, durations)
            kept = finished_pieces(out)
            run.faults += [f"{name} was done again" for name, inode in finished.items() if kept.get(name) != inode]
            finished = kept
            if statuses is None:
                run.pieces_kept += len(kept)
            elif job.refused() and run.refused < 100:
                run.refused += 1
                time.sleep(0.2)
            else:
                if any(statuses):
                    run.faults.append(f"ended with {statuses} though nobody killed it: {job.tail()}")
                break
    finally:
        job.end()
    run.seconds = time.monotonic() - began
    return run


def _follow(job: Job, run: Run, aims: list[str], draw: random.Random, durations: dict[str, float]) -> list[int] | None:
    """Waits for the next aim and kills; None after a kill that ended the job, else how its processes ended."""
    deadline, seen = time.monotonic() + STUCK_S, ""
    while (statuses := job.statuses()) is None:
        if time.monotonic() > deadline:
            raise AssertionError(f"{job.out}: no progress in {STUCK_S:.0f} s: {job.tail()}")
        if aims and aims[0] == "start":
            time.sleep(draw.random() * START_S)
        else:
            stage = job.stage()
            if stage in ("", seen):
                time.sleep(POLL_S)
                continue
            seen = stage
            while aims and (aims[0] == "start" or STAGES.index(aims[0]) < STAGES.index(stage)):
                aims.pop(0)
            if not aims or aims[0] != stage:
                continue
            time.sleep(draw.random() * durations[stage])
        aim, target = aims.pop(0), draw.choice(TARGETS[job.way])
        stage = job.stage() or seen or "start"  # a file that is just being rewritten shows nothing
        if not job.kill(target):
            continue  # it was done first
        run.kills.append({"aimed": aim, "hit": stage, "target": target})
        print(f"{job.out.name} ({job.way}): {target} killed, aimed at {aim}, hit {stage}", flush=True)
        if job.way == "pool" and target != "all":
            deadline, seen = time.monotonic() + STUCK_S, ""
            if job.statuses() is None:
                continue  # the other goes on
        for process in job.processes:
            process.wait(STUCK_S)
        return None
    killed = job.way == "pool" and any(status < 0 for status in statuses)
    if killed and 0 in statuses:
        return [0]  # one was killed, the other has done all
    return None if killed else statuses


def runs_until(
    work: Path, kills: int, seed: int, ways: tuple[str, ...] = WAYS, aims: tuple[str, ...] = AIMS
) -> Iterator[list[Run]]:
    """The runs so far, again after each of them, until that many kills; every way in turn, each against one that nobody touched."""
    corpora, recipe = work / "corpora", work / "recipe.yaml"
    write_corpora(corpora)
    recipe.write_text(RECIPE.replace("CORPORA", str(corpora)))
    untouched = do_run(recipe, work / "untouched", "alone", [], random.Random(0), {})
    assert untouched.faults == [], untouched.faults
    report = orjson.loads((work / "untouched" / "report.json").read_bytes())
    durations, expected = {stage: report[stage]["seconds"] for stage in STAGES}, contents(work / "untouched")
    runs: list[Run] = []
    while (left := kills - sum(len(run.kills) for run in runs)) > 0:
        out, draw = work / f"run-{len(runs):03d}", random.Random(f"{seed} {len(runs)}")
        chosen = sorted(draw.sample(range(len(aims)), min(len(aims), left)))
        run = do_run(recipe, out, ways[len(runs) % len(ways)], [aims[n] for n in chosen], draw, durations)
        found = contents(out)
        differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        run.identical = not differing
        run.faults += [f"{name} differs from the untouched job's" for name in differing]
        runs.append(run)
        if not run.faults:
            shutil.rmtree(out)
        yield runs


def figures(runs: list[Run], seconds: float) -> dict[str, Any]:
    """What the runs amount to."""
    kills = [kill | {"way": run.way} for run in runs for kill in run.kills]
    return {
        "kills": len(kills),
        "runs": len(runs),
        "byte_identical_runs": sum(run.identical for run in runs),
        "faults": [f"run {number} ({run.way}): {fault}" for number, run in enumerate(runs) for fault in run.faults],
        **{
            f"kills_by_{key}": dict(collections.Counter(kill[key] for kill in kills)) for key in ("hit", "target", "way", "aimed")
        },
        "starts": sum(run.starts for run in runs),
        "starts_repeated_for_a_lock_not_yet_gone_or_mpirun": sum(run.refused for run in runs),
        "finished_pieces_that_kills_met_and_none_did_again": sum(run.pieces_kept for run in runs),
        "seconds": round(seconds, 1),
        "command": " ".join(["python -m tests.chaos.preprocess_kills", *sys.argv[1:]]),
        "machine": {
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.preprocess_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="in all, over as many jobs as they need")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, renewed after every job")
    parser.add_argument("--seed", type=int, default=0, help="of aims, targets and delays")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how the jobs are started")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="jadeberta-chaos-preprocess-"))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the job too
    began, result = time.monotonic(), {}
    for runs in runs_until(work, options.kills, options.seed, tuple(options.ways)):
        result = figures(runs, time.monotonic() - began)
        print(f"{result['kills']} kills, {result['byte_identical_runs']} of {len(runs)} jobs byte-identical", flush=True)
        print("\n".join(result["faults"]), end="", flush=True)
        if options.output:
            write_results(options.output, result)
    if result["faults"]:
        sys.exit(f"faults; the jobs lie in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
