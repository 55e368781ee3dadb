"""Slow ranks and a slow network in the report: who, since when, what it cost, and without names in a public page."""

import json
import time
from pathlib import Path

import pytest

from tests.report.test_report import DAY, event, lines, step, written


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three steps."""
    began = time.time() - DAY
    lines(tmp_path / "ledger.jsonl", [event("start", began, 1, world_size=2), event("done", began + 40, 1, step=3, tokens=300)])
    lines(tmp_path / "metrics.jsonl", [step(n, began + 10 * n, 1) for n in range(1, 4)])
    (tmp_path / "recipe.yaml").write_text("training: {max_steps: 3}\n")
    return tmp_path


def paces(run: Path, *rows: tuple[float, int, str, str]) -> None:
    """Appends rows of ranks.jsonl: time, rank, host and cause of the rank that is waited for half of each step; no host: none is."""
    with open(run / "ranks.jsonl", "a") as file:
        for at, rank, host, cause in rows:
            named = {"rank": rank, "host": host, "lost_s": 1.0, "step_s": 2.0, "cause": cause} if host else None
            file.write(json.dumps({"time": at, "attempt": 1, "step": 3, "ranks": 2, "waits_for": named}) + "\n")


def test_slow_ranks_are_named_with_host_cause_time_and_hours_and_a_public_page_hides_the_host(run: Path) -> None:
    began = time.time() - DAY
    rows = [(began + 60 * n, 1, "slow-b2", "compute") for n in range(1, 61)]
    rows += [(began + 60 * n, 0, "", "") for n in range(61, 90)]
    rows += [(began + 60 * n, 0, "slow-a1", "data") for n in range(90, 120)]
    rows += [(began + 60 * 120 + 5 * DAY, 1, "slow-b2", "compute")]  # a clock that was set forwards: a minute, not five days
    paces(run, *rows)
    with open(run / "ranks.jsonl", "a") as file:  # rows of any kind
        file.write(
            '[]\n{"waits_for": 3}\n{"time": 5, "waits_for": {"rank": "x"}}\n{"time": 1e9, "waits_for": {"host": [1]}}\n{"ti\n'
        )
    found = written(run)["runs"][0]
    slow = [(r["host"], r["rank"], r["cause"], r["attempt"], r["slow_s"] / 60, r["lost_s"] / 60) for r in found["slow_ranks"]]
    assert found["notes"] == [] and slow == [
        ("slow-b2", 1, "compute", 1, pytest.approx(61), pytest.approx(30.5)),
        ("slow-a1", 0, "data", 1, pytest.approx(30), pytest.approx(15)),
    ]
    assert found["slow_ranks"][0]["since"] == pytest.approx(began)
    assert {h["host"]: h["waited_h"] for h in found["hosts"]}["slow-a1"] == pytest.approx(0.25)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<td>slow-b2</td><td>1</td><td>it computes more slowly</td>" in text and "it waits longer for its data" in text
    public = written(run, options=("--public",))["runs"][0]
    assert "slow-" not in (run / "report.html").read_text(encoding="utf-8")
    assert [r["host"][:5] for r in public["slow_ranks"]] == ["host-", "host-"]


def test_a_slow_network_is_named_by_its_hosts_and_no_host_is_blamed(run: Path) -> None:
    network = {"hosts": ["net-a1", "net-b2"], "lost_s": 3.0, "step_s": 4.0}
    at = time.time() - DAY
    rows = [{"time": at + 60 * n, "attempt": 1, "waits_for": None, "network": network if n < 20 else None} for n in range(40)]
    lines(run / "ranks.jsonl", [*rows, {"time": at, "attempt": 1, "network": {"hosts": 3, "lost_s": 1, "step_s": "x"}}])
    found = written(run)["runs"][0]
    (slow,) = found["slow_network"]
    assert (slow["hosts"], slow["slow_s"], slow["lost_s"]) == (["net-a1", "net-b2"], pytest.approx(1200), pytest.approx(900))
    assert found["slow_ranks"] == [] and all(h["waited_h"] == 0 for h in found["hosts"])
    assert "<td>net-a1, net-b2</td>" in (run / "report.html").read_text(encoding="utf-8")
    written(run, options=("--public",))
    assert "net-a1" not in (run / "report.html").read_text(encoding="utf-8")


def test_a_run_whose_ranks_keep_pace_says_so(run: Path) -> None:
    paces(run, (time.time(), 0, "", ""))
    assert written(run)["runs"][0]["slow_ranks"] == []
    assert "No minute is recorded in which all ranks waited for a slow one." in (run / "report.html").read_text(encoding="utf-8")
