"""The plan knows what an optimizer keeps and computes."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from jadeberta.config import load_recipe
from jadeberta.config.phases import phases_of, with_lengths
from jadeberta.plan.forecast import ClusterShape, Input, checkpoint_bytes, forecast
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.training.optimizers.costs import hidden_matrix_shapes, update_flops
from jadeberta.training.optimizers.groups import hidden_matrices
from jadeberta.training.optimizers.orthogonalise import multiplications
from jadeberta.training.run_log import RunLog, StepTimes
from tests.helpers import TINY_MODEL, make_recipe


def test_a_checkpoint_is_smaller_by_the_moments_that_are_not_kept(tmp_path) -> None:
    recipes = {
        name: load_recipe(make_recipe(tmp_path / f"{name}.yaml", tmp_path, tmp_path, training={"optimizer": name}))
        for name in ("adamw", "muon", "stable_adamw", "lion")
    }
    theirs = DebertaV2ForMaskedLM(
        DebertaV2Config(**TINY_MODEL, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True)
    )
    weights = dict(theirs.named_parameters())
    shapes = [tuple(weights[name].shape) for name in hidden_matrices(theirs)]
    matrices = sum(rows * columns for rows, columns in shapes)
    assert sorted(hidden_matrix_shapes(recipes["muon"])) == sorted(shapes) and matrices > 0
    assert update_flops(recipes["muon"]) == 2 * sum(map(multiplications, shapes)) and update_flops(recipes["lion"]) == 0
    rtd = load_recipe(make_recipe(tmp_path / "rtd.yaml", tmp_path, tmp_path, training={"optimizer": "muon", "objective": "rtd"}))
    assert len(hidden_matrix_shapes(rtd)) == len(shapes) * 3 // 2  # the generator has half the layers
    sizes = {name: checkpoint_bytes(recipe, 10**6) for name, recipe in recipes.items()}
    full = sizes["adamw"]
    assert sizes == {"adamw": full, "stable_adamw": full, "lion": full - 4 * 10**6, "muon": full - 4 * matrices}
    assert full == 10**6 * (
        12 + torch.finfo(torch.float32 if recipes["adamw"].training.precision == "fp32" else torch.bfloat16).bits // 8
    )


def test_the_plan_and_mfu_count_the_matrix_products_of_muons_updates(tmp_path) -> None:
    planned, logs = {}, {}
    for name in ("adamw", "muon"):
        training = {"optimizer": name, "batch_size_warmup": [[6, 2]]}
        recipe = load_recipe(make_recipe(tmp_path / f"{name}.yaml", tmp_path, tmp_path, training=training))
        speed = {"tokens_per_second_per_gpu": Input(100.0, "given", "")}
        planned[name] = forecast(recipe, ClusterShape(1, 1, "A100"), speed, 10**6, 128)
        assert (planned[name].total_flops, planned[name].tokens) == pytest.approx(flops_and_tokens(recipe, 128))
        process = SimpleNamespace(world_size=1)
        logs[name] = log = RunLog(SimpleNamespace(recipe=recipe, device=torch.device("cpu"), process=process), None)  # type: ignore[arg-type]
        log.enter_phase(with_lengths(phases_of(recipe), 128)[0], 1)
        log._peak = 1e9
    updates = update_flops(recipe)
    assert updates > 0 and planned["muon"].total_flops - planned["adamw"].total_flops == pytest.approx(6 * updates)
    plain, muon = (log._mfu(1000, StepTimes(2.0, 0.0, 0.0)) for log in logs.values())
    assert plain is not None and muon is not None and muon - plain == pytest.approx(updates / 2.0 / 1e9)
