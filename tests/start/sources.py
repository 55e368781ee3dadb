"""A small model as others publish theirs, and runs that start from one."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from jadeberta.checkpoint.held_tokenizer import read_tokenizer
from jadeberta.config import load_recipe
from jadeberta.data.run_data import effective_repeats
from jadeberta.shards import open as open_shards
from jadeberta.start.plan import plan_start
from jadeberta.training.run_context import StartOfRun
from tests.helpers import TINY_MODEL, make_recipe

SOURCE = TINY_MODEL | {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm",
    "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu", "max_position_embeddings": 128,
}  # fmt: skip


def publish(directory: Path, **changes: object) -> Path:
    """Writes a model with random weights, biases too, so that a lost one would show."""
    torch.manual_seed(3)
    model = DebertaV2ForMaskedLM(DebertaV2Config(**SOURCE | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return directory


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def started(tmp_path: Path, shards: Path, published: Path, **sections: Any) -> Path:
    """A recipe of two steps whose model is that of a source, with a checkpoint after each."""
    model = sections.pop("model", {})
    recipe = make_recipe(
        tmp_path / "recipe.yaml", shards, tmp_path / "run",
        **{"checkpoint": {"every_steps": 1}} | sections | {"training": {"max_steps": 2} | sections.get("training", {})},
    )  # fmt: skip
    document = yaml.safe_load(recipe.read_text())
    document["model"] = {"init_from": str(published), **NO_DROPOUT, **model}
    recipe.write_text(yaml.safe_dump(document))
    return recipe


def planned(recipe_file: Path, branch_from: Path | None, *options: str) -> StartOfRun:
    """What an attempt would start from."""
    recipe = load_recipe(recipe_file, options, branch_from)
    shards = open_shards(recipe.data.shards)
    return plan_start(
        recipe, shards, read_tokenizer(shards), effective_repeats(recipe.data.repeats, shards, "data.repeats"), branch_from
    )
