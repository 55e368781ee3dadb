"""The runs that are compared: `jadeberta pretrain`, as a user would type it, each in a directory named after its settings and the code.

What lies there finished is not done again; what was cut short is removed and done afresh.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jadeberta.config import PROJECT
from jadeberta.jobs.local_launcher import COMMAND
from jadeberta.utils.json_lines import read_jsonl

RECIPE = "recipes/demo.yaml"
VARIANTS = {"eager": ("eager", 1), "redrawn": ("eager", 2), "sdpa": ("sdpa", 1)}
"""Attention and micro-batches of a step. `redrawn` is eager again with other dropout: dropout is seeded by micro-batch, and order,
masks, weights at the start and the loss of a step do not depend on how it is cut."""


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison share."""

    shards: Path
    steps: int
    dropout: float = 0.1
    rows: int = 4
    """Of 512 tokens, in a step."""
    layers: int = 2
    width: int = 128
    lr: float = 2e-3

    def options(self, variant: str, seed: int) -> list[str]:
        """Options of `jadeberta pretrain` beside the recipe and the run directory."""
        attention, micro_batches = VARIANTS[variant]
        keys: dict[str, Any] = {
            "data.shards": self.shards, "data.workers": 0,
            "model.attention": attention, "model.num_hidden_layers": self.layers,
            "model.hidden_size": self.width, "model.pooler_hidden_size": self.width,
            "model.num_attention_heads": self.width // 64, "model.intermediate_size": 4 * self.width,
            "model.hidden_dropout_prob": self.dropout, "model.attention_probs_dropout_prob": self.dropout,
            "training.max_steps": self.steps, "training.warmup_steps": self.steps // 10, "training.lr": self.lr,
            "training.global_batch_size": self.rows, "training.micro_batch_size": self.rows // micro_batches,
            "training.seed": seed, "training.precision": "fp32", "training.compile": "never", "run.device": "cpu",
            "checkpoint.every_steps": self.steps, "logging.tensorboard": False,
        }  # fmt: skip
        return [
            word for key, value in keys.items() for word in (f"--{key}", str(value).lower() if value is False else str(value))
        ]


@dataclass(frozen=True)
class Curve:
    """What a run measured, a value a step."""

    losses: list[float]
    hashes: list[str]
    """Of the global samples of each step."""


def digest(words: Sequence[str]) -> str:
    """Eight digits that stand for some words."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]


def fingerprint_of_code() -> str:
    """Digits that stand for the framework's source: curves of an earlier one are not this one's."""
    return digest([path.read_text(encoding="utf-8") for path in sorted((PROJECT / "jadeberta").rglob("*.py"))])


def make_shards(work: Path, corpora: Path | None) -> Path:
    """Shards of the corpora in a folder, of a generated corpus without one; made once."""
    shards = work / f"shards-{digest([str(corpora)])}"
    if (shards / "report.json").exists():
        return shards
    if corpora is None:
        corpora = work / "corpora"
        _run([sys.executable, "-m", "preprocess.demo", str(corpora)], work / "corpora.log")
    command = [sys.executable, "-m", "preprocess", "all", "--config", RECIPE, "--corpora", str(corpora), "--out", str(shards)]
    _run(command, work / "shards.log")
    return shards


def train(setting: Setting, runs: Sequence[tuple[str, int]], work: Path, at_once: int) -> dict[tuple[str, int], Curve]:
    """The curves of runs given as (variant, seed); `at_once` processes of one thread each."""
    code = fingerprint_of_code()
    with ThreadPoolExecutor(at_once) as pool:
        curves = list(pool.map(lambda run: _curve(setting, run[0], run[1], work, code), runs))
    return dict(zip(runs, curves, strict=True))


def check_batches(curves: dict[tuple[str, int], Curve]) -> None:
    """Ends the process where two runs of a seed did not see the same samples in every step."""
    for (variant, seed), curve in curves.items():
        if curve.hashes != curves["eager", seed].hashes:
            raise SystemExit(f"seed {seed}: {variant} saw other batches than eager; the curves cannot be compared.")


def _curve(setting: Setting, variant: str, seed: int, work: Path, code: str) -> Curve:
    options = setting.options(variant, seed)
    run_dir = work / f"{variant}-{seed}-{digest([code, *options])}"
    if not (run_dir / "DONE").exists():
        shutil.rmtree(run_dir, ignore_errors=True)
        print(f"  training {run_dir.name}", file=sys.stderr, flush=True)
        _run([*COMMAND, "pretrain", "--config", RECIPE, "--run.dir", str(run_dir), *options], work / f"{run_dir.name}.log")
    rows = read_jsonl(run_dir / "metrics.jsonl")
    return Curve([row["loss"] for row in rows], [row["batch_hash"] for row in rows])


def _run(command: list[str], log: Path) -> None:
    """Runs a command of the project on one thread; ends this process with the command's own words where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as f:
        done = subprocess.run(command, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=f, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"'{' '.join(command[:5])} ...' ended with status {done.returncode}; {log} ends with:\n{tail}")
