"""A page at which the parser of HTML dies costs that page alone."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jadeberta.errors import ConfigError
from preprocess.readers.html.page_reader import HtmlReader
from tests.preprocess.web_files import page


class Failing(HtmlReader):
    engine = "tests.preprocess.readers.html.failing_pages:open_parser"


@pytest.fixture(scope="module")
def reader() -> Iterator[Failing]:
    failing = Failing()
    yield failing
    failing.close()


@pytest.mark.parametrize("word, said", [("SEGV", "signal 11"), ("KILL", "signal 9"), ("MEMORY", "MemoryError")])
def test_a_page_at_which_the_parser_dies_is_dropped_and_the_next_one_is_read(
    reader: Failing, caplog: pytest.LogCaptureFixture, word: str, said: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert reader.web_page(page(1, f"{word}の文。"), "", "a.warc: record 7") == ("unparsable", "", "")
    assert "a.warc: record 7: dropped as unparsable" in caplog.text and said in caplog.text
    assert reader.web_page(page(2, "次の文。"), "", "") == ("", "題2", "次の文。")


def test_a_page_that_keeps_the_parser_busy_is_dropped_after_its_time_and_not_tried_again(
    reader: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.process_time()
    reason, _, losses = reader.article("<form><div></form>" * 60_000, "b.ndjson: line 3")
    assert (reason, losses) == ("unparsable", None) and "b.ndjson: line 3" in caplog.text and "processor time" in caplog.text
    assert time.process_time() - began < 1 and reader.article("<p>次の文。", "")[1] == "次の文。"


def test_a_page_at_which_the_parser_was_ended_once_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAILED_ONCE", str(tmp_path / "failed"))
    reader = Failing()
    assert reader.web_page(page(1, "ONCEの文。"), "", "")[2] == "ONCEの文。" and (tmp_path / "failed").exists()
    reader.close()
    assert caplog.text == ""


def test_a_parser_that_cannot_be_loaded_is_one_sentence() -> None:
    reader = Failing()
    reader.engine = "tests.preprocess.readers.html.failing_pages:broken"
    with pytest.raises(ConfigError, match=r"resiliparse, which parses HTML, does not work \(.*no shared object\)"):
        reader.web_page(page(1, "文。"), "", "")
