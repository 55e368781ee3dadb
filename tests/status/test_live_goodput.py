"""The goodput that the metrics sinks get is the one that `jadeberta status` would say."""

import time

import orjson
import pytest

from jadeberta.status.goodput import compute_goodput
from jadeberta.status.live_goodput import LiveGoodput
from jadeberta.utils.json_lines import read_jsonl


def append(path, *rows: dict) -> None:
    with open(path, "ab") as f:
        f.writelines(orjson.dumps(row) + b"\n" for row in rows)


def read(meter: LiveGoodput) -> None:
    assert meter.reader is not None
    meter.reader.join(10)


def test_it_is_the_goodput_of_all_attempts_without_the_steps_that_a_resume_or_a_roll_back_undid(tmp_path) -> None:
    began = time.time() - 130.0
    ledger, metrics = tmp_path / "ledger.jsonl", tmp_path / "metrics.jsonl"
    append(ledger, {"event": "start", "attempt": 0, "time": began})
    append(metrics, *({"step": s, "attempt": 0, "time": began + 10 * s, "step_s": 10.0, "loss": 1.0} for s in (1, 2, 3, 4)))
    append(
        ledger,
        {"event": "start", "attempt": 1, "time": began + 60},
        {"event": "resume", "step": 2, "attempt": 1, "time": began + 70},
    )

    def train(step: int, at: float, **more: bool) -> float | None:
        row = {"step": step, "attempt": 1, "time": began + at, "step_s": 10.0, "loss": 1.0, **more}
        append(metrics, row)
        return meter.after_step(row)

    def expected() -> float:
        return compute_goodput(read_jsonl(ledger), read_jsonl(metrics), time.time()).goodput

    meter = LiveGoodput(tmp_path)
    train(3, 80)
    read(meter)
    assert train(4, 90) == pytest.approx(40 / 130, abs=0.01) == pytest.approx(expected(), abs=0.01)
    assert train(5, 100, skipped=True) == pytest.approx(40 / 130, abs=0.01)
    append(ledger, {"event": "rollback", "step": 3, "from_step": 5, "attempt": 1, "time": began + 100})
    meter.after_rollback()
    train(4, 115)
    read(meter)
    assert train(5, 125) == pytest.approx(50 / 130, abs=0.01) == pytest.approx(expected(), abs=0.01)


def test_a_run_directory_that_cannot_be_read_costs_the_goodput_and_a_sentence(tmp_path, caplog) -> None:
    meter = LiveGoodput(tmp_path)
    with caplog.at_level("WARNING", "jadeberta"):
        assert meter.after_step({"step": 1, "step_s": 1.0}) is None
        read(meter)
    assert meter.after_step({"step": 2, "step_s": 1.0}) is None
    assert "goodput is not measured for the metrics sinks" in caplog.text
