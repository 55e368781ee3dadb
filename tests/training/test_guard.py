"""A step whose loss or gradient is not finite touches nothing, is counted, and is agreed by all ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from jadeberta.cluster.local import free_port, rank_environment
from jadeberta.training.guard import is_sound
from jadeberta.training.ledger import read_jsonl
from tests.helpers import ROOT, make_recipe, make_shards, read_metrics

# Makes one rank's loss, or its gradient alone, not finite at some steps; everything else is the real command.
DRIVER = """
import sys, torch
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
rank, kind, steps = int(sys.argv[1]), sys.argv[2], {int(s) for s in sys.argv[3].split(",")}
whole_step, forward = TrainingEngine.step, TrainingEngine._forward
class Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, grad): return grad * float("inf")
def step(self, batch, *rest):
    self.now = batch.step
    return whole_step(self, batch, *rest)
def spoil(self, micro_batch):
    loss, correct = forward(self, micro_batch)
    if self.process.rank == rank and self.now in steps:
        loss = loss * float(kind) if kind != "gradient" else Spoilt.apply(loss)
    return loss, correct
TrainingEngine.step, TrainingEngine._forward = step, spoil
sys.argv = ["jadeberta", *sys.argv[4:]]
main()
"""


def train(
    tmp_path: Path, name: str, stage: int, precision: str, kind: str, steps: str, **training: int
) -> tuple[Path, list[int]]:
    """A run of two ranks, of which rank 1 meets what is not finite; its directory and the ranks' statuses."""
    shards = tmp_path / "shards"
    if not shards.exists():
        make_shards(shards, {"wikipedia": (20, 3)})
    changes = {"training": {"precision": precision, **training}, "checkpoint": {"every_steps": 1}}
    recipe = make_recipe(tmp_path / f"{name}.yaml", shards, tmp_path / name, deepspeed=f"ds_configs/zero{stage}.json", **changes)
    command = [sys.executable, "-c", DRIVER, "1", kind, steps, "pretrain", "--config", str(recipe)]
    port = free_port()
    with open(tmp_path / f"{name}.log", "wb") as log:
        ranks = [
            subprocess.Popen(command, env=os.environ | rank_environment(r, 2, port, 2), stdout=log, stderr=log, cwd=ROOT)
            for r in range(2)
        ]
        return tmp_path / name, [p.wait(200) for p in ranks]


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage,precision,kind",
    [(1, "bf16", "nan"), (2, "bf16", "gradient"), (2, "fp32", "inf"), (3, "bf16", "gradient"), (1, "fp32", "gradient")],
)
def test_a_step_that_is_not_finite_on_one_rank_is_left_out_on_all(tmp_path, stage, precision, kind) -> None:
    # Step 0 too: Adam has no history then, and the moments must stay zero.
    run, statuses = train(tmp_path, "run", stage, precision, kind, "0,3")
    assert statuses == [0, 0], (tmp_path / "run.log").read_text()[-3000:]
    rows = {row["step"]: row for row in read_metrics(run)}
    assert [step for step, row in rows.items() if row["skipped"]] == [1, 4]
    skips = [row for row in read_jsonl(run / "ledger.jsonl") if row["event"] == "skip"]
    assert [row["step"] for row in skips] == [1, 4] and skips[1]["batch_hash"] == rows[4]["batch_hash"]

    def trained(step: int) -> dict:
        folder = run / f"checkpoints/step-{step:08d}"
        return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}

    assert all(t.isfinite().all() for t in trained(6).values())
    assert all((t == 0).all() for name, t in trained(1).items() if name.startswith("exp_avg"))
    before, after, later = trained(3), trained(4), trained(5)
    assert all(before[name].equal(after[name]) for name in before), "the step that was left out changed something"
    assert any(not after[name].equal(later[name]) for name in after), "the step after it did nothing"
    state = json.loads((run / "checkpoints/step-00000006/state.json").read_text())
    assert (state["skipped_steps"], state["adam_step"], state["position"]) == (2, 4, 6 * 12)


@pytest.mark.slow
def test_too_many_in_a_row_end_the_run_with_status_13(tmp_path) -> None:
    run, statuses = train(tmp_path, "run", 1, "bf16", "nan", "2,3,4,5", max_skipped_in_row=2)
    assert statuses == [13, 13]
    printed = (tmp_path / "run.log").read_text()
    assert (
        "3 steps in a row up to step 5 were not finite; the weights are those of step 2" in printed and "Traceback" not in printed
    )
    assert not (run / "DONE").exists()


@pytest.mark.parametrize(
    "loss,norm", [(float("nan"), 1.0), (float("inf"), 1.0), (2.0, float("nan")), (2.0, float("inf")), (2.0, -1.0), (2.0, None)]
)
def test_only_finite_numbers_are_sound(loss, norm) -> None:
    assert is_sound(2.0, 1.0) and is_sound(0.0, 0.0) and not is_sound(loss, norm)
