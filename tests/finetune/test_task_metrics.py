"""Scores against examples computed by hand."""

import math

import pytest

from jadeberta.finetune import task_metrics as metrics


def test_pearson_and_spearman_are_those_computed_by_hand() -> None:
    # Deviations -1 0 1 and -7/3 -1/3 8/3: 5 over the root of 2 * 114/9.
    assert metrics.pearson([1, 2, 3], [2, 4, 7]) == pytest.approx(5 / math.sqrt(2 * 114 / 9))
    assert metrics.ranks([10, 20, 20, 40]) == [1, 2.5, 2.5, 4]
    # Ranks 1 2.5 2.5 4 and 1 3 2 4: 4.5 over the root of 4.5 * 5.
    assert metrics.spearman([10, 20, 20, 40], [1, 3, 2, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert metrics.spearman([1, 2, 3], [1, 100, 1000]) == pytest.approx(1) and metrics.pearson([1, 2], [5, 3]) == pytest.approx(
        -1
    )


def test_a_constant_prediction_correlates_with_nothing() -> None:
    for value in (2, 0.1, 1e-300, 1e300):  # the mean of three times 0.1 is not 0.1
        assert metrics.pearson([value] * 3, [1, 2, 3]) == metrics.spearman([1, 2, 3], [value] * 3) == 0


def test_what_is_no_number_correlates_with_no_number() -> None:
    assert math.isnan(metrics.spearman([math.nan, 1, 2], [1, 2, 3])) and math.isnan(metrics.pearson([1, 2, 3], [1, math.inf, 3]))


def test_accuracy_is_the_share_of_equal_pairs() -> None:
    assert metrics.accuracy([0, 1, 2, 1], [0, 1, 1, 1]) == 0.75


@pytest.mark.parametrize(
    "predicted,answer,equal,f1",
    [
        ("東京都", "京都", False, 0.8),  # 2 of 3 and 2 of 2 characters
        ("京都", "京都", True, 1),
        ("京都。", "京都", True, 1),
        (" Wi-Fi  6 ", "wi-fi 6", True, 1),
        ("(京都)", "京都", False, 2 / 3),  # punctuation stays: 2 of 4 and 2 of 2
        ("ああい", "あい", False, 0.8),  # a character counts as often as it stands there
        ("", "京都", False, 0),
        ("。", "", True, 1),
    ],
)
def test_answers_are_compared_as_jglues_authors_do(predicted, answer, equal, f1) -> None:
    assert metrics.exact_match([predicted], [[answer]]) == float(equal)
    assert metrics.f1([predicted], [[answer]]) == pytest.approx(f1)


def test_the_best_of_several_answers_counts_and_questions_are_averaged() -> None:
    assert metrics.exact_match(["京都", "大阪"], [["奈良", "京都"], ["東京"]]) == 0.5
    assert metrics.f1(["京都", "大阪"], [["東京都", "奈良"], ["大坂"]]) == pytest.approx((0.8 + 0.5) / 2)
