"""A phased run that is killed within a border, or finds its newest checkpoint damaged behind one, ends with the bits of an unbroken run.

Its rows are packed from whole documents, attention stays inside each of them, and whole words are masked.
"""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import xxhash

from jadeberta.config import load_recipe
from jadeberta.config.phases import phase_at
from jadeberta.data.phase_order import PhasedOrder
from jadeberta.data.run_data import RunDataset, open_run_data
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import LENGTH, make_recipe, make_shards, printed_by, read_metrics, run_ranks, start_ranks
from tests.training.test_guard import DRIVER as guard_driver
from tests.training.test_resume import content

# Ends the process with SIGKILL within a border: before the engine has entered the phase, or after it.
DRIVER = """
import os, signal, sys
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
moment, enter = sys.argv[1], TrainingEngine.enter_phase
def enter_and_die(self, phase, is_border):
    if is_border and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    enter(self, phase, is_border)
    if is_border and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
TrainingEngine.enter_phase = enter_and_die
sys.argv = ["jadeberta", *sys.argv[2:]]
main()
"""
STEPS, BORDER = 6, 3
CHANGES: dict = {
    "phases": [
        {"steps": BORDER, "mask_probability": [0.3, 0.2]},
        {"steps": STEPS - BORDER, "global_batch_size": 4, "micro_batch_size": 2, "weights": {"wikipedia": 0.25, "cc100": 0.75}},
    ],
    "data": {"packing": "documents"},
    "training": {"max_steps": STEPS, "global_batch_size": 4, "micro_batch_size": 4, "whole_word_mask": True},
    "checkpoint": {"every_steps": 1},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 2), "cc100": (40, 1)}, words=True)


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("unbroken")
    recipe = make_recipe(run / "recipe.yaml", shards, run / "run", **CHANGES)
    run_ranks(1, "pretrain", "--config", str(recipe), log=run / "log")
    return run / "run"


def test_both_phases_mask_whole_words_and_know_the_documents_of_each_row(shards, unbroken, tmp_path) -> None:
    recipe = load_recipe(make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", **CHANGES))
    data = open_run_data(recipe)
    assert isinstance(data.order, PhasedOrder)
    dataset = RunDataset(recipe, data, data.order, 0, 1, None)
    for step, row in enumerate(read_metrics(unbroken)):
        share = dataset[step]
        _, samples = data.order.step(step)
        draw = data.order.draws[phase_at(data.phases, step).number - 1]
        tokens, documents, starts = data.shards.rows_with_words(draw.rows(samples))
        assert starts is not None and share.documents is not None
        places = np.arange(LENGTH)
        first = np.maximum.accumulate(np.where(starts | (places == 0) | (tokens == 0), places, 0), axis=1)
        chosen = np.zeros(tokens.shape, bool)
        chosen.ravel()[share.masked_index] = True
        whole = np.take_along_axis(chosen, first, axis=1)
        assert (chosen == whole)[tokens > 4].all() and chosen.sum() == row["masked_tokens"]
        assert np.array_equal(share.documents, documents)


def assert_ends_as(unbroken: Path, run: Path) -> None:
    last = f"checkpoints/step-{STEPS:08d}"
    assert content(run / last) == content(unbroken / last)
    seen = {row["step"]: (row["batch_hash"], row["loss"], row["lr"]) for row in read_metrics(unbroken)}
    rows = read_metrics(run)
    assert {row["step"] for row in rows} == set(seen)
    assert all((row["batch_hash"], row["loss"], row["lr"]) == seen[row["step"]] for row in rows)


@pytest.mark.parametrize(("moment", "every"), [("before", 1), ("after", 2)])
def test_killed_within_a_border_it_ends_with_the_same_bits(shards, unbroken, tmp_path, moment, every) -> None:
    """With the save of the border's step still being written, and with the newest checkpoint a step before it."""
    run = tmp_path / "run"
    recipe = make_recipe(tmp_path / "r.yaml", shards, run, **CHANGES | {"checkpoint": {"every_steps": every}})
    (process,) = start_ranks(1, moment, "pretrain", "--config", str(recipe), log=tmp_path / "killed", code=DRIVER)
    assert process.wait(200) == -signal.SIGKILL
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3]
    run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    assert_ends_as(unbroken, run)


def test_with_the_newest_checkpoints_damaged_behind_a_border_it_goes_back_over_it_and_ends_with_the_same_bits(
    shards, unbroken, tmp_path
) -> None:
    run = tmp_path / "run"
    for step in (2, 3, 4):
        shutil.copytree(unbroken / f"checkpoints/step-{step:08d}", run / f"checkpoints/step-{step:08d}")
    for step in (3, 4):  # of the border itself, and of the first step behind it
        path = run / f"checkpoints/step-{step:08d}/model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in (unbroken / "metrics.jsonl").read_text().splitlines()[:4]))
    recipe = make_recipe(tmp_path / "r.yaml", shards, run, **CHANGES)
    printed = run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    assert "resumed from step-00000002" in printed
    passed = [row["checkpoint"] for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "checkpoint_passed_over"]
    assert passed == ["step-00000004", "step-00000003"]
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert_ends_as(unbroken, run)


# Spoils the loss of some steps as tests.training.test_guard does, and damages the checkpoint of step 2 when the run has come further.
SPOILING = guard_driver.replace(
    "    self.now = ",
    """    if batch.step == 3 and not hasattr(self, "now_damaged"):
        import time
        from pathlib import Path
        path, self.now_damaged = Path(self.recipe.run.dir) / "checkpoints/step-00000002/model.safetensors", True
        while not path.exists():
            time.sleep(0.01)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    self.now = """,
    1,
)


def test_a_roll_back_over_a_border_passes_over_a_damaged_checkpoint_and_skips_what_was_read_since_the_one_before(
    shards, tmp_path
) -> None:
    changes = CHANGES | {"guard": {"max_skipped_in_row": 1, "max_rollbacks": 1}}
    recipe = make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", **changes)
    order = open_run_data(load_recipe(recipe)).order
    assert isinstance(order, PhasedOrder)

    def hashes(order: PhasedOrder, steps: range) -> list[str]:
        return [xxhash.xxh64(np.stack(order.step(s), axis=1).astype("<i8").tobytes()).hexdigest() for s in steps]

    spoilt = ",".join(hashes(order, range(2, 4)))  # of both phases
    arguments = ("0", "nan", spoilt, "pretrain", "--config", str(recipe), "--checkpoint.every_steps", "1")
    (process,) = start_ranks(1, *arguments, log=tmp_path / "log", code=SPOILING)
    assert process.wait(200) == 0, printed_by(tmp_path / "log")[-3000:]
    rows = read_metrics(tmp_path / "run")
    (back,) = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "rollback"]
    assert (back["step"], back["from_step"], back["skipped_samples"]) == (1, 4, [[1, 4, 12], [2, 0, 4]])
    assert [(row["step"], row["phase"]) for row in rows[4:]] == [(2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert [row["batch_hash"] for row in rows[4:]] == hashes(order.undoing(1, 4), range(1, STEPS))


@pytest.mark.long
def test_compiled_phases_have_the_losses_of_uncompiled_ones_and_resume_with_the_same_bits(shards, tmp_path) -> None:
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # compiled code draws other numbers

    def run(name: str, compile_: str) -> Path:
        changes = CHANGES | {"model": without_dropout, "training": CHANGES["training"] | {"compile": compile_}}
        recipe = make_recipe(tmp_path / f"{name}.yaml", shards, tmp_path / name, **changes)
        run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / f"{name}-log", timeout=900)
        return tmp_path / name

    plain, compiled = run("plain", "never"), run("compiled", "always")
    losses = [[row["loss"] for row in read_metrics(directory)] for directory in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for step in (BORDER, BORDER + 1):
        name = f"checkpoints/step-{step:08d}"
        shutil.copytree(compiled / name, tmp_path / f"from-{step}" / name)
        resumed = run(f"from-{step}", "always")
        assert content(resumed / f"checkpoints/step-{STEPS:08d}") == content(compiled / f"checkpoints/step-{STEPS:08d}")
