"""Part D: what guard, heartbeat, records and comparison of weights cost a training step, each alone."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.checkpointing.alternatives import Ours
from bench.checkpointing.workload import await_quiet, batch_of, settle, target
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.config import Recipe
from jadeberta.training.control import RankFlags, RunControl
from jadeberta.training.engine import StepResult, TrainingEngine
from jadeberta.training.guard import SpikeDetector
from jadeberta.training.ledger import Ledger
from jadeberta.training.metrics import MetricsWriter
from jadeberta.training.replica_check import differing_ranks
from jadeberta.training.run_log import RunLog, StepTimes
from jadeberta.training.run_state import RunState
from jadeberta.training.watchdog.client import WatchdogClient

LIMIT = 0.005
STEPS = {"the published run's, 8 A100": 10.37, "a step of 2 seconds": 2.0}
"""Seconds of the training steps to which the cost is related."""
ACCUMULATION = 16
BEATS = 2 * ACCUMULATION + 4
"""Heartbeats of a step: data, each forward and backward, all-reduce, update, metrics."""


def measure(recipe: Recipe, engine: TrainingEngine, checkpointer: Checkpointer, run_dir: Path, patience: float) -> dict[str, Any]:
    """Every part's seconds a call and its share of a step; one GPU or machine, one rank, nothing beside it."""
    weights = [parameter.data for parameter in engine.model.parameters()]
    detector = SpikeDetector(recipe.guard)
    for number in range(recipe.guard.window):
        detector.accept(5 - number % 7 / 10, 1 + number % 5 / 10)

    def guard() -> None:
        assert detector.fault(5.0, 1.2) is None
        detector.accept(5.0, 1.2)

    ledger = Ledger(run_dir / "overhead.jsonl", 0)
    control = RunControl(run_dir, True, 0)
    log = RunLog(checkpointer.context, MetricsWriter(run_dir, recipe.logging.sinks, 0))
    times = StepTimes(2.0, 0.1, 0.0)
    batch = batch_of(recipe, 1, 8)
    result = StepResult(
        loss=5.0,
        masked_accuracy=0.3,
        masked_tokens=100,
        tokens=700,
        positions=768,
        excluded_rows=0,
        grad_norm=1.2,
        fault=None,
        flags=RankFlags(),
    )
    watchdog = WatchdogClient(run_dir, 0, 1, recipe.watchdog)
    compare_every = max(1, recipe.guard.compare_weights_every)
    parts: list[tuple[str, Callable[[], Any], int, float]] = [  # name, work, calls to measure, calls in a step
        ("guard, window full", guard, 500, 1),
        ("heartbeat", lambda: watchdog.beat("step", 1, "forward 1"), 5000, BEATS),
        ("metrics and TensorBoard", lambda: log.step(batch, result, RunState(step=1), 1e-4, times), 500, 1),
        ("requests from outside", control.flags, 5000, 1),
        ("ledger, flushed", lambda: ledger.write("save", step=1), 30, 1 / compare_every),
        ("comparison of weights", lambda: differing_ranks(weights), 3, 1 / compare_every),
    ]
    rows: list[dict[str, Any]] = []
    try:
        await_quiet(patience)
        for part in parts:
            rows.append(timed(engine, *part))
        comparison = rows[-1]["call_s"]
        saves = Ours(checkpointer)
        saves.begin()
        rows.append(timed(engine, "poll of a pending save", checkpointer.has_written, 1000, 1))
        saves.finish()
    finally:
        log.close()
        watchdog.stop()
    total = sum(row["step_s"] for row in rows)
    hashed = sum(weight.numel() * weight.element_size() for weight in weights)
    rate = hashed / comparison / 1e9
    targets = [target(f"overhead / {name}", total / seconds, LIMIT) for name, seconds in STEPS.items()]
    return {"rows": rows, "step_s": total, "compared_bytes": hashed, "comparison_gb_per_s": rate, "targets": targets}


def timed(engine: TrainingEngine, name: str, work: Callable[[], Any], calls: int, in_step: float) -> dict[str, Any]:
    """Mean time of a call, and what a step has of it."""
    work()
    began = time.perf_counter()
    for _ in range(calls):
        work()
        settle(engine.device)
    mean = (time.perf_counter() - began) / calls
    return {"part": name, "call_s": mean, "calls_in_step": in_step, "step_s": mean * in_step, "calls": calls}


def lines(result: dict[str, Any]) -> list[str]:
    out = [f"D. of one step of {ACCUMULATION} micro-steps              a call      calls in a step      a step"]
    for row in result["rows"]:
        out.append(
            f"   {row['part']:<28} {row['call_s'] * 1e6:12.1f} us   {row['calls_in_step']:8.3f}   {row['step_s'] * 1e6:10.1f} us"
        )
    rate = result["comparison_gb_per_s"]
    return [
        *out,
        f"   {'together':<28} {'':15}   {'':8}   {result['step_s'] * 1e6:10.1f} us   (weights are hashed at {rate:.2f} GB/s)",
    ]
