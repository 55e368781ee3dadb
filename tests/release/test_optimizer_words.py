"""The model card says which optimizer made the weights, also of a checkpoint that is older than the choice."""

from dataclasses import asdict

import pytest

from jadeberta.config import TrainingConfig
from jadeberta.release.card import _optimizer

OLD = {"training.adam_beta1": 0.9, "training.adam_beta2": 0.999, "training.adam_eps": 1e-6}


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({}, "AdamW, betas (0.9, 0.999), epsilon 1e-06"),
        ({"optimizer": "stable_adamw", "adam_beta2": 0.98}, "StableAdamW, betas (0.9, 0.98), epsilon 1e-06"),
        ({"optimizer": "lion"}, "Lion, betas (0.9, 0.99)"),
        (
            {"optimizer": "muon"},
            "Muon for the hidden matrices (momentum 0.95, scale match_adamw), AdamW for the rest, betas (0.9, 0.999), epsilon 1e-06",
        ),
        (
            {"optimizer": "muon", "muon_lr": 2e-3, "muon_weight_decay": 0.0},
            "Muon for the hidden matrices (learning rate 0.002, momentum 0.95, scale match_adamw, weight decay 0), AdamW for the rest, "
            "betas (0.9, 0.999), epsilon 1e-06",
        ),
    ],
)
def test_the_optimizer_is_named_with_its_settings(training, words) -> None:
    assert _optimizer({f"training.{key}": value for key, value in asdict(TrainingConfig(**training)).items()}) == words


def test_a_checkpoint_older_than_the_choice_is_adamws() -> None:
    assert _optimizer(OLD) == "AdamW, betas (0.9, 0.999), epsilon 1e-06"
