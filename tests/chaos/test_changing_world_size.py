"""One run that changes its world size and its ZeRO stage with every attempt sees the data of the unbroken run and learns the same."""

from itertools import pairwise
from pathlib import Path

import pytest

from jadeberta import __version__
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks

# Without dropout, whose random numbers belong to a rank; constant, so that max_steps, which ends each attempt, moves no learning rate.
CHANGES = {
    "model": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "training": {"precision": "bf16", "schedule": "constant", "lr": 3e-3, "micro_batch_size": 1},
}
STEPS_PER_ATTEMPT = 4


def metrics_of_attempts(tmp_path: Path, name: str, shards: Path, attempts: list[tuple[int, int]]) -> list[dict]:
    """Metrics of a run whose attempts have these (ranks, ZeRO stage)."""
    run = tmp_path / name
    for number, (ranks, stage) in enumerate(attempts, 1):
        changes = CHANGES | {"training": CHANGES["training"] | {"max_steps": number * STEPS_PER_ATTEMPT}}
        recipe = make_recipe(tmp_path / f"{name}.yaml", shards, run, deepspeed=f"ds_configs/zero{stage}.json", **changes)
        run_ranks(
            ranks, "pretrain", "--config", str(recipe), "--resume", "required" if number > 1 else "never", log=tmp_path / name
        )
    starts = [row for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "start"]
    assert [row["world_size"] for row in starts] == [ranks for ranks, _ in attempts]
    assert all(row["program"]["version"] == __version__ for row in starts)
    changed = [row["changed"]["training.max_steps"] for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "settings"]
    ends = [str(number * STEPS_PER_ATTEMPT) for number in range(1, len(attempts) + 1)]
    assert changed == [[before, now] for before, now in pairwise(ends)]
    return read_metrics(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "attempts",
    [
        pytest.param([(1, 1), (4, 1), (3, 1)], id="world sizes"),
        pytest.param([(2, 1), (2, 2), (2, 3), (2, 1)], id="ZeRO stages", marks=pytest.mark.long),
    ],
)
def test_attempts_of_other_sizes_or_stages_continue_one_run(tmp_path, attempts) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 3), "cc100": (40, 1)})
    unbroken_recipe = CHANGES | {"training": CHANGES["training"] | {"max_steps": len(attempts) * STEPS_PER_ATTEMPT}}
    recipe = make_recipe(tmp_path / "unbroken.yaml", shards, tmp_path / "unbroken", **unbroken_recipe)
    run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "unbroken")
    expected, found = read_metrics(tmp_path / "unbroken"), metrics_of_attempts(tmp_path, "changing", shards, attempts)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for key in ("batch_hash", "masked_tokens", "lr", "tokens"):
        assert [row[key] for row in found] == [row[key] for row in expected]
    apart = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(found, expected, strict=True))
    moved = abs(expected[-1]["loss"] - expected[0]["loss"]) / expected[0]["loss"]
    # bf16 keeps 8 bits: 2^-8 = 0.4%; means over 900 masked tokens differ by far less.
    assert apart < 1e-3 and moved > 10 * apart, (apart, moved)
