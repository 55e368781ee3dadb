"""Intervals by document: as wide as theory says, paired by the seed, and none where there is nothing to resample."""

import numpy as np
import pytest

from jadeberta.evaluation.bootstrap import ratio_intervals, resampled_sums


def test_documents_of_one_token_give_the_binomial_interval() -> None:
    correct = np.arange(400) < 100
    sums = np.stack([correct, np.ones(400)], axis=1).astype(float)
    low, high = ratio_intervals([sums], {"accuracy": 0}, 1)["accuracy"] or (0, 0)
    error = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - error, 0.25 + error), abs=0.006)


def test_documents_that_are_all_right_or_all_wrong_give_a_wider_interval_than_their_tokens() -> None:
    def width(documents: int, tokens: int) -> float:
        sums = np.stack([tokens * (np.arange(documents) % 2), np.full(documents, tokens)], axis=1).astype(float)
        low, high = ratio_intervals([sums], {"accuracy": 0}, 1)["accuracy"] or (0, 0)
        return high - low

    assert width(50, 20) == pytest.approx(width(1000, 1) * np.sqrt(20), rel=0.15)


def test_each_corpus_keeps_its_number_of_documents() -> None:
    strata = [np.array([[1.0, 0.0]] * 5), np.array([[0.0, 1.0]] * 7)]
    assert (resampled_sums(strata, 50) == [5.0, 7.0]).all()


def test_equal_documents_are_drawn_alike_for_two_models() -> None:
    one = np.random.default_rng(0).random((30, 2))
    both = resampled_sums([np.concatenate([one, one], axis=1)], 20)
    assert (both[:, :2] == both[:, 2:]).all() and both[:, 0].std() > 0
    assert resampled_sums([one], 20) == pytest.approx(both[:, :2])


def test_one_document_has_no_interval() -> None:
    nothing = np.zeros((3, 2))
    assert ratio_intervals([np.array([[1.0, 2.0]]), nothing], {"accuracy": 0}, 1) == {"accuracy": None}


def test_files_of_one_document_each_are_not_called_certain() -> None:
    low, high = ratio_intervals([np.array([[1.0, 4.0]]), np.array([[3.0, 4.0]])], {"accuracy": 0}, 1)["accuracy"] or (0, 0)
    assert low < high
