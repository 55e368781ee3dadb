"""`jadeberta scaling run`: starts the missing points, waits for all of them, and reports how each one ended."""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jadeberta.cluster.slurm import has_ended
from jadeberta.config import Recipe, load_recipe
from jadeberta.config.phases import phases_of
from jadeberta.errors import ConfigError
from jadeberta.plan.world_sizes import zero_of
from jadeberta.scaling.launchers import Launcher, LocalLauncher, SlurmLauncher
from jadeberta.scaling.points import MODES, STAGES, Mode, Point, lay_out, points_of, recipe_of
from jadeberta.scaling.points_dir import LOG, PointsDir, Settings
from jadeberta.shards import DirectoryLock
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

QUIET_S = 15.0
"""Longest pause between two queries of the queue, seconds: one controller serves the whole cluster."""


def main(arguments: list[str]) -> int:
    """Runs a scaling test; returns 0 if every point is done, else 1. Raises ConfigError for options that do not fit together."""
    options, overrides = _parser().parse_known_args(arguments)
    recipe = load_recipe(options.config, tuple(overrides))
    if not recipe.data.shards:
        raise ConfigError("data.shards is not set; give it in the recipe or as --data.shards.")
    recipe.data.shards = str(Path(recipe.data.shards).absolute())
    if options.warm_up >= options.steps:
        raise ConfigError(f"--warm-up {options.warm_up} leaves nothing of --steps {options.steps} to measure.")
    stages = options.zero or [zero_of(recipe)[0]]
    first = phases_of(recipe)[0]
    micro_batches = options.micro_batch or [first.micro_batch_size]
    series = lay_out(first.global_batch_size, options.nodes, options.gpus_per_node, options.modes, stages, micro_batches)
    points_dir = PointsDir(options.out)
    points = points_of(series)
    recipes = {p: recipe_of(recipe, p, str(points_dir.point(p)), options.steps) for p in points}
    for point in points:
        points_dir.check(point, recipes[point])
    if options.dry_run:
        print(listing(points))
        return 0
    launcher: Launcher = LocalLauncher() if options.local else SlurmLauncher(options.sbatch, on_cpus=recipe.run.device == "cpu")
    lock = DirectoryLock(points_dir.directory, "--out")
    every = recipe.checkpoint.every_steps
    points_dir.write_settings(Settings(options.config.name, options.steps, options.warm_up, every, series))
    runner = PointRunner(points_dir, launcher, recipes, 1 if options.local else options.at_once or len(points))
    try:
        failed = runner.run()
    except (KeyboardInterrupt, ConfigError):
        if runner.jobs:
            say(f"{points_dir.directory}: interrupted. {launcher.remedy(list(runner.jobs.values()))}")
        raise
    from jadeberta.scaling.report import main as report

    lock.release()
    if len(failed) < len(points):
        report([str(points_dir.directory)])
    for name, reason in failed.items():
        say(f"FAILED {name}: {reason}")
    return 1 if failed else 0


@dataclass
class PointRunner:
    """Starts points and waits until they end."""

    points_dir: PointsDir
    launcher: Launcher
    recipes: dict[Point, Recipe]
    at_once: int
    """Most jobs in the queue at a time."""
    pause: Callable[[float], None] = time.sleep
    """Sleeps for some seconds; tests replace it."""
    jobs: dict[Point, str] = field(default_factory=dict)
    """Jobs that were started and have not ended, by point."""

    def run(self) -> dict[str, str]:
        """Runs until every point is done or has failed; returns the reasons of the failed ones, by name."""
        waiting = [point for point in self.recipes if not self.points_dir.is_done(point)]
        if len(waiting) < len(self.recipes):
            say(f"{len(self.recipes) - len(waiting)} of {len(self.recipes)} points are done already")
        self._resume_submitted(waiting)
        failed: dict[str, str] = {}
        seconds, silent, seen = 1.0, False, dict[str, str]()
        while waiting or self.jobs:
            while waiting and len(self.jobs) < self.at_once:
                self._start(waiting.pop(0))
            states = self.launcher.states(list(self.jobs.values()))
            if states is None:
                if not silent:
                    say("the Slurm controller does not answer; waiting for it")
            else:
                seconds = seconds if states == seen else 1.0
                for point, job in list(self.jobs.items()):
                    if has_ended(states.get(job, "")):
                        self._finish(point, job, states.get(job, "is no longer known to Slurm"), failed)
            silent, seen = states is None, seen if states is None else states
            if self.jobs:
                # The pause grows while nothing changes, so that a long test costs the controller little.
                self.pause(seconds)
                seconds = min(QUIET_S, 1.5 * seconds)
        return failed

    def _resume_submitted(self, waiting: list[Point]) -> None:
        """Resumes waiting for jobs of an earlier call that have not ended."""
        known = {point: job for point in waiting if (job := self.points_dir.read_job(point)) is not None}
        if not known:
            return
        while (states := self.launcher.states(list(known.values()))) is None:
            say("the Slurm controller does not answer; waiting for it")
            self.pause(QUIET_S)  # without the states, a job that still runs would be submitted a second time
        for point, job in known.items():
            if not has_ended(states.get(job, "")):
                waiting.remove(point)
                self.jobs[point] = job
                say(f"{point.name}: waiting for job {job} of an earlier call")

    def _start(self, point: Point) -> None:
        self.points_dir.prepare(point, self.recipes[point])
        say(f"{point.name}: {point.ranks} rank{'s' * (point.ranks > 1)}, accumulation {point.accumulation}")
        job = self.launcher.start(point, self.points_dir.point(point))
        self.points_dir.write_job(point, job)
        self.jobs[point] = job

    def _finish(self, point: Point, job: str, state: str, failed: dict[str, str]) -> None:
        del self.jobs[point]
        if self.points_dir.is_done(point):
            self.points_dir.remove_checkpoints(point)
            say(f"{point.name}: done")
        else:
            failed[point.name] = (
                f"job {job} {state}: {self.points_dir.last_log_line(point)} ({self.points_dir.point(point) / LOG})"
            )
            say(f"{point.name}: failed, job {job} {state}")


def listing(points: list[Point]) -> str:
    """Formats the points as a table."""
    headers = ("point", "nodes", "ranks", "micro-batch", "accumulation", "sequences a step")
    rows = [(p.name, p.nodes, p.ranks, p.micro_batch_size, p.accumulation, f"{p.global_batch_size:,}") for p in points]
    return format_table(headers, rows, rule=False)


def say(line: str) -> None:
    """Prints a progress line on stderr; stdout is for the report."""
    print(line, file=sys.stderr, flush=True)


def _parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta scaling run",
        allow_abbrev=False,
        description="Runs a recipe for some steps at several world sizes, one Slurm job a point, and collects what the steps were made of.",
        epilog="Started again with the same --out it takes up the jobs that still run and submits only points that are missing or have "
        "failed. Keys of the recipe can be given as options too, such as --data.shards /data/shards. docs/scale.md shows a test.",
    )
    parser.add_argument("--config", type=path_option, required=True, metavar="RECIPE", help="recipe, a YAML file")
    parser.add_argument(
        "--out", type=path_option, required=True, metavar="DIR", help="where points and report go, seen by all nodes"
    )
    parser.add_argument("--nodes", type=counts, required=True, metavar="N,N,..", help="world sizes, in nodes")
    parser.add_argument(
        "--gpus-per-node",
        type=count,
        default=8,
        metavar="N",
        help="ranks of a node (default 8); with run.device cpu no GPU is asked for",
    )
    parser.add_argument(
        "--modes", type=modes, default=list(MODES), metavar="MODE,..",
        help="strong: the recipe's global batch at every size; weak: that batch at the smallest size, in proportion at the others "
        "(default: both)",
    )  # fmt: skip
    parser.add_argument("--zero", type=stages, metavar="N,..", help="stages of ZeRO (default: the recipe's)")
    parser.add_argument("--micro-batch", type=counts, metavar="N,..", help="micro-batches (default: the recipe's)")
    parser.add_argument("--steps", type=count, default=60, metavar="N", help="steps of a point (default 60)")
    parser.add_argument("--warm-up", type=count, default=20, metavar="N", help="of these, not measured (default 20)")
    parser.add_argument("--at-once", type=count, metavar="N", help="jobs in the queue at a time (default: all)")
    parser.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="more options of sbatch, as one word: --sbatch='--partition=gpu --exclusive'",
    )
    parser.add_argument("--local", action="store_true", help="run the points as ranks on this machine, one after the other")
    parser.add_argument("--dry-run", action="store_true", help="check everything, list the points, start nothing")
    return parser


def count(text: str) -> int:
    """Parses a number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 1")
    return int(text)


def counts(text: str) -> list[int]:
    """Parses numbers of at least 1, separated by commas."""
    return [count(part) for part in text.split(",")]


def stages(text: str) -> list[int]:
    """Parses stages of ZeRO, separated by commas."""
    numbers = counts(text)
    if wrong := [n for n in numbers if n not in STAGES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]} is no stage of ZeRO; {', '.join(map(str, STAGES))} are")
    return numbers


def modes(text: str) -> list[Mode]:
    """Parses kinds of series, separated by commas."""
    names = text.split(",")
    if wrong := [name for name in names if name not in MODES]:
        raise argparse.ArgumentTypeError(f"'{wrong[0]}' is no mode; {', '.join(MODES)} are")
    return names  # type: ignore[return-value]
