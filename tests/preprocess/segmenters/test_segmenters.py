"""What every engine promises behind the one interface, with MeCab as the engine that is always there."""

import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jadeberta.errors import ConfigError, SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters import Rejected, Segmenter, open_segmenter
from preprocess.segmenters.base import spelled
from preprocess.text import normalise

STANDINS = Path(__file__).parents[2] / "standins"
JUMAN = shlex.join([sys.executable, "-I", "-S", str(STANDINS / "juman")])
CURIOUS = [
    *("# x", "EOS", "@ x", "+ x", "*", '"<>"', "%", "\\", "a b", "a　b", "改\n行", "\u2028"),
    *("👨‍👩‍👧‍👦", "𠮷", "か\u3099", "\ufeff"),
]
SOME_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(CURIOUS) | st.text('あア亜a1 　。#@"<>\0\t', max_size=12)


@pytest.fixture(scope="module")
def mecab():
    with open_segmenter(SegmenterConfig(engine="mecab")) as segmenter:
        yield segmenter


def test_mecab_cuts_japanese_into_words(mecab: Segmenter):
    assert mecab.segment(["外国人が京都大学で自然言語処理を研究する。"]) == [
        ["外国", "人", "が", "京都", "大学", "で", "自然", "言語", "処理", "を", "研究", "する", "。"]
    ]


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        (
            "でっち奉公は過労と屈辱の日が続いた。",
            ["でっ", "ち", "奉公", "は", "過労", "と", "屈辱", "の", "日", "が", "続いた", "。"],
        ),
        ("でっくりと小肥りで𠮷", ["でっ", "くり", "と", "小", "肥", "り", "で", "𠮷"]),
    ],
)
def test_character_that_the_dictionary_cuts_in_two_is_joined_again(mecab: Segmenter, sentence: str, words: list[str]):
    assert mecab.segment([sentence, "次の文。"]) == [words, ["次の", "文", "。"]]


def test_description_names_the_dictionary(mecab: Segmenter):
    assert mecab.description["engine"] == "mecab"
    assert "751185 entries" in mecab.description["dictionary"]
    assert set(mecab.description) == {"engine", "version", "dictionary", "options"}


@given(st.lists(SOME_TEXT, max_size=6))
@example(["x" * 70_000, "", "あ" * 23_000])
@settings(max_examples=100, deadline=None)
def test_words_spell_the_sentence_or_it_is_rejected(mecab: Segmenter, sentences: list[str]):
    answers = mecab.segment(sentences)
    assert len(answers) == len(sentences)
    for sentence, answer in zip(sentences, answers, strict=True):
        if isinstance(answer, Rejected):
            assert answer.reason == ("encoding" if any("\ud800" <= c <= "\udfff" for c in sentence) else "mismatch")
            assert answer.detail
        else:
            assert "".join(answer) == "".join(sentence.split())
            assert all(answer) and not any(c.isspace() for word in answer for c in word)


@given(st.lists(st.text(), max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_normalised_sentence_is_rejected(mecab: Segmenter, texts: list[str]):
    assert not any(isinstance(answer, Rejected) for answer in mecab.segment([normalise(text) for text in texts]))


@given(st.lists(st.sampled_from([*CURIOUS, "今日は", "良い天気", "3."]), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_an_answer_does_not_depend_on_its_neighbours(mecab: Segmenter, sentences: list[str], at: int):
    at %= len(sentences)
    assert mecab.segment(sentences)[at] == mecab.segment([sentences[at]])[0]


def test_line_that_mecab_would_cut_short_is_rejected_with_its_place(mecab: Segmenter):
    before, cut, after = mecab.segment(["前", "前\0後", "後"])
    assert cut == Rejected("mismatch", "words differ from the sentence at character 2: ''")
    assert (before, after) == (["前"], ["後"])


def test_words_that_contain_a_space_are_parted():
    assert spelled(["New York"], [" New\u3000\u3000York "]) == ["New York"]
    assert all(isinstance(answer, Rejected) for answer in spelled(["ab", "ab"], ["a c", "a b c"]))


def test_juman_gives_the_words_of_its_output():
    with open_segmenter(SegmenterConfig(engine="juman", command=JUMAN)) as juman:
        answers = juman.segment(["今日は 良い天気。", "# x", "#タグ", '"<>"', "@ @", "前\0後", "", "文。" * 700])
        assert answers[:5] == [
            ["今日", "は", "良", "い", "天気", "。"],
            ["#", "x"],
            ["#", "タグ"],
            ['"', "<", ">", '"'],
            ["@", "@"],
        ]
        assert isinstance(answers[5], Rejected)
        assert answers[6:] == [[], ["文", "。"] * 700]
        assert juman.description["version"] == "juman 7.0"


def test_juman_with_an_empty_dictionary_is_refused(monkeypatch):
    monkeypatch.setenv("STANDIN_EMPTY_DICTIONARY", "1")
    with pytest.raises(SegmenterError, match=r"answer ends at character 1.*Debian's package has an empty dictionary.*mecab"):
        open_segmenter(SegmenterConfig(engine="juman", command=JUMAN))


@pytest.mark.parametrize("engine", ["jumanpp", "juman"])
def test_missing_program_is_an_error_and_never_another_engine(monkeypatch, engine):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SegmenterError, match=rf"^{engine}: no such program\. Install .* another preprocess.segmenter.engine"):
        open_segmenter(SegmenterConfig(engine=engine))


def test_command_given_to_mecab_is_refused_rather_than_ignored():
    with pytest.raises(ConfigError, match=r"preprocess\.segmenter\.command 'mecab -d x' is for jumanpp and juman"):
        open_segmenter(SegmenterConfig(engine="mecab", command="mecab -d x"))
