"""A card never shows the figures of some rows as if they were of all."""

import pytest

from jadeberta.release.card import _evaluation

FIGURES = {"accuracy": 0.5, "loss": 2.0, "unigram_accuracy": 0.1, "masked_tokens": 100, "sequences": 16}


def evaluation(**changes: object) -> dict:
    return {"mask_probability": 0.15, "corpora": {"web": FIGURES}, "all": FIGURES} | changes


def test_figures_of_all_held_out_rows_are_said_to_be_that() -> None:
    for whole in (evaluation(), evaluation(limit=0, sequences_available=16, is_partial=False, split="valid")):
        assert "\nMasked tokens of held-out documents (15% masked).\n" in _evaluation(whole)


@pytest.mark.parametrize("limit", [8, 0])
def test_figures_of_a_part_say_so_with_both_numbers(limit: int) -> None:
    text = _evaluation(evaluation(limit=limit, sequences_available=4096, is_partial=True))
    assert "**a part of the held-out documents**, 16 of 4,096 sequences" in text
    assert ("at most 8 of each corpus" in text) == bool(limit)


def test_figures_of_training_rows_are_not_called_held_out() -> None:
    assert "Masked tokens of training documents, not held-out ones" in _evaluation(evaluation(split="train"))
