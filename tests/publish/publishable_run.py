"""A run directory of three attempts with undone steps, an undone evaluation, a roll-back, a cut line and hostile words."""

import importlib.util
from pathlib import Path

import orjson
import pytest

BEGAN = 1_700_000_000.0
WORDS = '<script>alert("x")</script>\n"q" \\ 日本\u2028'

missing = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed: pip install 'jadeberta[{name}]'"
    )
    for name in ("wandb", "mlflow")
}


def append(path: Path, *rows: dict) -> None:
    with open(path, "ab") as f:
        f.writelines(orjson.dumps(row) + b"\n" for row in rows)


def step(number: int, attempt: int, at: float, loss: float, **more: object) -> dict:
    return {
        "step": number, "attempt": attempt, "time": BEGAN + at, "step_s": 10.0, "loss": loss, "lr": 1e-4, "grad_norm": 0.5,
        "mfu": 0.4, "tokens": 100 * number, "tokens_per_second": 10.0, "data_wait_s": 0.1, "epoch": 0, "batch_hash": "ab" * 8, **more,
    }  # fmt: skip


def event(kind: str, attempt: int, at: float, **more: object) -> dict:
    return {"time": BEGAN + at, "event": kind, "attempt": attempt, "life": attempt, "host": "n1", "pid": 7, **more}


def evaluation(number: int, attempt: int, at: float, accuracy: float) -> dict:
    corpora = {
        "cc100": {"accuracy": accuracy, "loss": 2.0, "masked_tokens": 9.0},
        "wiki 日本": {"accuracy": accuracy / 2, "loss": 3.0},
    }
    return event("evaluation", attempt, at, step=number, seconds=1.0, corpora=corpora, whole=True)


def make_run(path: Path) -> Path:
    """Steps 1 to 8 stay: 1 and 2 of attempt 0, 3 and 4 of attempt 1 (6 was undone by a roll-back to 4), 5 to 8 of attempts 1 and 2."""
    path.mkdir(parents=True)
    ledger, metrics = path / "ledger.jsonl", path / "metrics.jsonl"
    (path / "recipe.yaml").write_text("training: {max_steps: 20, lr: 0.0001}\ncheckpoint: {every_steps: 2}\ndata: {shards: /s}\n")
    append(ledger, event("start", 0, 0.0, world_size=2))
    append(metrics, *(step(n, 0, 10.0 * n + 10, 5.0 - n) for n in (1, 2, 3, 4)))
    append(ledger, event("save", 0, 31.0, step=2, stall_s=0.1), evaluation(3, 0, 41.0, 0.9))
    with open(metrics, "ab") as f:
        f.write(b'{"step": 5, "lo\n')
    append(ledger, event("start", 1, 100.0, world_size=2), event("resume", 1, 105.0, step=2, seconds=1.0))
    append(metrics, *(step(n, 1, 10.0 * n + 90, 4.5 - n / 10) for n in (3, 4, 5, 6)))
    append(ledger, evaluation(4, 1, 131.5, 0.25), evaluation(6, 1, 151.0, 0.8), event("rollback", 1, 155.0, step=4, from_step=6))
    append(metrics, *(step(n, 1, 10.0 * n + 130, 3.0) for n in (5, 6)))
    append(ledger, event("hang", 1, 300.0, rank=1, reason=WORDS, step=6))
    append(ledger, event("start", 2, 400.0, world_size=2), event("resume", 2, 405.0, step=6, seconds=1.0))
    append(metrics, step(7, 2, 420.0, 2.5, skipped=True, grad_norm=None), step(8, 2, 430.0, 2.4))
    return path


LOSSES = {1: 4.0, 2: 3.0, 3: 4.2, 4: 4.1, 5: 3.0, 6: 3.0, 7: 2.5, 8: 2.4}
"""Loss of each step that stays."""


def go_on(path: Path) -> None:
    """Two more steps and an evaluation."""
    append(path / "metrics.jsonl", step(9, 2, 440.0, 2.3), step(10, 2, 450.0, 2.2))
    append(path / "ledger.jsonl", evaluation(10, 2, 451.0, 0.5))


def undo(path: Path) -> None:
    """A fourth attempt goes on from step 6 and trains another step 7."""
    append(path / "ledger.jsonl", event("start", 3, 600.0, world_size=2), event("resume", 3, 605.0, step=6, seconds=1.0))
    append(path / "metrics.jsonl", step(7, 3, 620.0, 1.5))
