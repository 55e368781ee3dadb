"""The benchmark of segmentation compares ways that give the same words; how fast they are is the machine's."""

import math
import os
from pathlib import Path

import pytest

from bench.preprocess import segmentation_speed as bench

TEXTS = ["京都大学で自然言語処理を研究する。今日は 良い 天気です。", "外国人参政権。３・\n# 見出し\n4・", "雨の日。" * 20]


@pytest.fixture
def text(tmp_path: Path) -> bench.Text:
    return bench.Text(tmp_path / "text", TEXTS, most=25)


def test_every_way_has_the_same_sentences_without_those_that_hang_the_bare_program(text: bench.Text) -> None:
    assert text.details["sentences"] == len(text.sentences) == 25
    assert not any(sentence.startswith("# ") for sentence in text.sentences)


@pytest.mark.parametrize("rows_of", [bench.mecab_rows, bench.jumanpp_rows])
def test_stage_and_bare_program_agree_on_every_word(text: bench.Text, rows_of) -> None:
    rows = rows_of(text, 1)
    assert all(math.isfinite(row.value) for row in rows)
    assert [row.target for row in rows][:1] == [0.90]
    with pytest.raises(AssertionError):
        text.require_words_of(text.pipe(["tr", "。", "、"]))


def test_stage_and_pyknp_take_turns_on_all_cores_and_on_one(text: bench.Text, tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    rows = bench.single_rows(text, 1, tmp_path)
    assert [row.target for row in rows] == [1.8, None, 1.8, 1.8]
    assert all(set(row.details["rounds"]) == {"pyknp", "stage"} and row.value > 0 for row in rows)
    assert os.sched_getaffinity(0) == cores and "PACE" not in os.environ
