"""Fine-tuning of what a race compared, at equal FLOPs: `python bench/race_finetune.py --race DIR --jglue DIR --output FILE`.

Trains the target, another contestant and, with --rtd, the target's model by replaced-token detection, each with the whole budget of the
target and each seed of the race (runs that the race has done already are taken), and fine-tunes them on JSTS, JCommonsenseQA and JNLI.
JNLI's training file is not needed: its valid file is cut into five folds that share no image and no sentence, and each is scored by a model
that was trained on the others. What is done is kept; called again it goes on. Prints a table and writes JSON: mean and every seed of each
score, and the difference from the target with a 95% interval by bootstrap over questions and seeds.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.checkpointing.workload import machine, versions
from bench.results_file import write_results
from jadeberta.config import PROJECT, Recipe, dump
from jadeberta.errors import JadebertaError
from jadeberta.finetune.grid import groups_of
from jadeberta.finetune.jglue_files import read_rows
from jadeberta.finetune.task_metrics import spearman
from jadeberta.finetune.tasks import TASKS
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.race.race_dir import RaceDir
from jadeberta.race.race_runs import Run, scale_steps, target_flops
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

FOLDS = 5
SETTINGS = {"jsts": "1e-3,3", "jcommonsenseqa": "1e-3,1", "jnli": "1e-3,4"}
"""Learning rate and epochs, the same for all: rates for models of a few layers, fixed before any was scored."""
RTD = "rtd"
DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--race", type=path_option, required=True, help="directory of the race, with its stage final done")
    parser.add_argument("--jglue", type=path_option, required=True, help="JGLUE's folder `datasets`")
    parser.add_argument("--size", help="of the race file (default: its first)")
    parser.add_argument("--contestant", default="sum", help="compared with the target (default: sum)")
    parser.add_argument("--rtd", action="store_true", help="also the target's model by replaced-token detection")
    parser.add_argument("--tasks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--at-once", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--output", type=path_option, help="JSON file")
    options = parser.parse_args()
    try:
        judge_race(options)
    except JadebertaError as e:
        sys.exit(str(e))


def judge_race(options: argparse.Namespace) -> None:
    """Trains, fine-tunes and judges what the options ask for.

    Raises:
        JadebertaError: the race is not there or its grid is not done.
    """
    directory = RaceDir(options.race)
    race, data, overrides = directory.read()
    size = options.size or next(iter(race.sizes))
    names = [race.target, options.contestant, *([RTD] if options.rtd else [])]
    if unknown := {size} - race.sizes.keys() or {options.contestant} - race.contestants.keys():
        sys.exit(f"{min(unknown)}: no size or contestant of {options.race}.")
    goal = target_flops(race, size, overrides, data.row_length)
    # Before hours of training: what is missing here would end them.
    files = {task: splits(options.jglue, task, options.race) for task in options.tasks}
    chosen = {run.contestant: run for run in directory.runs("final") if run.size == size}
    recipes = {
        (name, seed): _recipe(directory, chosen[race.target if name == RTD else name], seed, name == RTD, goal)
        for name in names
        for seed in race.seeds
    }
    in_parallel(options.at_once, [partial(pretrain, recipe) for recipe in recipes.values()])
    jobs = [(key, task, train, valid) for task in options.tasks for train, valid in files[task] for key in recipes]
    outs = in_parallel(
        options.at_once,
        [partial(finetune, recipes[key].run.dir, task, train, valid) for key, task, train, valid in jobs],
    )
    answers: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for ((name, seed), task, _, _), out in zip(jobs, outs, strict=True):
        answers.setdefault((task, name, seed), []).extend(out)
    results = [judge(task, name, race.target, race.seeds, answers) for task in options.tasks for name in names]
    rows = [
        (r["task"], r["contestant"], f"{r['score']:.4f}", " ".join(f"{s:.4f}" for s in r["seeds"]),
         "" if r["contestant"] == race.target else f"{r['difference']:+.4f} ({r['interval'][0]:+.4f} to {r['interval'][1]:+.4f})")
        for r in results
    ]  # fmt: skip
    print(format_table(("task", "contestant", "score", "seeds", "difference"), rows, left=2))
    if options.output is not None:
        work = {
            name: dict(zip(("flops", "tokens"), flops_and_tokens(recipes[name, race.seeds[0]], data.row_length), strict=True))
            for name in names
        }
        conditions = {"machine": machine(), "versions": versions(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        write_results(options.output, conditions | {"size": size, "settings": SETTINGS, "pretraining": work, "results": results})


def _recipe(directory: RaceDir, run: Run, seed: int, is_rtd: bool, goal: float) -> Recipe:
    """The recipe of a contestant with the whole budget, written into its run directory."""
    _, data, _ = directory.read()
    whole = replace(run, budget=1.0, seed=seed)
    recipe = directory.recipe(whole)
    if is_rtd:
        recipe = replace(recipe, training=replace(recipe.training, objective="rtd"))
        flops, _ = flops_and_tokens(recipe, data.row_length)
        recipe = scale_steps(recipe, goal / flops)
        recipe.run.dir = str(directory.directory / "runs" / run.size / RTD / f"final-1-seed{seed}")
        recipe.checkpoint.every_steps = max(1, recipe.training.max_steps // 4)
        recipe.evaluation.every_steps = 0
    path = Path(recipe.run.dir) / "race-recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(recipe), encoding="utf-8")
    return recipe


def pretrain(recipe: Recipe) -> None:
    """Trains a run to its end, where it is not done already."""
    run_dir = Path(recipe.run.dir)
    if not (run_dir / "DONE").exists():
        call(run_dir / "race.log", "jadeberta", "pretrain", "--config", str(run_dir / "race-recipe.yaml"))
        print(f"{run_dir}: trained", file=sys.stderr, flush=True)


def splits(jglue: Path, task: str, work: Path) -> list[tuple[Path, Path]]:
    """Files to train on and to score: JGLUE's own, or the folds of the valid file where there is no other."""
    found_files = {split: sorted(jglue.glob(f"{task}-v*/{split}-v*.json")) for split in ("train", "valid")}
    if len(found_files["valid"]) != 1 or len(found_files["train"]) > 1:
        sys.exit(
            f"--jglue {jglue}: one {task}-v*/valid-v*.json and at most one train-v*.json must be there; name JGLUE's folder datasets."
        )
    (valid,) = found_files["valid"]
    if train := found_files["train"]:
        return [(train[0], valid)]
    rows, lines = read_rows(valid, TASKS[task]), valid.read_text(encoding="utf-8").splitlines()
    names = sorted(set(groups := groups_of(rows)))
    of_group = {name: place % FOLDS for place, name in enumerate(names)}
    found = []
    for fold in range(FOLDS):
        parts = []
        for what in ("train", "valid"):
            path = work / "folds" / f"{task}-{fold}-{what}.json"
            path.parent.mkdir(exist_ok=True)
            kept = [line for line, group in zip(lines, groups, strict=True) if (of_group[group] == fold) == (what == "valid")]
            path.write_text("\n".join(kept) + "\n", encoding="utf-8")
            parts.append(path)
        found.append((parts[0], parts[1]))
    return found


def finetune(model: str, task: str, train: Path, valid: Path) -> list[dict[str, Any]]:
    """Fine-tunes a model and returns its answer to each question of the valid file."""
    out = Path(model) / "finetune" / f"{task}-{valid.stem}"
    files = ("--train", str(train), "--valid", str(valid))
    call(
        out.parent / "log",
        "jadeberta",
        "finetune",
        "--task",
        task,
        "--model",
        model,
        *files,
        "--out",
        str(out),
        "--setting",
        SETTINGS[task],
    )
    (answers,) = (out / "predictions").glob("*-valid.jsonl")
    print(f"{out}: scored", file=sys.stderr, flush=True)
    return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def call(log: Path, *command: str) -> None:
    """Runs a program of the project with one thread; ends this process where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    with open(log, "ab") as file:
        status = subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, env=env, stdout=file, stderr=file).returncode
    if status:
        raise SystemExit(f"{' '.join(command[:2])} ended with status {status}; see {log}")


def in_parallel(at_once: int, calls: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda each: each(), calls))


def judge(
    task: str, name: str, target: str, seeds: list[int], answers: dict[tuple[str, str, int], list[dict[str, Any]]]
) -> dict[str, Any]:
    """The deciding score of a contestant, and how far it is from the target's, with a bootstrap over questions and seeds."""
    ours, theirs = (np.array([_pairs(answers[task, who, seed]) for seed in seeds]) for who in (name, target))
    scores = [_score(task, each) for each in ours]
    draw, differences = np.random.default_rng(0), []
    for _ in range(DRAWS):
        questions = draw.integers(ours.shape[1], size=ours.shape[1])
        means = [
            fmean(_score(task, each[number, questions]) for number in draw.integers(len(seeds), size=len(seeds)))
            for each in (ours, theirs)
        ]
        differences.append(means[0] - means[1])
    low, high = np.percentile(differences, (2.5, 97.5))
    difference = fmean(scores) - fmean(_score(task, each) for each in theirs)
    metric = "spearman" if task == "jsts" else "accuracy"
    return {
        "task": task, "metric": metric, "contestant": name, "score": fmean(scores), "seeds": scores, "questions": ours.shape[1],
        "difference": difference, "interval": [float(low), float(high)],
    }  # fmt: skip


def _pairs(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(prediction, label) of each question as numbers; of classes whether they are equal, and 1."""
    if isinstance(rows[0]["wanted"], float):
        return [(float(row["predicted"]), row["wanted"]) for row in rows]
    return [(float(row["predicted"] == row["wanted"]), 1.0) for row in rows]


def _score(task: str, pairs: np.ndarray) -> float:
    return spearman(pairs[:, 0].tolist(), pairs[:, 1].tolist()) if task == "jsts" else float(pairs[:, 0].mean())


if __name__ == "__main__":
    main()
