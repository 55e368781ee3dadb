"""A Juman++ that crashes, hangs, floods and lies costs only the guilty sentence, never the words of another."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.errors import SegmenterError
from preprocess.segmenters import Rejected, open_segmenter
from preprocess.segmenters.isolating import HURRY_AFTER
from preprocess.segmenters.juman import SingleSentence
from preprocess.segmenters.process import has_setpriv, limited, run_limited
from tests.helpers import ROOT
from tests.preprocess.jumanpp_standin import ORDINARY, config


def children() -> list[bytes]:
    """The command lines of this process's children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.append((process / "cmdline").read_bytes())
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        *(("ABORT", "crash"), ("HANG", "timeout"), ("VANISH", "mismatch"), ("TWICE", "mismatch"), ("NONSENSE", "mismatch")),
        *(("GARBAGE", "mismatch"), ("EAT", "crash"), ("FLOOD", "crash")),
    ],
)
def test_fault_costs_the_guilty_sentence_alone(monkeypatch, fault, reason):
    sentences = ["前の文。", "次の文。", "悪い文。", *ORDINARY]
    with open_segmenter(config()) as segmenter:
        healthy = segmenter.segment(sentences)
    monkeypatch.setenv(f"STANDIN_{fault}", "悪い")
    with open_segmenter(config(timeout_seconds=3.0 if fault == "HANG" else 20.0, memory_mib=400)) as segmenter:
        answers = segmenter.segment(sentences)
        assert segmenter.restarts > 0
    assert isinstance(answers[2], Rejected) and answers[2].reason == reason
    assert answers[:2] + answers[3:] == healthy[:2] + healthy[3:]


def test_fault_that_passes_costs_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("STANDIN_ABORT", "悪い")
    monkeypatch.setenv("STANDIN_ONCE", str(tmp_path / "died"))
    for sentences in (["悪い文。"], ["前の文。", "悪い文。", "次の文。"]):
        (tmp_path / "died").unlink(missing_ok=True)
        with open_segmenter(config()) as segmenter:
            answers = segmenter.segment(sentences)
            assert segmenter.restarts >= 1
        assert ["".join(words) for words in answers] == sentences


def test_a_file_of_hostile_lines_is_cut_before_it_can_cost_time_or_memory() -> None:
    # No repeats, but 1,365 characters of one script: each line whole would take gigabytes and half a minute.
    scripts = ("".join(map(chr, range(0x3041, 0x3097))), "".join(map(chr, range(0x30A1, 0x30FB))), "一二三四五六七八九十百千")
    hostile = [
        "".join(script[(n * n + n // 3) % len(script)] for n in range(1365 + at)) for at in range(130) for script in scripts
    ]
    hostile += ["ワク" * 400, "ワクワクドキ" * 200, "ﾊﾟｰ" * 400]
    with open_segmenter(config(batch_sentences=5000, memory_mib=400)) as segmenter:
        answers = segmenter.segment(hostile)
        assert (segmenter.restarts, segmenter.cut_sentences) == (0, len(hostile))
    assert all("".join(words) == line for line, words in zip(hostile, answers, strict=True))


def test_many_hostile_sentences_cost_two_processes_each_and_their_neighbours_nothing(monkeypatch) -> None:
    sentences = [f"{'悪い' if n % 5 == 2 else '良い'}文{n}。" for n in range(100)]
    with open_segmenter(config(batch_sentences=5000)) as segmenter:
        healthy = segmenter.segment(sentences)
        monkeypatch.setenv("STANDIN_ABORT", "悪い")
        answers = segmenter.segment(sentences)
        assert segmenter.restarts <= 2 * 20 + HURRY_AFTER
    for n, (answer, words) in enumerate(zip(answers, healthy, strict=True)):
        assert isinstance(answer, Rejected) if n % 5 == 2 else answer == words


def test_program_that_stops_working_ends_the_stage_instead_of_emptying_the_corpus(monkeypatch):
    with open_segmenter(config()) as segmenter:
        monkeypatch.setenv("STANDIN_ABORT", "。")
        with pytest.raises(SegmenterError, match=r"does not segment a plain sentence \(crash: .*signal 6.*Install Juman\+\+"):
            segmenter.segment(["前の文。", "次の文。"])


def test_program_that_crashes_now_and_then_gives_the_words_of_a_sound_one(monkeypatch):
    sentences = [f"{sentence}{number}" for number in range(10) for sentence in ORDINARY]
    with open_segmenter(config()) as segmenter:
        healthy = segmenter.segment(sentences)
    with open_segmenter(config()) as segmenter:
        monkeypatch.setenv("STANDIN_RANDOM", "0.05")
        answers = segmenter.segment(sentences)
    assert len(answers) == len(sentences)
    # Where the dice fell so that a sentence killed it twice in a row, alone, the sentence is named for it.
    assert all(a == h or (isinstance(a, Rejected) and a.reason == "crash") for a, h in zip(answers, healthy, strict=True))
    assert sum(isinstance(a, Rejected) for a in answers) <= 4


def test_program_that_died_at_its_start_is_started_again(monkeypatch, tmp_path):
    with open_segmenter(config()) as segmenter:
        monkeypatch.setenv("STANDIN_STILLBORN", "1")
        monkeypatch.setenv("STANDIN_ONCE", str(tmp_path / "died"))
        assert ["".join(words) for words in segmenter.segment(["前の文。", "次の文。"])] == ["前の文。", "次の文。"]
        assert segmenter.restarts == 2


def test_program_that_always_dies_at_its_start_is_refused_with_what_it_said(monkeypatch):
    monkeypatch.setenv("STANDIN_STILLBORN", "1")
    with pytest.raises(SegmenterError, match=r"does not segment a plain sentence \(crash: .*cannot load the model\)"):
        open_segmenter(config())


def test_next_groups_are_with_the_program_when_the_first_answers_are_read():
    taken = []
    groups = ([f"{number}番の文。"] for number in range(9) if taken.append(number) is None)
    with open_segmenter(config()) as segmenter:
        answers = segmenter.segment_groups(groups)
        assert next(answers) == ["0 番 の 文 。"]
        assert taken == [0, 1, 2]
        assert list(answers) == [[f"{number} 番 の 文 。"] for number in range(1, 9)]


def test_interrupted_segmenter_leaves_no_program_behind(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("STANDIN_HANG", "悪い")
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        # An hour: the test would not end in time if closing waited for the program.
        with pytest.raises(KeyboardInterrupt), open_segmenter(config(timeout_seconds=3600)) as segmenter:
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            segmenter.segment(["悪い文。"])
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert not [child for child in children() if b"standins/jumanpp" in child]


def test_program_in_an_endless_loop_is_ended_by_the_kernel_when_nobody_waits_for_it():
    done = subprocess.run(limited(["/bin/sh", "-c", "while :; do :; done"], memory_mib=100, processor_seconds=1), timeout=60)
    assert done.returncode in (-signal.SIGKILL, -signal.SIGXCPU)


def test_a_program_that_hangs_ends_with_its_killed_stage() -> None:
    if not has_setpriv():
        pytest.skip("no setpriv that knows --pdeathsig on this host")
    code = "from preprocess.segmenters.process import *\n"
    code += "run_limited(limited(['sleep', '3600'], 100), b'', 3600, lambda process: print(process.pid, flush=True))"
    stage = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert stage.stdout is not None
    program = Path(f"/proc/{int(stage.stdout.readline())}")
    deadline = time.monotonic() + 20
    while b"sleep" not in (program / "cmdline").read_bytes()[:5] and time.monotonic() < deadline:
        time.sleep(0.01)
    stage.kill()
    stage.wait()
    while (program / "stat").exists() and (program / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline, "the program outlived its stage"
        time.sleep(0.01)


def test_a_program_writes_no_core_dump_and_is_the_first_that_the_kernel_ends_for_memory() -> None:
    _, output, _ = run_limited(limited(["sh", "-c", "ulimit -c; cat /proc/self/oom_score_adj"], 100), b"", timeout=20)
    assert output == b"0\n1000\n"


def test_late_answer_is_not_taken_for_the_next_sentence(monkeypatch):
    monkeypatch.setenv("STANDIN_LATE", "遅い")
    monkeypatch.setenv("STANDIN_LATE_SECONDS", "2.5")
    with SingleSentence(config(timeout_seconds=4.0)) as single:
        assert isinstance(single("遅い文。"), Rejected)
        assert "".join(single("次の文。")) == "次の文。"
        assert "".join(single("犬。")) == "犬。"


def test_single_sentence_survives_a_crash(monkeypatch, tmp_path):
    monkeypatch.setenv("STANDIN_ABORT", "悪い")
    monkeypatch.setenv("STANDIN_ONCE", str(tmp_path / "died"))
    with SingleSentence(config(timeout_seconds=4.0)) as single:
        assert "".join(single("悪い文。")) == "悪い文。"
        assert single.restarts == 1
