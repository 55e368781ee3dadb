"""Goodput of runs with kills, hangs, roll-backs and clocks that differ, against a simulation that knows the truth."""

import random
from dataclasses import asdict

import pytest

from jadeberta.status.goodput import compute_goodput
from tests.status.simulated_run import SimulatedRun

RUNS = 1500


def test_every_figure_is_the_truth_for_any_history() -> None:
    seen: dict[str, int] = {}
    for seed in range(RUNS):
        run = SimulatedRun(seed)
        found = asdict(compute_goodput(run.ledger, run.metrics))
        found["attempts"] = [attempt["ended"] for attempt in found["attempts"]]
        for name, truth in run.truth.items():
            assert found[name] == (truth if name == "attempts" else pytest.approx(truth, abs=1e-3)), f"seed {seed}: {name}"
            seen[name] = seen.get(name, 0) + bool(truth)
        assert len(found["hangs"]) == run.endings.count("hang")
    assert min(seen.values()) > RUNS / 50, f"some figures were hardly ever anything but 0: {seen}"


def test_no_missing_row_or_key_makes_a_figure_impossible() -> None:
    for seed in range(300):
        run, draw = SimulatedRun(seed), random.Random(seed)
        ledger = [row for row in run.ledger if draw.random() > 0.2]
        metrics = [{k: v for k, v in row.items() if draw.random() > 0.05} for row in run.metrics if draw.random() > 0.2]
        result = compute_goodput(ledger, metrics)
        assert all(seconds >= 0 for seconds in result.parts().values()) and 0 <= result.goodput <= 1
        assert sum(result.parts().values()) == pytest.approx(result.wall_s)
        assert result.steps + result.lost_steps == sum("step" in row for row in metrics)
