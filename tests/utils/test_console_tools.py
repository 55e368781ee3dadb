"""What people read: durations, tables, and log lines with one progress line below them."""

import io
import logging
import os

import pytest

from jadeberta.utils.durations import format_duration
from jadeberta.utils.logs import configure_console
from jadeberta.utils.progress_line import ConsoleHandler
from jadeberta.utils.text_table import format_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.35, "0.35 s"), (12.9, "12s"), (200, "3m 20s"), (7500, "2h 05m"), (36 * 86400 + 4 * 3600, "36d 04h")],
)
def test_durations_are_short(seconds, text) -> None:
    assert format_duration(seconds) == text


def test_a_table_is_plain_text_with_figures_on_the_right_and_no_cell_cut() -> None:
    text = format_table(["corpus", "tokens"], [["wikipedia", "1,200"], ["cc100 [x]" + "y" * 200, 7]], title="Shards")
    lines = text.splitlines()
    assert lines[0] == "Shards" and lines[1].split() == ["corpus", "tokens"]
    assert "cc100 [x]" + "y" * 200 in lines[-1] and lines[-1].endswith("    7") and lines[-2].endswith("1,200")
    assert "\x1b" not in text and all(line == line.rstrip() for line in lines)


class Terminal(io.StringIO):
    """A stream that says it is a terminal; its width comes from COLUMNS."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_keeps_the_progress_line_below_the_log_lines(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    handler = ConsoleHandler(stream := Terminal())
    handler.show("step 1")
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "saved", None, None))
    assert stream.getvalue() == "\r\x1b[Kstep 1" + "\r\x1b[K" + "saved\n" + "\r\x1b[Kstep 1"
    handler.show("y" * 100)
    assert stream.getvalue().endswith("\r\x1b[K" + "y" * 39)
    handler.close_line()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_terminal_without_a_width_is_a_log(monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda descriptor: os.terminal_size((0, 0)))
    monkeypatch.setattr(Terminal, "fileno", lambda self: 1)
    handler = ConsoleHandler(stream := Terminal(), log_seconds=0.0)
    handler.show("step 1")
    assert not handler.is_live and stream.getvalue() == "step 1\n"


def test_a_log_gets_progress_as_lines_and_not_too_many() -> None:
    often, seldom = (ConsoleHandler(io.StringIO(), log_seconds=s) for s in (0.0, 3600.0))
    for handler in (often, seldom):
        handler.show("step 1")
        handler.show("step 2")
    assert often.stream.getvalue() == "step 1\nstep 2\n" and seldom.stream.getvalue() == ""


def test_only_rank_0_has_a_console_and_a_second_call_replaces_it() -> None:
    log = logging.getLogger("jadeberta.somewhere")
    first, second = io.StringIO(), io.StringIO()
    configure_console(stream=first)
    configure_console(stream=second)
    log.info("hello")
    configure_console(is_root=False)
    log.info("not seen")
    assert (first.getvalue(), second.getvalue()) == ("", "hello\n")
