"""Units of whole words, windows, and what normalisation costs."""

import math

import numpy as np
import pytest

from jadeberta.compare.restoring import UNKNOWN_BITS, Restorer, flag_bits
from jadeberta.compare.text_units import (
    LONGEST_WORD,
    Unit,
    cut_long_units,
    cut_long_words,
    units_of,
    windows_of,
    words_by_script,
)
from preprocess.text import normalise


def words(text: str, numbers: np.ndarray) -> list[str]:
    edges = np.flatnonzero(np.diff(numbers)) + 1
    return [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)], strict=True)]


def test_words_by_script_are_runs_of_one_script() -> None:
    text = "コーヒーを3杯、時々New Yorkで飲む。"
    assert words(text, words_by_script(text)) == [
        "コーヒー",
        "を",
        "3",
        "杯",
        "、",
        "時々",
        "New",
        " ",
        "York",
        "で",
        "飲",
        "む",
        "。",
    ]
    assert words_by_script("").tolist() == []
    assert words("ﾒｰﾙ……。", words_by_script("ﾒｰﾙ……。")) == ["ﾒｰﾙ", "……", "。"]


def test_only_words_that_are_too_long_are_cut() -> None:
    sentence = "東京大学の研究室で自然言語処理を学ぶ"
    assert len(sentence) > LONGEST_WORD
    text = sentence + "東京は"
    numbers = np.array([0] * len(sentence) + [1] * 3)
    assert words(text, cut_long_words(numbers, text)) == [
        "東京大学",
        "の",
        "研究室",
        "で",
        "自然言語処理",
        "を",
        "学",
        "ぶ",
        "東京は",
    ]


def test_pieces_that_reach_over_two_words_join_them_and_lone_marks_go_with_the_next_piece() -> None:
    numbers = np.array([0, 0, 1, 1, 2, 3])
    spans = [(0, 0), (0, 1), (1, 3), (3, 4), (4, 4), (4, 5), (5, 6), (6, 6)]
    assert units_of(numbers, spans) == [Unit((0, 1, 2, 3), 0, 4), Unit((4, 5), 4, 5), Unit((6, 7), 5, 6)]
    assert units_of(numbers, [(0, 1), (0, 1), (1, 2)]) == [Unit((0, 1, 2), 0, 2)]  # bytes of one character
    assert units_of(numbers, [(0, 0)]) == []


@pytest.mark.parametrize(("pieces", "longest"), [(5, 10), (10, 10), (11, 10), (97, 10), (40, 1), (33, 8)])
def test_each_unit_is_in_one_window_and_has_its_context(pieces: int, longest: int) -> None:
    units = [Unit((place,), place, place + 1) for place in range(pieces)]
    found = windows_of(units, pieces, longest)
    assert sorted(member for *_, members in found for member in members) == list(range(pieces))
    for start, end, members in found:
        assert end - start == min(pieces, longest)
        for member in members:
            assert start <= member < end
            # At least a quarter of the window on each side, but at the ends of the text.
            assert start == 0 or member - start >= longest // 4
            assert end == pieces or end - 1 - member >= longest // 4 - 1


@pytest.mark.parametrize("longest", [1, 2, 3, 8, 9])
def test_every_piece_of_a_unit_that_is_longer_than_a_window_is_asked_once(longest: int) -> None:
    spans = [(place, place + 1) for place in range(41)]
    units = cut_long_units([Unit(tuple(range(40)), 0, 40), Unit((40,), 40, 41)], spans, longest)
    assert all(
        len(unit.pieces) <= max(1, longest // 2) and (unit.start, unit.end) == (unit.pieces[0], unit.pieces[-1] + 1)
        for unit in units
    )
    asked = [(start, end, units[member]) for start, end, members in windows_of(units, 41, longest) for member in members]
    assert sorted(piece for *_, unit in asked for piece in unit.pieces) == list(range(41))
    assert all(start <= unit.pieces[0] and unit.pieces[-1] < end for start, end, unit in asked)


def test_what_normalisation_changed_is_paid_for_and_plain_text_is_free() -> None:
    restorer = Restorer(normalise)
    assert restorer.changed("東京 は　広い。") == [] and restorer.changed("１は Ａ") == ["１", "Ａ"]
    # NFKC makes 1 of the full-width, superscript, circled ... ones.
    assert 3 < restorer.identity_bits(["１"]) < 8 < UNKNOWN_BITS
    assert restorer.identity_bits([]) == 0.0
    assert Restorer(str.lower).identity_bits(["A"]) == 0.0  # only one other character becomes a


def test_flags_cost_their_entropy_and_nothing_where_nothing_changed() -> None:
    assert flag_bits(np.zeros(2), np.array([5.0, 9.0])).tolist() == [0.0, 0.0]
    bits = flag_bits(np.array([2.0, 0.0]), np.array([4.0, 4.0]))
    assert bits.sum() == pytest.approx(8 * -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)))
    assert flag_bits(np.array([3.0]), np.array([3.0])).tolist() == [0.0]
