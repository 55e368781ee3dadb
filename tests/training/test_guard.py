"""A step whose numbers cannot be right touches nothing, is counted, and is agreed by all ranks; past a limit the run goes back."""

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from jadeberta.config import GuardConfig
from jadeberta.data.sample_order import SampleOrder, data_step
from jadeberta.shards import open as open_shards
from jadeberta.training.guard import SpikeDetector, UpdateGuard, deviations_above, is_sound
from jadeberta.training.lr_schedule import learning_rate
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, read_metrics, run_ranks, start_ranks

# Spoils one rank's loss, or its gradient alone, at some steps or for some data; everything else is the real command.
DRIVER = """
import sys, torch
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
rank, kind, spoilt = int(sys.argv[1]), sys.argv[2], set(sys.argv[3].split(","))
whole_step, forward = TrainingEngine.step, TrainingEngine.forward
class Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, grad): return grad * float("inf")
def step(self, batch, *rest):
    self.now = {str(batch.step), batch.batch_hash}
    result = whole_step(self, batch, *rest)
    if kind == "flip" and self.process.rank == rank and self.now & spoilt:
        next(self.model.parameters()).data.view(-1)[0] *= -1
    return result
def spoil(self, micro_batch):
    loss, correct = forward(self, micro_batch)
    if self.process.rank == rank and self.now & spoilt and kind != "flip":
        loss = loss * float(kind) if kind != "gradient" else Spoilt.apply(loss)
    return loss, correct
TrainingEngine.step, TrainingEngine.forward = step, spoil
sys.argv = ["jadeberta", *sys.argv[4:]]
main()
"""


def train(
    tmp_path: Path, stage: int, precision: str, kind: str, spoilt: str, ranks: int = 2, **changes: dict
) -> tuple[Path, list[int]]:
    """A run of some ranks, of which rank 1 meets what is not right; its directory and the ranks' statuses."""
    shards = tmp_path / "shards"
    if not shards.exists():
        make_shards(shards, {"wikipedia": (20, 3)})
    changes = {"checkpoint": {"every_steps": 1}, **changes, "training": {"precision": precision, **changes.get("training", {})}}
    recipe = make_recipe(tmp_path / "run.yaml", shards, tmp_path / "run", deepspeed=f"ds_configs/zero{stage}.json", **changes)
    arguments = ("1", kind, spoilt, "pretrain", "--config", str(recipe))
    processes = start_ranks(ranks, *arguments, log=tmp_path / "run", code=DRIVER)
    return tmp_path / "run", [p.wait(200) for p in processes]


def trained(run: Path, step: int) -> dict:
    """Every tensor of a checkpoint."""
    folder = run / f"checkpoints/step-{step:08d}"
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage,precision,kind",
    [
        (1, "bf16", "nan"),
        (2, "fp32", "inf"),
        pytest.param(3, "bf16", "gradient", marks=pytest.mark.long),
        pytest.param(2, "bf16", "gradient", marks=pytest.mark.long),
        pytest.param(1, "fp32", "gradient", marks=pytest.mark.long),
    ],
)
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(tmp_path, stage, precision, kind) -> None:
    # Step 0 too: Adam has no history then, and the moments must stay zero.
    run, statuses = train(tmp_path, stage, precision, kind, "0,3")
    assert statuses == [0, 0], printed_by(tmp_path / "run")[-3000:]
    rows = {row["step"]: row for row in read_metrics(run)}
    assert [step for step, row in rows.items() if row["skipped"]] == [1, 4]
    skips = [row for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "skip"]
    assert [row["step"] for row in skips] == [1, 4] and skips[1]["batch_hash"] == rows[4]["batch_hash"]
    assert [row["samples"] for row in skips] == [order(run).step(step)[1].tolist() for step in (0, 3)]

    assert all(t.isfinite().all() for t in trained(run, 6).values())
    assert all((t == 0).all() for name, t in trained(run, 1).items() if name.startswith("exp_avg"))
    before, after, later = trained(run, 3), trained(run, 4), trained(run, 5)
    assert all(before[name].equal(after[name]) for name in before), "the skipped step changed something"
    assert any(not after[name].equal(later[name]) for name in after), "the step after it did nothing"
    state = json.loads((run / "checkpoints/step-00000006/state.json").read_text())
    assert (state["skipped_steps"], state["adam_step"], state["position"]) == (2, 4, 6 * 12)


@pytest.mark.slow
def test_a_step_without_a_masked_token_has_no_loss_and_says_why_it_changed_nothing(tmp_path) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 3)})
    training = {"max_steps": 1, "warmup_steps": 1, "global_batch_size": 1, "micro_batch_size": 1, "mask_probability": 1e-9}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", training=training, logging={"tensorboard": True})
    run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    (row,) = read_metrics(tmp_path / "run")
    assert (row["loss"], row["masked_accuracy"], row["masked_tokens"], row["skipped"]) == (None, None, 0, True)
    (skip,) = [event for event in read_jsonl(tmp_path / "run/ledger.jsonl") if event["event"] == "skip"]
    assert skip["reason"] == "no token of the global batch is masked"


def order(run: Path) -> SampleOrder:
    shards = open_shards(run.parent / "shards")
    return SampleOrder.of(7, 12, shards.corpora, {"wikipedia": 3})


@pytest.mark.slow
def test_a_spike_on_one_rank_is_skipped_on_all(tmp_path) -> None:
    run, statuses = train(tmp_path, 1, "bf16", "1000", "8", guard={"window": 8}, training={"max_steps": 11})
    assert statuses == [0, 0], printed_by(tmp_path / "run")[-3000:]
    rows = {row["step"]: row for row in read_metrics(run)}
    assert [step for step, row in rows.items() if row["skipped"]] == [9]
    (skip,) = [row for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "skip"]
    assert "deviations above" in skip["reason"] and skip["loss"] > 100 * rows[8]["loss"]
    before, after, later = (trained(run, step) for step in (8, 9, 10))
    assert all(before[name].equal(after[name]) for name in before), "the skipped step changed something"
    assert any(not after[name].equal(later[name]) for name in after), "the step after it did nothing"


def hash_of(run: Path, step: int) -> str:
    import numpy as np
    import xxhash

    return xxhash.xxh64(np.stack(order(run).step(step), axis=1).astype("<i8").tobytes()).hexdigest()


@pytest.mark.slow
def test_past_the_limit_it_goes_back_skips_the_data_and_goes_on_also_after_a_restart(tmp_path) -> None:
    make_shards(tmp_path / "shards", {"wikipedia": (20, 3)})
    run = tmp_path / "run"
    bad = ",".join(hash_of(run, step) for step in (5, 6, 7, 8))
    changes = {"guard": {"max_skipped_in_row": 2, "max_rollbacks": 1}, "checkpoint": {"every_steps": 2}}
    _, statuses = train(tmp_path, 1, "bf16", "nan", bad, **changes, training={"max_steps": 12, "schedule": "constant"})
    assert statuses == [0, 0], printed_by(tmp_path / "run")[-3000:]
    events = read_jsonl(run / "ledger.jsonl")
    (back,) = [row for row in events if row["event"] == "rollback"]
    assert (back["step"], back["from_step"], back["stepped_over"], back["number"]) == (4, 8, [4, 8], 1)
    # The checkpoints of the bad steps are gone, those at the end are of the new way.
    assert {row["checkpoint"] for row in events if row["event"] == "undone"} <= {"step-00000006", "step-00000008"}
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [*range(1, 9), *range(5, 13)]
    assert [row["step"] for row in rows if row["skipped"]] == [6, 7, 8, 5]
    assert [row["batch_hash"] for row in rows[8:]] == [hash_of(run, step) for step in range(8, 16)]
    for row in rows:
        assert row["lr"] == learning_rate(row["step"] - 1, peak=1e-3, warmup_steps=2, max_steps=12, schedule="constant")
    state = json.loads((run / "checkpoints/step-00000012/state.json").read_text())
    assert (state["rollbacks"], state["stepped_over"], state["skipped_steps"]) == (1, [[4, 8]], 1)
    assert (state["adam_step"], state["position"]) == (11, 16 * 12)

    _, statuses = train(tmp_path, 1, "bf16", "nan", bad, **changes, training={"max_steps": 14, "schedule": "constant"})
    assert statuses == [0, 0], printed_by(tmp_path / "run")[-3000:]
    assert [row["batch_hash"] for row in read_metrics(run)[-2:]] == [hash_of(run, step) for step in (16, 17)]


@pytest.mark.slow
def test_past_the_last_roll_back_the_run_ends_with_status_13_and_says_why(tmp_path) -> None:
    every_later_step = ",".join(map(str, range(3, 20)))
    changes = {"guard": {"max_skipped_in_row": 1, "max_rollbacks": 1}, "training": {"max_steps": 12}}
    run, statuses = train(tmp_path, 2, "bf16", "nan", every_later_step, **changes)
    assert statuses == [13, 13]
    printed = printed_by(tmp_path / "run")
    assert "2 steps in a row up to step 5 were skipped, after 1 roll-backs" in printed and "Traceback" not in printed
    assert "ROLLED BACK to step 3" in printed and not (run / "DONE").exists()
    assert [row["status"] for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "stop"] == [13]


@pytest.mark.slow
def test_without_a_checkpoint_to_go_back_to_it_ends_with_status_13(tmp_path) -> None:
    changes = {"guard": {"max_skipped_in_row": 1}, "checkpoint": {"every_steps": 100}}
    _, statuses = train(tmp_path, 1, "bf16", "inf", "0,1,2,3", **changes)
    assert statuses == [13, 13]
    assert "no valid checkpoint of step 0 or before" in printed_by(tmp_path / "run")


@pytest.mark.slow
def test_a_rank_whose_weights_differ_stops_the_run_and_is_named(tmp_path) -> None:
    changes = {"guard": {"compare_weights_every": 2}, "training": {"max_steps": 8}}
    run, statuses = train(tmp_path, 1, "bf16", "flip", "3", ranks=3, **changes)
    assert statuses == [13, 13, 13], printed_by(tmp_path / "run")[-3000:]
    assert "the same at step 4 and those of rank 1 are not" in printed_by(tmp_path / "run")
    assert not (run / "checkpoints/step-00000004").exists()


def test_data_steps_leave_out_the_skipped_ranges() -> None:
    over = ((4, 8), (10, 11))
    assert [data_step(step, over) for step in range(9)] == [0, 1, 2, 3, 8, 9, 11, 12, 13]
    assert [data_step(step, ()) for step in range(3)] == [0, 1, 2]


def test_a_second_roll_back_skips_what_the_first_skipped_too() -> None:
    from jadeberta.training.run_state import RunState

    order = SampleOrder(7, 12, ((0, 1000, 1),))
    first = RunState(step=4).after_rollback(RunState(), 8, order)
    assert (first.step, first.rollbacks, first.skipped_ranges) == (4, 1, ((4, 8),))
    # Back to the same checkpoint: its own state knows nothing of the first roll-back.
    second = RunState(step=4).after_rollback(first, 6, order)
    assert (second.rollbacks, second.skipped_ranges) == (2, ((4, 8), (8, 10)))
    # Back to an older one: the first range lies within the new one.
    third = RunState(step=2).after_rollback(second, 5, order)
    assert (third.rollbacks, third.skipped_ranges) == (3, ((2, 11),))
    assert third.order(order).progress(third.step) == (11 * 12, 11 * 12 / 1000)
    growing = replace(order, batch_size_warmup=((4, 3), (8, 6)))
    assert third.order(growing).progress(third.step)[0] == 3 * 4 + 6 * 8 + 2 * 12


def test_deviations_are_robust_against_half_a_window_of_outliers() -> None:
    draw = random.Random(0)
    good = [draw.gauss(2.0, 0.1) for _ in range(400)]
    assert deviations_above(2.0 + 0.1 * 12, good, 0.0) == pytest.approx(12, rel=0.15)
    outliers = good + [1e6] * 150
    assert 6 < deviations_above(2.0 + 0.1 * 12, outliers, 0.0) < 12
    assert deviations_above(2.1, [2.0] * 10, 0.01) == pytest.approx(5)


def test_the_detector_calls_no_ordinary_noise_a_spike_and_every_large_jump_one() -> None:
    draw = random.Random(1)
    detector = SpikeDetector(GuardConfig())
    for step in range(5000):  # a loss that falls as in pre-training, a gradient norm with a heavy tail
        loss, norm = 2 + 8 * 0.999**step + draw.gauss(0, 0.02), draw.lognormvariate(0, 0.3)
        assert detector.fault(loss, norm) is None, step
        detector.accept(loss, norm)
    assert "loss" in detector.fault(2.1 + 1.0, 1.0) and "grad_norm" in detector.fault(2.05, 10.0)
    assert detector.fault(0.5, 0.01) is None, "better is no spike"
    again = SpikeDetector(GuardConfig())
    again.recall(json.loads(json.dumps(detector.memory())))
    assert again.fault(3.1, 1.0) == detector.fault(3.1, 1.0)


def test_half_a_window_is_needed_and_zero_deviations_switch_it_off() -> None:
    detector, off = SpikeDetector(GuardConfig(window=8)), SpikeDetector(GuardConfig(window=8, deviations=0))
    for _ in range(3):
        detector.accept(1.0, 1.0)
    assert detector.fault(100.0, 1.0) is None
    for each in (detector, off, off, off, off):
        each.accept(1.0, 1.0)
    assert detector.fault(100.0, 1.0) is not None and off.fault(100.0, 1.0) is None and off.fault(float("inf"), 1.0) is not None


@pytest.mark.parametrize(
    "loss,norm", [(float("nan"), 1.0), (float("inf"), 1.0), (2.0, float("nan")), (2.0, float("inf")), (2.0, -1.0), (2.0, None)]
)
def test_only_finite_numbers_are_sound(loss, norm) -> None:
    assert is_sound(2.0, 1.0) and is_sound(0.0, 0.0) and not is_sound(loss, norm)


def test_a_skipped_step_calls_no_update_and_leaves_no_trace_in_the_window() -> None:
    updates: list[float] = []
    inner = SimpleNamespace(step=lambda: updates.append(zero._global_grad_norm))
    zero = SimpleNamespace(optimizer=inner, _global_grad_norm=0.0)
    guard = UpdateGuard(SimpleNamespace(optimizer=zero), GuardConfig(window=8))
    for step in range(8):
        zero._global_grad_norm = 1.0 + step / 100
        guard.expect(2.0 + step / 100)
        inner.step()
        assert guard.conclude(zero._global_grad_norm) is None
    before = guard.memory()
    assert len(updates) == 8 and before["loss"] == [2.0 + step / 100 for step in range(8)]
    guard.expect(1e6)
    inner.step()
    assert guard.conclude(1.0) is not None and len(updates) == 8 and guard.memory() == before


def test_a_spike_of_either_loss_is_found_and_the_windows_are_remembered() -> None:
    detector = SpikeDetector(GuardConfig(window=8))
    for step in range(8):
        detector.accept(2.0 + step / 100, 1.0 + step / 50, 0.5 + step / 500)
    again = SpikeDetector(GuardConfig(window=8))
    again.recall(detector.memory())
    for guard in (detector, again):
        assert guard.fault(2.0, 1.0, 0.5) is None
        assert (guard.fault(9.0, 1.0, 0.5) or "").startswith("loss 9 is")
        assert (guard.fault(2.0, 1.0, 5.0) or "").startswith("discriminator_loss 5 is")
        assert guard.fault(2.0, 1.0, float("nan")) == "the discriminator's loss is nan"
