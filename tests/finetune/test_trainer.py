"""One training: the same numbers again, whatever the micro-batch; a head on the encoder that was given."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jadeberta.errors import CheckpointError
from jadeberta.finetune.features import collator, examples_of, texts_of
from jadeberta.finetune.grid import FinetuneConfig, Trial
from jadeberta.finetune.jglue_files import read_rows
from jadeberta.finetune.pretrained import PretrainedEncoder, build, load_pretrained
from jadeberta.finetune.tasks import TASKS
from jadeberta.finetune.trainer import Diverged, epoch_order, predict_logits, steps_of, train
from tests.finetune import toy_model as toy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pretrained(model) -> PretrainedEncoder:
    return load_pretrained(model)


@pytest.fixture(scope="module")
def examples(encoder, tmp_path_factory):
    task = TASKS["jnli"]
    folder = toy.write_task(tmp_path_factory.mktemp("data"), "jnli", train=22) / "jnli-v1.3"
    rows = read_rows(folder / "train-v1.3.json", task)
    return examples_of(rows, task, encoder([text for row in rows for text in texts_of(row, task)]), encoder, 32)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda d: (d / "spm.model").unlink(), "spm.model: missing; text cannot be encoded without it"),
        (lambda d: (d / "model.safetensors").unlink(), "no model.safetensors there"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
        (lambda d: (d / "config.json").unlink(), "neither a checkpoint, nor an exported directory, nor a run"),
        (lambda d: (d / "config.json").write_text('{"model_type": "vit"}'), "no head for sequence classification on a vit"),
        (lambda d: save_file({"other": torch.zeros(1)}, d / "model.safetensors"), r"holds no deberta.\* weights"),
    ],
    ids=["no tokenizer", "no weights", "damaged weights", "no config", "another architecture", "other weights"],
)
def test_a_directory_that_is_no_model_is_refused_in_one_sentence(model, tmp_path, change, message) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    change(copy)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(copy)


def weights_after(pretrained: PretrainedEncoder, examples, micro_batch_size: int, lr: float = 1e-3) -> dict[str, torch.Tensor]:
    model = build(pretrained, TASKS["jnli"], 1)
    train(model, examples, collator("classification", 0), Trial(lr, 2, 1), FinetuneConfig(8, 32), micro_batch_size, CPU)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_head_stands_on_the_given_encoder_and_its_own_weights_follow_from_the_seed(pretrained, model) -> None:
    given = load_file(model / "model.safetensors")
    built = [build(pretrained, TASKS["jnli"], seed).state_dict() for seed in (1, 1, 2)]
    encoder = [name for name in built[0] if name.startswith("deberta.")]
    assert len(encoder) > 20 and all(built[0][name].equal(given[name]) for name in encoder)
    assert built[0]["classifier.weight"].equal(built[1]["classifier.weight"])
    assert not built[0]["classifier.weight"].equal(built[2]["classifier.weight"])
    assert built[0]["classifier.weight"].shape[0] == 3


def test_an_encoder_that_does_not_fit_its_config_is_refused(pretrained) -> None:
    name = next(iter(pretrained.weights))
    broken = PretrainedEncoder(pretrained.directory, pretrained.config, pretrained.weights | {name: torch.zeros(1)}, None, "", "")
    with pytest.raises(CheckpointError, match=f"{name} is .1. there and"):
        build(broken, TASKS["jnli"], 1)


def test_the_same_point_gives_the_same_bits_and_the_micro_batch_changes_rounding_alone(pretrained, examples) -> None:
    whole, again, cut = (weights_after(pretrained, examples, size) for size in (8, 8, 3))
    assert all(whole[name].equal(again[name]) for name in whole)
    assert all(torch.allclose(whole[name], cut[name], atol=2e-4) for name in whole)
    untouched = build(pretrained, TASKS["jnli"], 1).state_dict()
    assert max((whole[name] - untouched[name]).abs().max().item() for name in whole) > 2e-3, "training moved no weight"


def test_every_row_is_seen_once_in_an_epoch_and_the_order_differs_between_epochs_and_seeds() -> None:
    orders = [epoch_order(50, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert all(sorted(o) == list(range(50)) for o in orders) and orders[0] == orders[3]
    assert len({tuple(o) for o in orders}) == 3
    assert steps_of(22, 8, 2) == 6


def test_a_training_whose_numbers_run_away_is_told_apart_from_a_bad_score(pretrained, examples) -> None:
    with pytest.raises(Diverged):
        weights_after(pretrained, examples, 8, lr=1e30)


def test_answers_come_in_the_order_of_the_examples_whatever_the_batch(pretrained, examples) -> None:
    model, collate = build(pretrained, TASKS["jnli"], 1), collator("classification", 0)
    alone, together = (predict_logits(model, examples, collate, size, "fp32", CPU) for size in (1, 7))
    assert len(alone) == len(examples)
    for (a,), (b,) in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
