"""What each of today's ingredients saves of the published recipe's FLOPs, with small models on real text:
`python bench/race.py --corpora DIR --hours 3`.

Makes shards of the corpora, lays out `small_race/race.yaml` with `jadeberta race plan`, and does its runs, one thread each. Called again it
goes on where it was; whatever is done is in the report. A run takes minutes, all of them take a night. Prints the tables, leaves
`report.html` in the race's directory, and writes JSON with every run. Without --corpora it only shows the way, in a minute or two: three
runs of few steps on a generated corpus, whose figures mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.checkpointing.workload import machine, versions
from bench.results_file import write_results
from jadeberta.config import PROJECT
from jadeberta.utils.paths import path_option

RACE = PROJECT / "bench/small_race/race.yaml"
VOCABULARY = 8000
STEPS = 300
"""Of the published recipe, ROWS rows of 512 tokens each: 1.2 million tokens, a seventh of the text."""
ROWS = 8
HELDOUT = 50
"""Documents of each corpus."""
PREPROCESS: dict[str, Any] = {
    "preprocess.vocab_size": VOCABULARY, "preprocess.sequence_length": [512, 128], "preprocess.heldout_documents": HELDOUT,
    "preprocess.segmenter.engine": "mecab", "preprocess.segmenter.command": "",
}  # fmt: skip
SHORT_STEPS, SHORT_VOCABULARY = 20, 1400
SHORT: dict[str, Any] = {"tune": {"training.lr": [2e-3]}, "tune_budget": 0.5, "seeds": [1], "budgets": [0.6]}
TRAINING: dict[str, Any] = {
    "run.device": "cpu", "data.workers": 0, "data.repeats": {"wikipedia": 1}, "model.vocab_size": VOCABULARY,
    "training.precision": "fp32", "training.compile": "never",
    "training.max_steps": STEPS, "training.global_batch_size": ROWS, "training.micro_batch_size": ROWS,
    "training.warmup_steps": STEPS // 30,  # the published share of the steps
    "logging.tensorboard": False,
}  # fmt: skip
"""What the published recipe says for 171 GB and eight A100s, in the measure of this text and of a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=path_option, help="folder with corpora under their usual names")
    parser.add_argument("--directory", type=path_option, default=PROJECT / "runs" / "race", help="for shards and runs")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="of the race file; a later call may name more (default: all)")
    parser.add_argument("--at-once", type=int, default=2, help="runs, one thread each")
    parser.add_argument("--hours", type=float, default=0.0, help="begin no run after so many hours; 0: no limit")
    parser.add_argument("--output", type=path_option, help="JSON file")
    options = parser.parse_args()
    work: Path = options.directory.absolute()
    work.mkdir(parents=True, exist_ok=True)
    race, shards = work / "race", work / "shards"
    is_short = (options.corpora is None and not (shards / "report.json").exists()) or (work / "corpora").exists()
    if not (shards / "report.json").exists():
        corpora = work / "corpora" if is_short else options.corpora.absolute()
        if is_short:
            call("preprocess.demo", str(corpora))
        recipe = "recipes/demo.yaml" if is_short else "recipes/large.yaml"
        changes = PREPROCESS | ({"preprocess.vocab_size": SHORT_VOCABULARY} if is_short else {})
        call("preprocess", "all", "--config", recipe, "--corpora", str(corpora), "--out", str(shards), *words(changes))
    described = work / "race.yaml"
    described.write_text(yaml.safe_dump(race_of(options.sizes, is_short), sort_keys=False), encoding="utf-8")
    training = TRAINING | ({"training.max_steps": SHORT_STEPS, "model.vocab_size": SHORT_VOCABULARY} if is_short else {})
    jadeberta("plan", str(described), "--out", str(race), "--data.shards", str(shards), *words(training))
    done = jadeberta("run", str(race), "--at-once", str(options.at_once), "--hours", str(options.hours), may_fail=True)
    if jadeberta("report", str(race), may_fail=True) == 0 and options.output is not None:
        found = json.loads((race / "report.json").read_bytes())
        conditions = {"machine": machine(), "versions": versions(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        write_results(options.output, conditions | {"complete": done == 0} | found)
    sys.exit(done)


def race_of(sizes: list[str] | None, is_short: bool) -> dict[str, Any]:
    """The race file's content with these of its sizes, all without; a short one has the first size and two contestants."""
    race: dict[str, Any] = yaml.safe_load(RACE.read_text(encoding="utf-8"))
    if unknown := set(sizes or ()) - race["sizes"].keys():
        sys.exit(f"--sizes {min(unknown)}: {RACE.name} has {', '.join(race['sizes'])}.")
    if is_short:
        race |= SHORT | {"contestants": {name: race["contestants"][name] for name in (race["target"], "sum")}}
        for phase in race["contestants"]["sum"]["phases"]:
            phase["steps"] = phase["steps"] * SHORT_STEPS // STEPS
        sizes = sizes or list(race["sizes"])[:1]
    return race | {"sizes": {name: changes for name, changes in race["sizes"].items() if not sizes or name in sizes}}


def words(options: dict[str, Any]) -> list[str]:
    """Keys of a recipe as options of a command."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in options.items()}
    return [word for key, text in texts.items() for word in (f"--{key}", text)]


def jadeberta(*arguments: str, may_fail: bool = False) -> int:
    """Runs a command of `jadeberta race`; returns its exit status."""
    return call("jadeberta", "race", *arguments, may_fail=may_fail)


def call(*command: str, may_fail: bool = False) -> int:
    """Runs a program of the project; ends this process with its status where it fails and must not."""
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    status = subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, env=env).returncode
    if status and not may_fail:
        sys.exit(status)
    return status


if __name__ == "__main__":
    main()
