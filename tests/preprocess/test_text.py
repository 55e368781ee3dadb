"""What a sentence is: normalisation and splitting."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.text import MOST_MARKS, normalise, split_sentences

AWKWARD = "▁。！？!?.．…♪「」『』（）()[]【】 　\n\r\u2028\u2029\x85\t\x00\u00a0\ufeff\u200b\ud800かｶﾞ゙㌔①Ａ1.aé\u0301"
any_text = st.text(alphabet=st.one_of(st.characters(), st.sampled_from(AWKWARD)), max_size=80)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("ＡＢＣ１２３", "ABC123"),
        ("ｶﾞｷﾞ㌔①", "ガギキロ1"),
        ("前　後", "前 後"),
        ("前\u00a0\u2003\t 後", "前 後"),
        ("前\u2028後\u2029末\x85尾\n終", "前 後 末 尾 終"),
        ("\ufeff前\ufeff後\u200b末", "前 後 末"),
        ("前\x00\x1f\x7f\x9f後", "前 後"),
        ("▁前▁▁後 ▁", "前 後"),
        ("  両端　", "両端"),
        ("か\ud800き", "かき"),
        ("\u3000", ""),
    ],
)
def test_a_line_becomes_nfkc_with_single_spaces(raw: str, normal: str) -> None:
    assert normalise(raw) == normal


@given(any_text)
def test_normalised_text_is_stable_and_holds_no_space_but_the_half_width_one(text: str) -> None:
    normal = normalise(text)
    assert normalise(normal) == normal
    assert not [c for c in normal if c != " " and (unicodedata.category(c) in ("Cc", "Cs", "Zs", "Zl", "Zp") or c in "\ufeff▁")]
    assert "  " not in normal and normal == normal.strip()


MARKS = "\u0301\u0316\u3099ﾞ\u0344\u0958\U00010a0f\u0327aか"


@given(st.text(st.sampled_from(MARKS), max_size=120), st.text(st.sampled_from(MARKS[:4]), min_size=20, max_size=90))
@settings(max_examples=50, deadline=None)
def test_marks_of_one_letter_are_bounded_as_in_stream_safe_text_and_few_marks_stay_as_they_are(text: str, run: str) -> None:
    for raw in (text, "e" + run + text):
        normal = normalise(raw)
        runs = "".join("m" if unicodedata.combining(c) else " " for c in normal).split()
        assert max(map(len, runs), default=0) <= MOST_MARKS
        assert normalise(normal) == normal and split_sentences(raw) == [normal] * bool(normal)
        # Nothing is lost, and a text is changed only where a run is too long.
        unbounded = unicodedata.normalize("NFKC", raw)
        runs = "".join("m" if unicodedata.combining(c) else " " for c in unicodedata.normalize("NFKD", raw)).split()
        if max(map(len, runs), default=0) <= MOST_MARKS:
            assert normal == unbounded
        assert sorted(unicodedata.normalize("NFKD", normal.replace("\u034f", ""))) == sorted(unicodedata.normalize("NFKD", raw))


def test_a_page_of_combining_marks_gives_the_normaliser_no_run_that_it_would_sort_in_quadratic_time(monkeypatch) -> None:
    given_runs: list[int] = []

    class Watched:
        combining = staticmethod(unicodedata.combining)

        @staticmethod
        def normalize(form: str, text: str) -> str:
            marks = "".join("m" if unicodedata.combining(c) else " " for c in text).split()
            given_runs.append(max(map(len, marks), default=0))
            return unicodedata.normalize(form, text)

    monkeypatch.setattr("preprocess.text.unicodedata", Watched)
    page = "a" + "\u0301\u0316" * 5000 + "\n" + "\u0323" * 3000 + "\u0307" * 3000
    assert len(split_sentences(page)) == 2 and len(normalise(page)) > 16_000
    assert max(given_runs) == MOST_MARKS


@given(any_text)
def test_sentences_together_are_the_normalised_text_without_its_spaces(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences).replace(" ", "") == normalise(text).replace(" ", "")
    assert all(sentence and sentence == normalise(sentence) for sentence in sentences)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("今日は晴れ。明日は雨。", ["今日は晴れ。", "明日は雨。"]),
        ("本当！？嘘だ！", ["本当!?", "嘘だ!"]),
        ("行く…そして帰る♪また☆来る★", ["行く...", "そして帰る♪", "また☆", "来る★"]),
        ("論文である．次に進む．", ["論文である.", "次に進む."]),
        ("一行目\n二行目\r\n三行目\u2028四行目", ["一行目", "二行目", "三行目", "四行目"]),
        ("\n\n　\n", []),
        ("…そうか。", ["...そうか。"]),
        ("1. 概要です。", ["1. 概要です。"]),
    ],
)
def test_text_is_split_after_marks_that_end_a_sentence_and_at_newlines(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("opening, closing", ["（）", "()", "「」", "『』", "【】", "［］", "〈〉", "《》", "“”", "｢｣"])
def test_a_mark_inside_brackets_does_not_split(opening: str, closing: str) -> None:
    text = f"彼は{opening}行く。帰る！{closing}と言った。次。"
    assert split_sentences(text) == [normalise(f"彼は{opening}行く。帰る！{closing}と言った。"), "次。"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("「あ（い。う）え。お」か。き。", ["「あ(い。う)え。お」か。", "き。"]),
        ("（半角で閉じる。)続き。次。", ["(半角で閉じる。)続き。", "次。"]),
        ("彼は「開いたまま。次の文。", ["彼は「開いたまま。", "次の文。"]),
        ("「開いたまま\n次の文。その次」と。", ["「開いたまま", "次の文。", "その次」と。"]),
        ("前の行から続く。」次の文。", ["前の行から続く。」", "次の文。"]),
        ("「あ（い」う。え）お。", ["「あ(い」う。", "え)お。"]),
    ],
)
def test_unbalanced_brackets_swallow_nothing(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("text", ["Yahoo!ニュースを読む", "円周率は3.14だ", "node.jsを使う", "円周率は３．１４だ", "a?b=cを開く"])
def test_an_ascii_mark_inside_a_word_does_not_split(text: str) -> None:
    assert split_sentences(text) == [normalise(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It works. 次に進む", ["It works.", "次に進む"]),
        ("本当? いいえ", ["本当?", "いいえ"]),
        ("すごい!\nはい", ["すごい!", "はい"]),
        ("終わり!」次", ["終わり!」", "次"]),
    ],
)
def test_an_ascii_mark_splits_before_a_space_a_line_end_or_a_closing_bracket(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.lists(any_text.map(lambda text: text.strip("\r\n")), max_size=4))
def test_a_text_has_the_sentences_of_its_lines(lines: list[str]) -> None:
    together = split_sentences("\n".join(lines))
    assert together == [sentence for line in lines for sentence in split_sentences(line)]


def test_each_character_comes_out_of_a_whole_text_as_it_does_alone() -> None:
    breaking = set("\n\r\x85\u2028\u2029") | set("。｡！？♪♫☆★…‥⁇⁈⁉‼!?.．")
    characters = [c for c in map(chr, range(0x30000)) if c not in breaking and not "\ud800" <= c < "\ue000"]
    lines = [f"か{c}き{c}{c} {c}" for c in characters]
    assert split_sentences("\n".join(lines)) == [normalise(line) for line in lines]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "「" * 300_000 + "）" * 300_000, "1。" * 500_000, "「あ。" * 200_000,
        "（" * 100_000 + "」。" * 100_000 + "）", " " * 10**6, "（「" * 200_000 + "）" * 200_000,
    ],
    ids=["unlike brackets", "no letters", "never closed", "closed by others", "spaces", "crossed"],
)  # fmt: skip
def test_the_time_for_a_line_grows_no_faster_than_the_line(text: str) -> None:
    # Each takes about half a second; looking back from every mark or bracket takes hours.
    assert "".join(split_sentences(text)) == normalise(text)
