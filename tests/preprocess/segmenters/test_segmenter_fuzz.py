"""Answers of segmenters that nobody foresaw: whatever a program prints, it is words that spell the sentence, or a reason."""

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from preprocess.config import SegmenterConfig
from preprocess.segmenters import Rejected, Segmenter
from preprocess.segmenters.base import spelled
from preprocess.segmenters.juman import SingleSentence, align
from preprocess.segmenters.jumanpp import SEPARATOR, Jumanpp, read_answers
from preprocess.segmenters.lines import MAX_BYTES, disguise, fragments

LETTERS = 'あ亜a1４．・ 　。、#@+*"<>\\ 𠮷か\u3099👨\u200d👩\ufeff'
LINE = st.text(st.sampled_from(LETTERS) | st.characters(codec="utf-8"), min_size=1, max_size=40)
LINES = st.lists(LINE.map(lambda line: " ".join(line.split())).filter(bool), min_size=1, max_size=5)
FIELDS = "x x 名詞 6 普通名詞 1 * 0 * 0 NIL"


@st.composite
def almost_right(draw) -> tuple[list[str], bytes]:
    """Lines and the answer of a good program to them, after some accidents."""
    lines = draw(LINES)
    answer = bytearray("".join("\x1f".join(line) + "\n" for line in map(disguise, lines)).encode())
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(answer))] * 2)))
        answer[start:end] = draw(
            st.sampled_from([b"", b"\n", b"\x1f", b"\xff", b"EOS\n"]) | st.just(bytes(answer[start:end]) * 2)
        )
    return lines, bytes(answer)


@given(almost_right() | st.tuples(LINES, st.binary(max_size=200)))
@example((["あい"], b"\xe3\x81\x1f\x82\xe3\x81\x84\n"))
@example((["あ"], b""))
@settings(max_examples=150, deadline=None)
def test_any_output_of_a_batch_is_accepted_only_if_it_spells_every_line(case: tuple[list[str], bytes]) -> None:
    lines, output = case
    fed = "".join(disguise(line) + "\n" for line in lines).encode()
    outcome = read_answers(fed, output, complaint=output)
    if isinstance(outcome, Rejected):
        assert outcome.reason == "mismatch" and outcome.detail and "\n" not in outcome.detail
        # Nothing that is right is turned away.
        assert output.replace(SEPARATOR, b"") != fed or "inside a character" in outcome.detail
    else:
        assert len(outcome) == len(lines)
        assert [words.replace(" ", "") for words in spelled(lines, outcome)] == [line.replace(" ", "") for line in lines]


class Printing:
    """Stands for pyknp's object of a program that prints the same thing whatever it is asked."""

    analyzer = None

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def juman_lines(self, _: str) -> str:
        return self.answer


@given(LINE, st.text(max_size=80) | st.lists(LINE).map(lambda rows: "".join(f"{row} {FIELDS}\n" for row in rows)))
@example("あ", f"@ @ {FIELDS}\nあ {FIELDS}\n")
@example("@", f"@ @ {FIELDS}\n")
@settings(max_examples=150, deadline=None)
def test_any_answer_to_a_single_sentence_spells_it_or_is_an_error_of_ours(line: str, answer: str) -> None:
    single = SingleSentence.__new__(SingleSentence)
    single._config, single._juman = SegmenterConfig(), Printing(answer)
    outcome = single._ask(line)
    if isinstance(outcome, Rejected):
        assert outcome.reason == "mismatch" and single._juman is None  # thrown away with whatever else it may hold
    else:
        assert "".join(align(line, answer)) == line


class Deaf(Jumanpp):
    """Juman++ whose process prints one thing for every batch."""

    def __init__(self, printed: bytes) -> None:
        self._config, self._printed = SegmenterConfig(), printed

    def _launch(self, batch):
        fed = "".join(f"{line}\n" for line in batch).encode()
        return lambda: read_answers(fed, self._printed)

    def _require_health(self) -> None:
        pass


@given(LINES, st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_halving_ends_with_one_answer_for_each_sentence_whatever_is_printed(sentences: list[str], printed: bytes) -> None:
    segmenter: Segmenter = Deaf(printed)
    answers = segmenter.segment(sentences)
    assert len(answers) == len(sentences)
    for sentence, answer in zip(sentences, answers, strict=True):
        assert isinstance(answer, Rejected) or "".join(answer) == "".join(sentence.split())
    assert segmenter.restarts <= 3 * len(sentences)


@given(st.lists(st.tuples(st.text(LETTERS, min_size=1, max_size=5), st.integers(1, 500)), max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_line_is_cut_into_fragments_that_the_program_can_bear_and_that_are_the_line(parts: list[tuple[str, int]]) -> None:
    line = "".join(unit * times for unit, times in parts)
    cut = fragments(line)
    assert "".join(cut) == line
    assert all(len(fragment.encode()) <= MAX_BYTES for fragment in cut)
    assert all(len(disguise(fragment).encode()) <= 4096 for fragment in cut if fragment)
    assert not any(re.search(r"(.{1,4}?)\1{40}", fragment) for fragment in cut)
    assert not any(re.search(r"[ぁ-ゖー]{101}|[ァ-ヺー]{101}|[一-鿿]{101}|[a-zA-Z]{101}", fragment) for fragment in cut)
