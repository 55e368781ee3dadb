"""Residual outputs begin smaller where the recipe says so, and everything else as before."""

import pytest
import torch

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.errors import ConfigError
from jadeberta.model import build
from jadeberta.model.initialise import scale_residual_outputs
from tests.helpers import TINY_MODEL, write_published


def tiny(layers: int) -> torch.nn.Module:
    return build(ModelConfig(**TINY_MODEL | {"num_hidden_layers": layers}).hugging_face(), "sdpa", seed=3)


def test_the_two_outputs_of_each_layer_are_divided_by_the_root_of_their_number_and_nothing_else_changes() -> None:
    # Two stacks of different depth in one tree, as a generator and a discriminator are.
    scaled = torch.nn.ModuleDict({"small": tiny(2), "large": tiny(4)})
    plain = torch.nn.ModuleDict({"small": tiny(2), "large": tiny(4)})
    assert scale_residual_outputs(scaled) == 2 * 2 + 2 * 4
    for (name, found), before in zip(scaled.named_parameters(), plain.parameters(), strict=True):
        if name.endswith("output.dense.weight"):
            layers = 2 if name.startswith("small") else 4
            torch.testing.assert_close(found, before / (2 * layers) ** 0.5)
        else:
            assert found.equal(before), name


def test_the_models_configuration_knows_nothing_of_it() -> None:
    plain, scaled = (ModelConfig(**TINY_MODEL, initializer_scale_by_depth=on).hugging_face() for on in (False, True))
    assert plain == scaled


def test_weights_of_another_model_are_not_scaled(tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{init_from: {write_published(tmp_path)}, initializer_scale_by_depth: true}}\n")
    with pytest.raises(ConfigError, match=r"scales random weights, but model\.init_from brings"):
        load_recipe(recipe)
