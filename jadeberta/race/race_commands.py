"""`jadeberta race plan | run | task`: lays a race out, and does its runs here or tells a job of Slurm which one is its own."""

import os
import shlex
import shutil
import subprocess
import sys
import time

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError, NumericsError
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.race.race_dir import LOG, STAGES, RaceDir, data_of
from jadeberta.race.race_file import read_race
from jadeberta.race.race_runs import Run, tune_runs
from jadeberta.race.scores import score_run
from jadeberta.shards import DirectoryLock
from jadeberta.utils.command_line import OneSentenceParser, not_negative
from jadeberta.utils.paths import path_option
from jadeberta.utils.processes import end_with_parent
from jadeberta.utils.text_table import format_table

POLL_S = 0.5


def plan(arguments: list[str]) -> int:
    """Lays out a race and prints its runs.

    Raises:
        ConfigError: race and recipe do not fit together.
    """
    parser = OneSentenceParser(
        prog="jadeberta race plan",
        allow_abbrev=False,
        description="Checks a race file, makes the directory of the race, and lists the runs that choose the settings.",
        epilog="Keys of the recipe can be given as options too, such as --data.shards /data/shards; they hold for every run.",
    )
    parser.add_argument("race", type=path_option, metavar="RACE", help="race file, YAML")
    parser.add_argument("--out", type=path_option, required=True, metavar="DIR", help="directory of the race, seen by all nodes")
    options, overrides = parser.parse_known_args(arguments)
    race = read_race(options.race)
    base = load_recipe(race.base, tuple(overrides))
    if not base.data.shards:
        raise ConfigError("data.shards is not set; give it in the recipe or as --data.shards.")
    directory = RaceDir(options.out)
    data = data_of(base.data.shards)
    directory.write(race, data, (*overrides, "--data.shards", data.shards))
    rows = []
    for run in tune_runs(race):
        recipe = directory.recipe(run)
        flops, tokens = flops_and_tokens(recipe, data.row_length)
        settings = " ".join(f"{key}={value}" for key, value in run.settings.items())
        rows.append((run.name, settings, f"{recipe.training.max_steps:,}", f"{tokens:,}", f"{flops:.3g}"))
    print(format_table(("run", "settings", "steps", "tokens", "FLOPs"), rows, rule=False))
    finals = len(race.contestants) * len(race.sizes)
    print(f"\n{len(rows)} runs choose the settings of {finals} contestants; then those are run for the test.")
    print(f"here:  jadeberta race run {shlex.quote(str(options.out))}")
    print(
        f"Slurm: RACE={shlex.quote(str(options.out))} STAGE=tune sbatch --array=0-{len(rows) - 1} slurm/race.sh, then STAGE=final"
    )
    return 0


def run(arguments: list[str]) -> int:
    """Does the runs of a race that are not done; returns 0 if all are.

    Raises:
        ConfigError: another process works in the directory.
        InputError: there is no race.
    """
    parser = OneSentenceParser(
        prog="jadeberta race run",
        description="Does the runs of a race on this machine, first those that choose the settings, then those of the test.",
        epilog="Started again it goes on where it was; a run that was killed resumes from its checkpoint.",
    )
    parser.add_argument("directory", type=path_option, metavar="DIR", help="directory that 'jadeberta race plan' has made")
    parser.add_argument("--stage", choices=STAGES, help="this stage alone (default: both)")
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="runs at the same time, which share the cores (default 1)"
    )
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="ranks of a run (default 1)")
    parser.add_argument("--hours", type=not_negative, default=0.0, help="begin no run after so many hours; 0: no limit")
    options = parser.parse_args(arguments)
    if options.at_once < 1 or options.ranks < 1:
        raise ConfigError("--at-once and --ranks must be at least 1.")
    directory = RaceDir(options.directory)
    directory.read()
    lock = DirectoryLock(directory.directory, "DIR")
    until = time.monotonic() + options.hours * 3600 if options.hours else float("inf")
    missing = 0
    for stage in [options.stage] if options.stage else STAGES:
        waiting = [each for each in directory.runs(stage) if not directory.is_done(each)]
        missing += _do(directory, waiting, options.at_once, options.ranks, until)
        if missing:
            break
    lock.release()
    return 1 if missing else 0


def task(arguments: list[str]) -> int:
    """Prints where the files of one run of a stage are, as variables of a shell; with --ended tests a trained one."""
    parser = OneSentenceParser(
        prog="jadeberta race task", description="For slurm/race.sh: recipe, directory and shards of one run."
    )
    parser.add_argument("directory", type=path_option, metavar="DIR", help="directory that 'jadeberta race plan' has made")
    parser.add_argument("--stage", choices=STAGES, required=True, help="stage of the race")
    parser.add_argument("--number", type=int, required=True, metavar="N", help="number of the run in its stage, from 0")
    parser.add_argument(
        "--ended", type=int, metavar="STATUS", help="the training has ended with this status: test the run instead"
    )
    options = parser.parse_args(arguments)
    directory = RaceDir(options.directory)
    runs = directory.runs(options.stage)
    if not 0 <= options.number < len(runs):
        raise ConfigError(f"--number {options.number}: the stage {options.stage} has the runs 0 to {len(runs) - 1}.")
    chosen = runs[options.number]
    if options.ended is not None:
        return 0 if _end(directory, chosen, options.ended) else options.ended or 1
    recipe = directory.prepare(chosen)
    _, data, _ = directory.read()
    print(f"RECIPE={shlex.quote(str(recipe))}\nRUN_DIR={shlex.quote(str(recipe.parent))}\nSHARDS={shlex.quote(data.shards)}")
    return 0


def finish(directory: RaceDir, done: Run) -> None:
    """Tests a trained run of the stage final; the checkpoints of one of the stage tune are removed, which nothing reads."""
    if done.stage == "tune":
        shutil.rmtree(directory.path(done) / "checkpoints", ignore_errors=True)
    elif not directory.is_done(done):
        _, data, _ = directory.read()
        score_run(directory.path(done), data.shards, data.row_length)


def _do(directory: RaceDir, waiting: list[Run], at_once: int, ranks: int, until: float) -> int:
    """Does runs, several at a time; returns how many of them are not done at the end."""
    threads = max(1, len(os.sched_getaffinity(0)) // at_once // ranks)
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    total, missing = len(waiting), 0
    working: dict[Run, subprocess.Popen[bytes]] = {}
    try:
        while waiting or working:
            while waiting and len(working) < at_once and time.monotonic() < until:
                each = waiting.pop(0)
                working[each] = _start(directory, each, ranks, env)
            if not working:
                break
            time.sleep(POLL_S)
            for each, process in list(working.items()):
                if (status := process.poll()) is None:
                    continue
                del working[each]
                missing += not _end(directory, each, status)
                said = "done" if directory.is_done(each) else f"ended with status {status}, see {LOG}"
                say(f"{each.name}: {said}; {len(waiting)} of {total} to begin")
    finally:
        for process in working.values():
            process.terminate()
        for process in working.values():
            process.wait()
    return missing + len(waiting)


def _start(directory: RaceDir, each: Run, ranks: int, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    recipe = directory.prepare(each)
    launcher = [sys.executable, "-m", "jadeberta.jobs.local_launcher", "--ranks", str(ranks), "--"]
    parent = os.getpid()
    with open(recipe.with_name(LOG), "ab") as log:
        return subprocess.Popen(
            [*launcher, "pretrain", "--config", str(recipe)],
            env=env,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: end_with_parent(parent),
        )


def _end(directory: RaceDir, each: Run, status: int) -> bool:
    """Notes how the training of a run has ended, and tests it; returns whether the run is done."""
    if directory.is_trained(each):
        finish(directory, each)
    elif status == NumericsError.exit_status:
        # A rate that is too high is a result: such a setting is never chosen.
        (directory.path(each) / "FAILED").write_text(f"the training ended with status {status}; {LOG} says why\n")
    return directory.is_done(each)


def say(line: str) -> None:
    """Prints a progress line on stderr."""
    print(line, file=sys.stderr, flush=True)
