"""A run starts from published weights: its first loss is that of transformers' own model, and what does not fit is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import DebertaV2ForMaskedLM

from jadeberta.config import load_recipe
from jadeberta.data.batches import StepDataset, iterate_steps
from jadeberta.data.masking import Masker
from jadeberta.data.sample_order import SampleOrder
from jadeberta.shards import open as open_shards
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks
from tests.start.sources import publish

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3), "cc100": (40, 1)})


@pytest.fixture(scope="module")
def published(tmp_path_factory, shards) -> Path:
    directory = publish(tmp_path_factory.mktemp("published"))
    shutil.copyfile(shards / "tokenizer/spm.model", directory / "spm.model")
    return directory


def first_loss(directory: Path, recipe_file: Path) -> float:
    """transformers' own loss of the model in a directory on the first global batch of a recipe."""
    recipe = load_recipe(recipe_file)
    training, shards = recipe.training, open_shards(recipe.data.shards)
    repeats = {name: corpus.repeats for name, corpus in shards.index.corpora.items()}
    order = SampleOrder.of(training.seed, training.global_batch_size, shards.corpora, repeats)
    masker = Masker(training.seed, shards.index.vocab_size, training.mask_probability)
    batch = next(iterate_steps(StepDataset(shards, order, masker, training.global_batch_size, 0, 1, False, False), 0, 1, 0, 1))
    (inputs,) = batch.micro_batches
    labels = torch.full((inputs.input_ids.numel(),), -100)
    count = int((inputs.labels != -100).sum())
    labels[inputs.masked_index[:count]] = inputs.labels[:count]
    model = DebertaV2ForMaskedLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        loss = model(inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels.view_as(inputs.input_ids)).loss
    return float(loss)


def started(tmp_path: Path, shards: Path, published: Path, **sections: dict) -> Path:
    """A recipe of two steps whose model is that of a source, with a checkpoint after each."""
    model = sections.pop("model", {})
    recipe = make_recipe(
        tmp_path / "recipe.yaml", shards, tmp_path / "run", checkpoint={"every_steps": 1},
        **sections | {"training": {"max_steps": 2} | sections.get("training", {})},
    )  # fmt: skip
    document = yaml.safe_load(recipe.read_text())
    document["model"] = {"init_from": str(published), **NO_DROPOUT, **model}
    recipe.write_text(yaml.safe_dump(document))
    return recipe


def test_the_first_loss_is_that_of_the_source_and_its_hashes_are_in_lineage_ledger_and_checkpoint(
    shards, published, tmp_path
) -> None:
    recipe = started(tmp_path, shards, published)
    printed = run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    assert "started from the weights of" in printed
    assert read_metrics(tmp_path / "run")[0]["loss"] == pytest.approx(first_loss(published, recipe), rel=2e-6)
    (entry,) = json.loads((tmp_path / "run/lineage.json").read_text())
    assert entry["source"] == str(published) and entry["tokenizer"] == "same" and "model.safetensors" in entry["files"]
    state = json.loads((tmp_path / "run/checkpoints/step-00000001/state.json").read_text())
    (start,) = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "start"]
    assert state["lineage"] == start["lineage"] == [entry]
