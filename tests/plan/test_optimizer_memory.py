"""The plan knows what an optimizer keeps."""

import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from jadeberta.config import load_recipe
from jadeberta.plan.forecast import checkpoint_bytes
from jadeberta.plan.training_flops import hidden_matrix_shapes, update_flops
from jadeberta.training.optimizers.groups import hidden_matrices
from jadeberta.training.optimizers.orthogonalise import multiplications
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
