"""Scores against examples computed by hand, and against plain loops that were written from the two published definitions."""

import math
import random
import re

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


def repository(prediction: str, answers: list[str]) -> tuple[float, float]:
    """Exact match and F1 by the patch of JGLUE's repository to transformers' squad_metrics, one character after the other."""

    def clean(text: str) -> str:
        text = text.lower()
        while text.endswith("。"):
            text = text[:-1]
        return " ".join(text.split())

    golds = [answer for answer in answers if clean(answer)] or [""]
    return max(float(clean(g) == clean(prediction)) for g in golds), max(by_hand(clean(g), clean(prediction)) for g in golds)


def scripts(prediction: str, answers: list[str]) -> tuple[float, float]:
    """By JGLUE-evaluation-scripts: ASCII spaces and the last 。 removed, characters apart, then torchmetrics' SQuAD."""

    def clean(text: str) -> list[str]:
        kept = "".join(c for c in text if c != " ")
        while kept.endswith("。"):
            kept = kept[:-1]
        lowered = " ".join(kept).lower()
        without = "".join(c for c in lowered if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        return [word for word in re.sub(r"\b(?:the|an|a)\b", " ", without).split() if word]

    found = clean(prediction)
    return max(float(clean(a) == found) for a in answers), max(by_hand(clean(a), found) for a in answers)


def by_hand(wanted, found) -> float:
    left, same = list(wanted), 0
    for one in found:
        if one in left:
            left.remove(one)
            same += 1
    if not len(wanted) or not len(found):
        return float(list(wanted) == list(found))
    if not same:
        return 0.0
    precision, recall = same / len(found), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


HOSTILE = ["", " ", "。", "。。", "\u3000", " 。", "。 ", "a", "A級", "級", "the", "285 km/h", "285km/h", "ｶﾞｷﾞ", "ガギ", "Ｗｅｂ",
           "Web", "京都。", "京都",
           "(京都)", "京\u3000都", "京\t都\n", "İ", "Σ", "ß", "か\u3099", "が", "[SEP]", "!?", "an apple", "𠮷野", "\u00a0x"]  # fmt: skip


def test_both_published_definitions_equal_plain_loops_on_hostile_and_random_answers() -> None:
    draw = random.Random(3)
    texts = HOSTILE + ["".join(draw.choices("aA 。.ガｶﾞ京都the　-1", k=draw.randint(0, 8))) for _ in range(300)]
    cases = [(p, [a]) for p in HOSTILE for a in HOSTILE]
    cases += [(draw.choice(texts), draw.choices(texts, k=draw.randint(1, 3))) for _ in range(1500)]
    for prediction, answers in cases:
        one = [prediction], [answers]
        exact, f1 = repository(prediction, answers)
        assert metrics.exact_match(*one) == exact and metrics.f1(*one) == pytest.approx(f1), (prediction, answers)
        exact, f1 = scripts(prediction, answers)
        assert metrics.scripts_exact_match(*one) == exact, (prediction, answers)
        assert metrics.scripts_f1(*one) == pytest.approx(f1), (prediction, answers)
    predictions, answers = [p for p, _ in cases], [a for _, a in cases]
    for constant in (predictions, [""] * len(cases), ["京都"] * len(cases)):
        for ours, theirs in (
            ((metrics.exact_match, metrics.f1), repository),
            ((metrics.scripts_exact_match, metrics.scripts_f1), scripts),
        ):
            exact, f1 = zip(*map(theirs, constant, answers), strict=True)
            assert ours[0](constant, answers) == pytest.approx(sum(exact) / len(cases))
            assert ours[1](constant, answers) == pytest.approx(sum(f1) / len(cases))


@pytest.mark.parametrize(
    "predicted,answers,in_repository,in_scripts",
    [
        ("285km/h", ["285 km/h"], 0, 1),
        ("級", ["A級"], 0, 1),
        ("(京都)", ["京都"], 0, 1),
        ("。", ["。", "東京"], 0, 1),  # an answer of which nothing is left does not count beside others in the repository
        ("", ["。"], 1, 1),
    ],
)
def test_the_two_definitions_differ_where_they_are_known_to(predicted, answers, in_repository, in_scripts) -> None:
    assert metrics.exact_match([predicted], [answers]) == in_repository
    assert metrics.scripts_exact_match([predicted], [answers]) == in_scripts


def test_matthews_correlation_is_that_of_the_four_counts() -> None:
    draw = random.Random(1)
    for _ in range(50):
        wanted, found = ([draw.randint(0, 1) for _ in range(12)] for _ in range(2))
        pairs = list(zip(found, wanted, strict=True))
        tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
        root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        assert metrics.matthews(found, wanted) == pytest.approx((tp * tn - fp * fn) / root if root else 0)


def test_the_best_of_several_answers_counts_and_questions_are_averaged() -> None:
    assert metrics.exact_match(["京都", "大阪"], [["奈良", "京都"], ["東京"]]) == 0.5
    assert metrics.f1(["京都", "大阪"], [["東京都", "奈良"], ["大坂"]]) == pytest.approx((0.8 + 0.5) / 2)
