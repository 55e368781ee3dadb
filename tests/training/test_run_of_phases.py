"""A run with phases: each begins at its step with all that it changes, and a kill at any border leaves no trace in the result."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from jadeberta.checkpoint.phase_settings import refuse_changed_phases
from jadeberta.config import load_recipe
from jadeberta.data.phase_order import PhasedOrder
from jadeberta.data.run_data import open_run_data
from jadeberta.errors import CheckpointError, ConfigError, ShardError
from jadeberta.pretrain import pretrain
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import add_length, make_recipe, make_shards, printed_by, read_metrics, run_ranks
from tests.training.test_guard import train
from tests.training.test_resume import content, kill_at

PHASES = [
    {"steps": 3, "sequence_length": 128, "mask_probability": [0.3, 0.2]},
    {
        "steps": 3,
        "sequence_length": 256,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "weights": {"wikipedia": 0.25, "cc100": 0.75},
    },
    {"steps": 2, "global_batch_size": 8, "micro_batch_size": 2, "lr": 5e-4, "schedule": "linear", "attention": "eager"},
]
STEPS = 8
CHANGES = {
    "phases": PHASES,
    "training": {"max_steps": STEPS, "global_batch_size": 12, "micro_batch_size": 3, "mask_probability": 0.15},
    "model": {"hidden_dropout_prob": 0.1},
    "checkpoint": {"every_steps": 1},
    "evaluation": {"every_steps": 4, "sequences": 2},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    directory = make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 2), "cc100": (40, 1)})
    add_length(directory, 256, 9)
    return directory


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("unbroken")
    recipe = make_recipe(run / "recipe.yaml", shards, run / "run", **CHANGES)
    printed = run_ranks(2, "pretrain", "--config", str(recipe), log=run / "log")
    assert "phase 2 of 3: steps 4 to 6, rows of 256, 4 sequences a step (micro-batch 2 x accumulation 1), masks 15%" in printed
    return run / "run"


def test_every_phase_begins_at_its_step_with_what_it_changes(unbroken) -> None:
    rows = read_metrics(unbroken)
    assert [row["phase"] for row in rows] == [1, 1, 1, 2, 2, 2, 3, 3]
    positions = [row["positions_per_second"] * row["step_s"] for row in rows]
    assert positions == pytest.approx([12 * 128] * 3 + [4 * 256] * 3 + [8 * 128] * 2)
    shares = [row["masked_tokens"] / n for row, n in zip(rows, positions, strict=True)]
    assert shares[0] > 0.25 > 0.24 > shares[2] > 0.16 > max(shares[3:])
    assert [row["lr"] for row in rows][-2:] == [5e-4, 2.5e-4]
    state = json.loads((unbroken / f"checkpoints/step-{STEPS:08d}/state.json").read_text())
    # Phase 3 draws as the first one does, and goes on after its 36 samples.
    assert state["position"] == 36 + 16 and "skipped_samples" not in state
    assert state["data"]["corpora_of_length"]["256"]["cc100"]["sequences"] == 9
    assert state["settings"]["phases"][1]["mixed"] == {"weights": {"wikipedia": 0.25, "cc100": 0.75}}


LATER = [pytest.param(step, marks=pytest.mark.long) for step in (4, 5, 6, 7)]


@pytest.mark.parametrize("step", [2, 3, *LATER])
def test_from_a_checkpoint_before_at_and_after_a_border_it_ends_with_the_same_bits(shards, unbroken, tmp_path, step) -> None:
    name = f"checkpoints/step-{step:08d}"
    shutil.copytree(unbroken / name, tmp_path / "run" / name)
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **CHANGES)
    run_ranks(2, "pretrain", "--config", str(recipe), "--resume", "required", log=tmp_path / "log")
    last = f"checkpoints/step-{STEPS:08d}"
    assert content(tmp_path / "run" / last) == content(unbroken / last)
    seen = {row["step"]: row["batch_hash"] for row in read_metrics(unbroken)}
    assert {row["step"]: row["batch_hash"] for row in read_metrics(tmp_path / "run")} == {
        s: h for s, h in seen.items() if s > step
    }


@pytest.mark.long
def test_killed_at_each_border_it_ends_bit_identical_and_one_rank_reads_the_same_data(shards, unbroken, tmp_path) -> None:
    changes = CHANGES | {"checkpoint": {"every_steps": 2}}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **changes)
    for step, delay in ((3, 0.0), (3, 0.05)):
        kill_at(2, step, delay, tmp_path / "run", "pretrain", "--config", str(recipe), log=tmp_path / "log")
    run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    last = f"checkpoints/step-{STEPS:08d}"
    assert content(tmp_path / "run" / last) == content(unbroken / last)
    shutil.copytree(unbroken / "checkpoints/step-00000002", tmp_path / "one/checkpoints/step-00000002")
    alone = make_recipe(tmp_path / "one.yaml", shards, tmp_path / "one", **CHANGES)
    run_ranks(1, "pretrain", "--config", str(alone), log=tmp_path / "one-log")
    seen = {row["step"]: (row["batch_hash"], row["masked_tokens"], row["lr"]) for row in read_metrics(unbroken)}
    for row in [*read_metrics(tmp_path / "run"), *read_metrics(tmp_path / "one")]:
        assert (row["batch_hash"], row["masked_tokens"], row["lr"]) == seen[row["step"]]


@pytest.mark.slow
def test_a_roll_back_over_a_border_skips_what_each_phase_had_read_and_keeps_the_border(tmp_path) -> None:
    make_shards(tmp_path / "shards", {"wikipedia": (20, 3)})
    phases: list = [
        {"steps": 6},
        {"steps": 6, "global_batch_size": 6, "micro_batch_size": 3, "weights": {"wikipedia": 1.0}, "mask_probability": 0.2},
    ]
    changes: dict = {
        "phases": phases,
        "guard": {"max_skipped_in_row": 2, "max_rollbacks": 1},
        "checkpoint": {"every_steps": 2},
        "training": {"max_steps": 12, "schedule": "constant"},
    }
    order = open_run_data(load_recipe(make_recipe(tmp_path / "r.yaml", tmp_path / "shards", tmp_path / "run", **changes))).order

    def hashes(order: Any, steps: range) -> list[str]:
        return [xxhash.xxh64(np.stack(order.step(s), axis=1).astype("<i8").tobytes()).hexdigest() for s in steps]

    run, statuses = train(tmp_path, 1, "bf16", "nan", ",".join(hashes(order, range(5, 8))), **changes)
    assert statuses == [0, 0], printed_by(tmp_path / "run")[-3000:]
    (back,) = [row for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "rollback"]
    assert (back["step"], back["from_step"], back["skipped_samples"]) == (4, 8, [[1, 48, 72], [2, 0, 12]])
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [*range(1, 9), *range(5, 13)]
    assert [row["phase"] for row in rows] == [1] * 6 + [2] * 2 + [1] * 2 + [2] * 6
    assert isinstance(order, PhasedOrder)
    assert [row["batch_hash"] for row in rows[8:]] == hashes(order.undoing(4, 8), range(4, 12))
    state = json.loads((run / "checkpoints/step-00000012/state.json").read_text())
    assert (state["skipped_samples"], state["stepped_over"], state["position"]) == ([[1, 48, 72], [2, 0, 12]], [], 12 + 36)


@pytest.mark.parametrize(
    ("number", "changed", "sentence"),
    [
        (2, {"steps": 2}, None),
        (2, {"global_batch_size": 4, "attention": None}, None),
        (1, {"micro_batch_size": 1}, None),
        (1, {"mask_probability": 0.4}, r"phase 2, which has begun: mask_probability None -> \[0.4, 0.4\]"),
        (1, {"weights": None}, "phase 2, which has begun: mixed"),
        (1, {"steps": 1}, "phase 2, which has begun: steps 3 -> 1"),
        (0, {"steps": 2}, "phase 1, which has begun: steps 3 -> 2"),
        (0, {"mask_probability": [0.3, 0.1]}, "phase 1, which has begun: mask_probability"),
    ],
)
def test_phases_to_come_may_change_and_those_that_have_begun_not(
    shards, unbroken, tmp_path, capsys, number, changed, sentence
) -> None:
    phases = [dict(phase) for phase in PHASES]
    phases[number] |= changed
    name = "checkpoints/step-00000005"
    shutil.copytree(unbroken / name, tmp_path / "run" / name)
    training = CHANGES["training"] | {"max_steps": sum(phase["steps"] for phase in phases)}  # type: ignore[operator, misc]
    path = make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", **CHANGES | {"phases": phases, "training": training})
    if sentence is None:
        pretrain(load_recipe(path), dry_run=True)
        assert "would resume from" in capsys.readouterr().out
    else:
        with pytest.raises(CheckpointError, match=sentence):
            pretrain(load_recipe(path), dry_run=True)


@pytest.mark.parametrize(
    ("number", "changed", "refused"),
    [
        (2, {"mixed": {"weights": {"wiki": 0.5}}}, "phase 2, which has begun: mixed"),
        (2, {"rows": "other"}, "phase 2, which has begun: rows"),
        (2, {"lr": 1e-5, "steps": 5}, None),
        (3, {"mixed": {"weights": {"wiki": 0.5}}}, None),
    ],
)
def test_after_a_roll_back_before_a_phase_it_may_change_but_not_what_it_reads(number, changed, refused) -> None:
    phases = [{"steps": 4, "mixed": {"weights": {"wiki": 1.0}}, "lr": 1e-4, "decay_steps": None, "rows": "r"} for _ in range(3)]
    state = {"step": 2, "settings": {"phases": phases}, "skipped_samples": [[1, 8, 16], [2, 0, 8]]}
    other = {"settings": {"phases": [p | changed if n == number else p for n, p in enumerate(phases, 1)]}}
    if refused is None:
        refuse_changed_phases(Path("step-2"), state, other)
    else:
        with pytest.raises(CheckpointError, match=refused):
            refuse_changed_phases(Path("step-2"), state, other)


@pytest.mark.parametrize(
    ("phase", "error", "sentence"),
    [
        ({"sequence_length": 512}, ShardError, "no rows of 512 tokens, but of 128 and 256"),
        ({"weights": {"wiki": 1.0}}, ConfigError, "phases, entry 1: weights names 'wiki', which"),
        ({"repeats": {"wiki": 1}}, ConfigError, "phases, entry 1: repeats names 'wiki', which"),
        ({"repeats": {"wikipedia": 0, "cc100": 0}}, ConfigError, "no sequence of 128 tokens"),
    ],
)
def test_a_phase_that_the_shards_cannot_serve_is_refused_before_a_device_is_touched(
    shards, tmp_path, phase, error, sentence
) -> None:
    path = make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", phases=[{"steps": 6, **phase}])
    with pytest.raises(error, match=sentence):
        pretrain(load_recipe(path), dry_run=True)
    assert not (tmp_path / "run").exists()


def test_rows_that_no_phase_reads_may_be_longer_than_the_model_takes(tmp_path, capsys) -> None:
    add_length(make_shards(tmp_path / "shards", {"wiki": (6, 1)}, length=256), 128, 9)
    for phase, fits in (({"sequence_length": 128}, True), ({}, False)):
        path = make_recipe(
            tmp_path / "r.yaml",
            tmp_path / "shards",
            tmp_path / "run",
            phases=[{"steps": 6} | phase],
            model={"max_position_embeddings": 128},
        )
        with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=r"is 128 but the rows of .* have 256"):
            pretrain(load_recipe(path), dry_run=True)
    assert "rows of 128" in capsys.readouterr().out


def test_a_dry_run_prints_the_phases(shards, tmp_path, capsys) -> None:
    pretrain(load_recipe(make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", **CHANGES)), dry_run=True)
    printed = capsys.readouterr().out
    assert "attention sdpa and eager, " in printed
    assert "8 steps in 3 phases" in printed and "phase 3: steps 7 to 8, rows of 128, 8 sequences a step" in printed
    assert "wikipedia 20 x2, cc100 40 x1 of 128; wikipedia 9 x2, cc100 9 x1 of 256 sequences" in printed
    assert "cc100 0.75, wikipedia 0.25; 0.67 epochs" in printed
