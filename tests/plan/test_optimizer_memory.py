"""The plan knows what an optimizer keeps."""

import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from jadeberta.config import load_recipe
from jadeberta.plan.forecast import checkpoint_bytes
from jadeberta.plan.optimizer_memory import matrix_parameters
from jadeberta.training.optimizers.groups import hidden_matrices
from tests.helpers import TINY_MODEL, make_recipe


def test_a_checkpoint_is_smaller_by_the_moments_that_are_not_kept(tmp_path) -> None:
    recipes = {
        name: load_recipe(make_recipe(tmp_path / f"{name}.yaml", tmp_path, tmp_path, training={"optimizer": name}))
        for name in ("adamw", "muon", "stable_adamw", "lion")
    }
    model = recipes["adamw"].model
    theirs = DebertaV2ForMaskedLM(
        DebertaV2Config(**TINY_MODEL, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True)
    )
    weights = dict(theirs.named_parameters())
    matrices = sum(weights[name].numel() for name in hidden_matrices(theirs))
    assert matrix_parameters(model) == matrices > 0
    sizes = {name: checkpoint_bytes(recipe, 10**6) for name, recipe in recipes.items()}
    full = sizes["adamw"]
    assert sizes == {"adamw": full, "stable_adamw": full, "lion": full - 4 * 10**6, "muon": full - 4 * matrices}
    assert full == 10**6 * (
        12 + torch.finfo(torch.float32 if recipes["adamw"].training.precision == "fp32" else torch.bfloat16).bits // 8
    )
