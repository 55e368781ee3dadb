"""A run that is killed and resumed ends with the same bits; a run resumed on other ranks or another ZeRO stage sees the same data."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import TINY_MODEL, make_recipe, make_shards, read_metrics, run_ranks, start_ranks

STEPS = 14


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3), "cc100": (40, 1)})


def content(checkpoint: Path) -> dict[str, str]:
    """sha256 of everything that is trained: weights, masters, moments."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def kill_at(ranks: int, step: int, delay: float, run_dir: Path, *arguments: str, log: Path) -> None:
    """Starts the run and ends every rank with SIGKILL, a moment after it has written some step."""
    processes = start_ranks(ranks, *arguments, log=log)
    metrics = run_dir / "metrics.jsonl"
    before = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    deadline = time.monotonic() + 240
    try:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < before + step:
            assert time.monotonic() < deadline, "no progress"
            assert all(p.poll() is None for p in processes), log.with_suffix(".0.log").read_text()[-2000:]
            time.sleep(0.01)
        time.sleep(delay)
    finally:
        for p in processes:
            p.send_signal(signal.SIGKILL)
            p.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "stage"), [("fp32", 2), pytest.param("bf16", 1, marks=pytest.mark.long)])
def test_killed_at_three_random_points_it_ends_bit_identical_to_the_unbroken_run(shards, tmp_path, stage, precision) -> None:
    changes = {
        "deepspeed": f"ds_configs/zero{stage}.json",
        "training": {"precision": precision, "max_steps": STEPS},
        "checkpoint": {"every_steps": 3},
    }
    unbroken = make_recipe(tmp_path / "unbroken.yaml", shards, tmp_path / "unbroken", **changes)
    run_ranks(2, "pretrain", "--config", str(unbroken), log=tmp_path / "unbroken-log")
    killed = make_recipe(tmp_path / "killed.yaml", shards, tmp_path / "killed", **changes)
    draw = random.Random(f"{stage} {precision}")
    for _ in range(3):
        kill_at(
            2,
            draw.randint(1, 4),
            draw.random() * 0.6,
            tmp_path / "killed",
            "pretrain",
            "--config",
            str(killed),
            log=tmp_path / "log",
        )
    run_ranks(2, "pretrain", "--config", str(killed), log=tmp_path / "log")

    last = f"step-{STEPS:08d}"
    assert content(tmp_path / "killed/checkpoints" / last) == content(tmp_path / "unbroken/checkpoints" / last)
    seen = {row["step"]: row["batch_hash"] for row in read_metrics(tmp_path / "unbroken")}
    rows = read_metrics(tmp_path / "killed")
    assert all(row["batch_hash"] == seen[row["step"]] for row in rows)
    assert {row["step"] for row in rows} == set(range(1, STEPS + 1))
    assert max(row["life"] for row in rows) == 3
    assert (tmp_path / "killed/DONE").exists()


IN_THE_UPDATE = """
import os, signal, sys
from jadeberta.cli import main
from jadeberta.training.optimizers import matrix
calls, last, plain = [], int(sys.argv[1]), matrix.orthogonalise
def killed(*arguments):
    calls.append(0)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)
matrix.orthogonalise = killed
sys.argv = ["jadeberta", *sys.argv[2:]]
main()
"""
"""Dies in Muon's update, at some orthogonalisation: the matrices before it are changed by then, those behind it are not."""


@pytest.mark.long
def test_killed_within_an_update_of_muon_it_ends_bit_identical_to_the_unbroken_run(shards, tmp_path) -> None:
    changes = {"training": {"optimizer": "muon", "precision": "bf16", "ema_decay": 0.5}, "deepspeed": "ds_configs/zero2.json"}
    unbroken = make_recipe(tmp_path / "a.yaml", shards, tmp_path / "unbroken", **changes)
    run_ranks(2, "pretrain", "--config", str(unbroken), log=tmp_path / "unbroken-log")
    killed = make_recipe(tmp_path / "b.yaml", shards, tmp_path / "killed", **changes)
    # The model has 12 hidden matrices, of which a rank orthogonalises 6 and those across the border: first in its third step, then in
    # the first one after the resume.
    for call in (16, 5):
        processes = start_ranks(
            2, str(call), "pretrain", "--config", str(killed), log=tmp_path / "killed-log", code=IN_THE_UPDATE
        )
        try:
            while all(p.poll() is None for p in processes):
                time.sleep(0.05)
        finally:
            for p in processes:
                p.kill()
        assert -signal.SIGKILL in [p.wait(60) for p in processes]
        assert read_metrics(tmp_path / "killed") and not (tmp_path / "killed/DONE").exists()
    run_ranks(2, "pretrain", "--config", str(killed), log=tmp_path / "killed-log")
    last = "checkpoints/step-00000006"
    assert content(tmp_path / "killed" / last) == content(tmp_path / "unbroken" / last)
    assert max(row["attempt"] for row in read_metrics(tmp_path / "killed")) == 2


@pytest.mark.slow
def test_with_a_growing_batch_an_average_muon_falling_masks_and_the_rest_it_resumes_exactly_and_on_other_ranks_with_the_same_data(
    shards, tmp_path
) -> None:
    sizes, steps = [4, 4, 4, 8, 8, 12, 12, 12], 8
    changes = {
        "model": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_scale_by_depth": True},
        "training": {
            "optimizer": "muon", "mask_probability": [0.4, 0.15],
            "precision": "bf16", "max_steps": steps, "batch_size_warmup": [[4, 3], [8, 2]], "ema_decay": 0.5, "z_loss": 1e-3,
            "schedule": "wsd", "decay_steps": 2,
        },
        "checkpoint": {"every_steps": 2},
        "evaluation": {"every_steps": 3, "sequences": 4, "weights": "ema"},
    }  # fmt: skip
    unbroken = make_recipe(tmp_path / "a.yaml", shards, tmp_path / "unbroken", deepspeed="ds_configs/zero2.json", **changes)
    printed = run_ranks(2, "pretrain", "--config", str(unbroken), log=tmp_path / "unbroken-log")
    assert "bf16, muon, ds_configs/zero2.json" in printed
    expected = {row["step"]: row for row in read_metrics(tmp_path / "unbroken")}
    last = f"step-{steps:08d}"
    end = json.loads((tmp_path / "unbroken/checkpoints" / last / "state.json").read_text())
    assert end["position"] == sum(sizes) and end["epoch"] == sum(sizes) / 100
    # Both within the warm-up: at its first growth, and between the two.
    for name, ranks, stage, start in (("same", 2, 2, 4), ("other", 1, 1, 2)):
        shutil.copytree(tmp_path / f"unbroken/checkpoints/step-{start:08d}", tmp_path / f"{name}/checkpoints/step-{start:08d}")
        recipe = make_recipe(
            tmp_path / f"{name}.yaml", shards, tmp_path / name, deepspeed=f"ds_configs/zero{stage}.json",
            **changes | {"evaluation": {}},
        )  # fmt: skip
        run_ranks(ranks, "pretrain", "--config", str(recipe), "--resume", "required", log=tmp_path / f"{name}-log")
        found = {row["step"]: row for row in read_metrics(tmp_path / name)}
        assert sorted(found) == list(range(start + 1, steps + 1))
        for step, row in found.items():
            assert {key: row[key] for key in ("batch_hash", "masked_tokens", "tokens", "lr")} == {
                key: expected[step][key] for key in ("batch_hash", "masked_tokens", "tokens", "lr")
            }
            assert row["loss"] == pytest.approx(expected[step]["loss"], rel=1e-3)
    # Without the evaluations of the unbroken run, which used the average's weights.
    assert content(tmp_path / "same/checkpoints" / last) == content(tmp_path / "unbroken/checkpoints" / last)
    (evaluation, *_) = [row for row in read_jsonl(tmp_path / "unbroken/ledger.jsonl") if row["event"] == "evaluation"]
    assert (evaluation["step"], evaluation["weights"], evaluation["whole"]) == (3, "ema", True)


# Without dropout: its random numbers belong to a rank, so another world size draws others by design.
MOVED = {
    "model": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "training": {"precision": "bf16", "max_steps": STEPS, "schedule": "constant", "micro_batch_size": 3},
    "checkpoint": {"every_steps": 4},
}


@pytest.fixture(scope="module")
def by_two_ranks(shards, tmp_path_factory) -> Path:
    """A run of MOVED by two ranks under ZeRO-2, to its end."""
    folder = tmp_path_factory.mktemp("first")
    recipe = make_recipe(folder / "first.yaml", shards, folder / "first", deepspeed="ds_configs/zero2.json", **MOVED)
    run_ranks(2, "pretrain", "--config", str(recipe), log=folder / "first-log")
    return folder / "first"


@pytest.mark.slow
@pytest.mark.parametrize("ranks,stage", [(1, 1), (4, 3)])
def test_saved_by_two_ranks_zero2_it_goes_on_at_another_world_size_and_stage(
    shards, by_two_ranks, tmp_path, ranks, stage
) -> None:
    (tmp_path / "second/checkpoints").mkdir(parents=True)
    shutil.copytree(by_two_ranks / "checkpoints/step-00000004", tmp_path / "second/checkpoints/step-00000004")
    second = make_recipe(tmp_path / "second.yaml", shards, tmp_path / "second", deepspeed=f"ds_configs/zero{stage}.json", **MOVED)
    run_ranks(ranks, "pretrain", "--config", str(second), "--resume", "required", log=tmp_path / "second-log")

    expected = {row["step"]: row for row in read_metrics(by_two_ranks)}
    found = {row["step"]: row for row in read_metrics(tmp_path / "second")}
    assert sorted(found) == list(range(5, STEPS + 1))
    for step, row in found.items():
        assert row["batch_hash"] == expected[step]["batch_hash"]
        assert row["masked_tokens"] == expected[step]["masked_tokens"]
        assert row["lr"] == expected[step]["lr"]
        assert row["loss"] == pytest.approx(expected[step]["loss"], rel=1e-4)
    # The comparison means something only if a lost moment or step count would show: training must be on the move.
    assert abs(expected[5]["loss"] - expected[STEPS]["loss"]) > 5 * max(
        abs(found[s]["loss"] - expected[s]["loss"]) for s in found
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.long
def test_a_compiled_run_with_dropout_goes_on_to_the_same_bits(shards, tmp_path: Path) -> None:
    for name, stops in (("unbroken", (4,)), ("resumed", (2, 4))):
        for steps in stops:
            training = {"max_steps": steps, "schedule": "constant", "compile": "always"}
            model = TINY_MODEL | {"num_hidden_layers": 1}
            recipe = make_recipe(tmp_path / f"{name}.yaml", shards, tmp_path / name, training=training, model=model)
            assert "torch.compile is on" in run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / f"{name}-{steps}")
    unbroken, resumed = ([row["loss"] for row in read_metrics(tmp_path / name)] for name in ("unbroken", "resumed"))
    assert len(unbroken) == 4 and resumed == unbroken
    last = "checkpoints/step-00000004"
    assert content(tmp_path / "resumed" / last) == content(tmp_path / "unbroken" / last)
