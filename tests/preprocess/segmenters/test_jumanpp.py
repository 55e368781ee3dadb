"""Juman++: what goes through a batch unharmed, limits on the program, and single sentences against batches."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jadeberta.errors import SegmenterError
from preprocess.segmenters import Rejected, open_segmenter
from preprocess.segmenters.juman import SingleSentence, align
from preprocess.segmenters.jumanpp import Jumanpp, read_answers
from preprocess.segmenters.lines import MAX_BYTES, disguise, fragments
from preprocess.segmenters.process import limited, run_limited
from tests.preprocess.jumanpp_standin import COMMAND, ORDINARY, SEGMENT, config

TROUBLE = [
    *("# x", "# コメント", "#タグ", "## 見出し", "#", "@ x", "@", "@@ @", "+ x", "* x", "*", "EOS", "EOS EOS", '"最高"の気分'),
    *("<b>太字</b>", '"', "<>", "&lt;", "a b c", "𠮷野家で𩸽を食べる", "👨‍👩‍👧‍👦と🇯🇵", "か\u3099", "ｶﾞｷﾞ", "\ufeffBOM"),
    *("前\x00後", "前\x1b後", "ほげ4・", "３．", "\\", "\\t", "a\\ b", "％ ― ～"),
    *("文。" * 700, "あいうえお、" * 4000, "ｗ" * 1365, "ワク" * 500, "w " * 800, "x" * 70_000, "笑" * 41, "𠮷" * 2000),
    *("# " * 900, "前　後", " 先頭", "末尾 ", "タ\tブ", "前\u2028後", "前\x85後", "前\x0b後\x1f終", "改\n行"),
]
BLANK = ["", " ", "\u3000\t\n"]


def without_spaces(text: str) -> str:
    return "".join(text.split())


def test_trouble_lines_come_through_a_batch_whole():
    sentences = [*ORDINARY, *(s for pair in zip(TROUBLE, ORDINARY * len(TROUBLE), strict=False) for s in pair), *BLANK]
    with open_segmenter(config(batch_sentences=5000)) as segmenter:
        answers = segmenter.segment(sentences)
        assert segmenter.restarts == 0
    assert len(answers) == len(sentences)
    for sentence, words in zip(sentences, answers, strict=True):
        assert not isinstance(words, Rejected), (sentence[:40], words)
        assert "".join(words) == without_spaces(sentence)
        assert all(words) and not any(c.isspace() for word in words for c in word)


def test_lone_surrogate_is_rejected_and_nothing_else():
    with open_segmenter(config()) as segmenter:
        first, middle, last = segmenter.segment(["前の文。", "壊れ\ud83d文", "次の文。"])
    assert isinstance(middle, Rejected) and middle.reason == "encoding" and "character 3" in middle.detail
    assert "".join(first) == "前の文。" and "".join(last) == "次の文。"


def test_neither_batch_size_nor_neighbours_change_an_answer():
    sentences = [*ORDINARY, "長い行の１２３４５６７８９", "ほげ４．", "３・", *TROUBLE[:20], "九・", "ほげ４．"]
    with open_segmenter(config(batch_sentences=1)) as segmenter:
        alone = segmenter.segment(sentences)
    for order in (1, -1):
        for size in (7, 1000):
            with open_segmenter(config(batch_sentences=size)) as segmenter:
                assert segmenter.segment(sentences[::order])[::order] == alone


def test_hanging_program_is_killed_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        run_limited(["/bin/sh", "-c", f"sleep 3600 & echo $! > {pid}; wait"], b"", timeout=2)
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    # A killed process is still listed until the kernel and its new parent have got to it.
    deadline = time.monotonic() + 10
    while alive(status) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(status)


def test_of_a_program_that_closes_everything_and_goes_on_the_output_is_known():
    code = "import os, time; os.write(1, b'a\\n'); os.closerange(0, 256); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        run_limited([sys.executable, "-I", "-S", "-c", code], b"", timeout=1)
    assert raised.value.output == b"a\n"


def alive(status: Path) -> bool:
    try:
        return status.read_text().split()[2] != "Z"
    except OSError:
        return False


def test_large_input_and_output_do_not_block_each_other():
    data = os.urandom(1 << 22)
    assert run_limited(["cat"], data, timeout=30)[1] == data


def test_memory_limit_holds_and_cutting_repeats_stays_below_it():
    line = "ｗ" * 1365
    status, output, complaint = run_limited(limited([*COMMAND, *SEGMENT], 3000), f"{line}\n".encode(), timeout=30)
    assert status == -6 and not output and b"bad_alloc" in complaint
    with open_segmenter(config()) as segmenter:
        assert "".join(segmenter.segment([line])[0]) == line


@pytest.mark.parametrize("engine", [Jumanpp, SingleSentence])
def test_memory_limit_of_the_recipe_reaches_the_program(engine):
    with pytest.raises(SegmenterError, match="does not segment a plain sentence"):
        engine(config(memory_mib=5, timeout_seconds=4.0))


def test_fragments_are_short_lose_nothing_and_break_at_punctuation():
    for sentence in TROUBLE:
        line = " ".join(sentence.split())
        cut = fragments(line)
        assert "".join(cut) == line
        assert all(len(fragment.encode()) <= MAX_BYTES for fragment in cut)
        assert not any(re.search(r"(.{1,4}?)\1{40,}", fragment) for fragment in cut)
    assert {fragment[-1] for fragment in fragments("今日は天気です、" * 500)} == {"、"}
    assert fragments("普通の文。") == ["普通の文。"]


def test_disguise_gives_a_defined_successor_to_what_rc3_looks_beyond():
    assert [disguise(line) for line in ("# x", "ほげ4・", "３．", "千·", "4.", "4・5", "リンク・")] == [
        *("#　x", "ほげ4・　", "３．　", "千·　", "4.", "4・5", "リンク・")
    ]


def test_batch_with_one_line_too_few_is_refused_whole():
    assert isinstance(read_answers("い\nい\n".encode(), "い\n".encode()), Rejected)
    assert isinstance(read_answers("い\n".encode(), "い".encode()), Rejected)
    assert read_answers("あい\nう\n".encode(), "あ\x1fい\nう\n".encode()) == ["あ い", "う"]


def test_description_names_version_and_dictionary_though_rc3_exits_with_1():
    with open_segmenter(config()) as segmenter:
        assert segmenter.description == {
            "engine": "jumanpp",
            "version": "2.0.0-rc3",
            "dictionary": "stand-in / LM: script runs",
            "options": COMMAND[1:],
            "feeding": "pieces-4090-40-100",
        }


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-jumanpp", r"no-such-jumanpp: no such program\. Install Juman\+\+ .* mecab\."),
        ("cat", r"cat is not Juman\+\+ 2"),
        ("'jumanpp", r"cannot be read \(No closing quotation\)"),
    ],
)
def test_unusable_program_is_refused_in_one_sentence(command, message):
    with pytest.raises(SegmenterError, match=message):
        Jumanpp(config(command=command))


def test_single_sentences_get_the_words_of_the_batches():
    sentences = [*ORDINARY, *(s for s in TROUBLE if len(s) < 3000), "長い行の１２３４５６", "ほげ４．", *BLANK]
    with open_segmenter(config(batch_sentences=5000)) as batches, SingleSentence(config()) as single:
        assert [single(sentence) for sentence in sentences] == batches.segment(sentences)
        assert single.restarts == 0
        assert single.description == batches.description


def test_single_sentence_works_outside_the_main_thread_and_leaves_alarms_alone():
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with SingleSentence(config()) as single:
            ours = signal.getsignal(signal.SIGALRM)
            answers = []
            thread = threading.Thread(target=lambda: answers.extend(single.segment(ORDINARY)))
            thread.start()
            thread.join()
            assert answers == [single(sentence) for sentence in ORDINARY]
            assert signal.getsignal(signal.SIGALRM) is ours
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_align_maps_rewritten_tokens_back_and_refuses_another_sentence():
    fields = "x x 名詞 6 普通名詞 1 * 0 * 0 NIL"
    answer = f"” {fields}\n京都 {fields}\n@ 京都 {fields}\n@ @ {fields}\n　     特殊 1 空白 6 * 0 * 0 NIL\n#タグ {fields}\n"
    assert align('"京都@　#タグ', answer) == ['"', "京都", "@", "　", "#タグ"]
    for other in ("「京都@　#タグ", '"京都@　#タグ。', '"京都@　#タ'):
        with pytest.raises(ValueError, match="character"):
            align(other, answer)
