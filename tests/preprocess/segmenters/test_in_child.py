"""A segmentation library that dies, hangs or fills memory costs only the guilty sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jadeberta.errors import SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters import Rejected, Segmenter, open_segmenter
from preprocess.segmenters.in_child import InChild
from preprocess.segmenters.mecab import MAX_CHARACTERS, MAX_RUN, fragments
from tests.helpers import ROOT


class Failing(InChild):
    name, remedy = "failing", "Install another one"
    engine = "tests.preprocess.segmenters.failing_engine:open_parser"
    description: ClassVar[dict[str, Any]] = {"engine": "failing"}  # type: ignore[misc]


def failing(**settings: Any) -> Failing:
    return Failing(SegmenterConfig(**{"timeout_seconds": 60.0, "memory_mib": 300, **settings}))


@pytest.mark.parametrize(
    ("way", "reason", "detail"),
    [
        *(("SEGV", "crash", "signal 11"), ("ABRT", "crash", "signal 6"), ("KILL", "crash", "signal 9")),
        *(("MEMORY", "crash", "ended with status 1 MemoryError"), ("BADALLOC", "crash", "signal 6")),
        *(("EXIT", "crash", "ended with status 0"), ("QUIT", "crash", "ended with status 0")),
        *(("HANG", "timeout", "no answer within"), ("TWO", "mismatch", "")),
    ],
)
def test_a_library_that_fails_costs_the_guilty_sentence_alone(way: str, reason: str, detail: str) -> None:
    sentences = [f"文{n}の語" for n in range(40)]
    sentences[0] = sentences[23] = f"悪い{way}文"
    with failing(timeout_seconds=1.2 if way == "HANG" else 60.0) as segmenter:
        answers = segmenter.segment(sentences)
        # For each of the two: the sentence alone twice, the sentences before it, and those behind it.
        assert segmenter.restarts <= 8
    for n, answer in enumerate(answers):
        if n in (0, 23):
            assert isinstance(answer, Rejected) and answer.reason == reason and detail in answer.detail
        else:
            assert answer == ["文", str(n), "の語"]


def test_what_a_library_prints_is_no_answer() -> None:
    with failing() as segmenter:
        assert segmenter.segment(["一PRINT", "二"]) == [["一PRINT"], ["二"]] and segmenter.restarts == 0


def test_a_library_that_cannot_be_loaded_is_an_error_of_the_stage_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_IS_BROKEN", "1")
    with pytest.raises(SegmenterError, match=r"^failing does not segment a plain sentence \(crash: .*no dictionary\)\. Install "):
        failing()


def test_a_library_may_load_for_longer_than_a_line_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_LOADS_SECONDS", "1")
    with failing(timeout_seconds=0.8) as segmenter:
        assert segmenter.segment(["一"]) == [["一"]] and segmenter.restarts == 0
    monkeypatch.setattr("preprocess.segmenters.in_child.START_SECONDS", 0.2)
    with pytest.raises(SegmenterError, match=r"timeout: not loaded within 0 s"):
        failing()


def test_the_child_is_found_from_any_directory_and_imports_nothing_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / "mmap.py").write_text("raise SystemExit('the wrong module')")
    code = f"import sys; sys.path[0] = {str(ROOT)!r}\nfrom tests.preprocess.segmenters.test_in_child import failing\n"
    code += "with failing() as segmenter: print(segmenter.segment(['一']))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[['一']]\n", done.stderr


def test_a_killed_child_is_started_again_and_costs_nothing() -> None:
    with failing() as segmenter:
        assert segmenter._process is not None
        segmenter._process._process.kill()
        assert segmenter.segment(["一", "二"]) == [["一"], ["二"]]
        assert 1 <= segmenter.restarts <= 3


def test_the_child_ends_with_its_parent_even_in_the_middle_of_a_line() -> None:
    code = "from tests.preprocess.segmenters.test_in_child import failing; s = failing()\n"
    code += "print(s._process._process.pid, flush=True); s.segment(['HANG'])"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    assert child.exists()
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while child.exists() and child.read_text().split(")")[1].split()[0] != "Z":
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.02)


def test_a_segmenter_that_nobody_holds_leaves_no_child() -> None:
    segmenter = failing()
    assert segmenter._process is not None
    process = segmenter._process._process
    del segmenter
    assert process.wait(20) == -signal.SIGKILL


def test_signals_of_the_job_do_not_reach_the_child() -> None:
    with failing() as segmenter:
        assert segmenter._process is not None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(segmenter._process._process.pid, number)
        assert segmenter.segment(["一"]) == [["一"]] and segmenter.restarts == 0


def test_children_that_fail_leave_no_descriptors() -> None:
    with failing() as segmenter:
        segmenter.segment(["一", "EXIT"])
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            segmenter.segment(["一", "EXIT", "二"])
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_lower_limits_of_the_host_stay_and_are_no_error() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); resource.setrlimit(resource.RLIMIT_CPU, (500, 500))\n"
    code += "from preprocess.segmenters.process import *\n"
    code += "from tests.preprocess.segmenters.test_in_child import failing; s = failing(memory_mib=3000)\n"
    code += "print(s.segment(['一']), run_limited(limited(['sh', '-c', 'ulimit -v; ulimit -t'], 3000, 9999), b'', 20)[:2])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"[['一']] (0, b'{2**20}\\n500\\n')\n", done.stderr


def test_an_interrupted_question_is_not_answered_to_the_next() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with failing() as segmenter:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                segmenter.segment(["HANG"])
            assert segmenter.segment(["一"]) == [["一"]]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_child_that_cannot_be_started_is_an_error_of_the_stage_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with failing() as segmenter:
        segmenter.close()
        monkeypatch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(
            SegmenterError, match=r"does not segment a plain sentence \(crash: no process .*temporarily unavailable"
        ):
            segmenter.segment(["一"])


def test_too_little_memory_for_the_dictionary_is_said_with_the_key() -> None:
    with pytest.raises(SegmenterError, match=r"mecab does not segment a plain sentence \(crash: .*memory_mib at 500 or more"):
        open_segmenter(SegmenterConfig(engine="mecab", memory_mib=60))


@pytest.fixture(scope="module")
def mecab():
    with open_segmenter(SegmenterConfig(engine="mecab")) as segmenter:
        yield segmenter


@pytest.mark.parametrize(
    "line",
    [
        "1" * 140_000,
        "あ" * 150_000,
        "ー" * 40_000,
        "アｱーア" * 10_000,
        "一二漢" * 15_000,
        "！😀" * 20_000,
        "1,2." * 20_000,
        "_" * 9000,
    ],
    ids=lambda line: f"{line[:4]}-{len(line)}",
)
def test_lines_on_which_mecab_dies_or_takes_quadratic_time_are_cut_and_get_words(mecab: Segmenter, line: str) -> None:
    before, restarts, cut = ["短い", "文"], mecab.restarts, mecab.cut_sentences
    first, words, last = mecab.segment(["短い文", line, "短い文"])
    assert first == last == before
    assert not isinstance(words, Rejected) and "".join(words) == line
    assert mecab.restarts == restarts and mecab.cut_sentences == cut + 1


def test_fragments_for_mecab_are_bounded_and_end_where_a_word_does() -> None:
    text = "京都の大学で、本を読む人がいた"
    for line in ("1" * 2500, text * 5000, "𠮷\u0301" * 20_000, " a" * 40_000):
        cut = fragments(line)
        assert "".join(cut) == line and len(cut) > 1
        assert all(len(fragment) <= MAX_CHARACTERS for fragment in cut)
        assert not any(fragment.startswith("\u0301") for fragment in cut)
    assert {fragment[-1] for fragment in fragments(text * 5000)[:-1]} == {"、"}
    assert fragments(text * (MAX_RUN // 10)) == [text * (MAX_RUN // 10)]
