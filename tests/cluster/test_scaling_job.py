"""A scaling test on a real Slurm with slow cables: the report sees what they cost, and the prediction agrees with the measurement.

Compute is small and the wire is slow, so that the nodes' shared cores do not decide: what is tested is that bytes, links and steps are
reckoned right. slurm/scaling.sh is submitted as it stands, by `jadeberta scaling run` on the head node.
"""

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster
from tests.helpers import make_recipe, make_shards

pytestmark = pytest.mark.slow

WIRE = 50e6 / 8
"""Bytes a second and direction of a shaped link."""
VOCABULARY, HIDDEN = 16000, 64
WITHIN = 0.20


def scaled(cluster: Cluster, folder: Path, out: str, *options: str) -> dict:
    """Runs a scaling test from the head node; its report."""
    recipe = folder / "toy.yaml"
    if not recipe.exists():
        model = {
            "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 1,
            "attention_head_size": HIDDEN, "intermediate_size": HIDDEN, "pooler_hidden_size": HIDDEN, "conv_kernel_size": 0,
        }  # fmt: skip
        shards = make_shards(folder / "shards", {"a": (60, 1)}, vocab_size=VOCABULARY)
        make_recipe(recipe, shards, folder / "run", model=model, training={"global_batch_size": 1, "micro_batch_size": 1})
    test = ["--config", recipe, "--out", folder / out, "--gpus-per-node", 1, "--sbatch=--cpus-per-task=1", *options]
    cluster.run(sys.executable, "-m", "jadeberta", "scaling", "run", *test, timeout=420)
    return json.loads((folder / out / "report.json").read_bytes())


@pytest.mark.long
def test_slow_cables_show_in_the_report_and_in_the_prediction(cluster, tmp_path) -> None:
    steps = ["--steps", "12", "--warm-up", "4", "--at-once", "1"]
    plain = scaled(cluster, tmp_path, "plain", "--nodes", "2", "--modes", "strong", "--training.global_batch_size", "2", *steps)
    for node in range(1, 5):
        cluster.tool("shape", f"node{node}", "50mbit")
    report = scaled(cluster, tmp_path, "shaped", "--nodes", "1,2,4", "--modes", "weak", *steps)

    one, two, four = report["rows"]
    assert [row["ranks"] for row in report["rows"]] == [1, 2, 4] and report["missing"] == []
    (fast,) = plain["rows"]
    assert two["communication_s"] > 4 * fast["communication_s"]
    assert two["communication_s"] / two["step_s"] > max(0.8, fast["communication_s"] / fast["step_s"])
    size = 4 * report["parameters"]
    assert size > 4 * VOCABULARY * HIDDEN
    for row, ranks in ((two, 2), (four, 4)):
        wire = 3 * (ranks - 1) / ranks * size / WIRE  # there and back, and the weights there again
        # gloo's rings do not fill the links all the time, and a bucket of tbf lets the first 256 kB of a step pass at once.
        assert row["communication_s"] == pytest.approx(wire, rel=0.35)
    assert one["efficiency"] == 1 > two["efficiency"] > four["efficiency"]
    assert {row["ranks"]: row["error"] for row in report["rows"] if abs(row["error"]) > WITHIN} == {}
    assert all(constants["gemm_flops_per_second_per_rank"] > 0 for constants in report["constants"].values())
    assert len(report["constants"]) == 3 and not list((tmp_path / "shaped").glob("points/*/checkpoints"))
