"""An error class says itself whether another attempt can succeed, and both launch paths read it there."""

import gc
import io
import logging
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jadeberta import errors
from jadeberta.jobs import local_launcher
from jadeberta.jobs.requeue_policy import Ending, Limits, decide
from jadeberta.utils.progress_line import ConsoleHandler


@pytest.mark.parametrize(
    "status,retryable",
    [
        (1, True),  # unforeseen
        (2, False),  # the recipe or the command line is wrong
        (3, False),  # nothing to resume
        (10, False),  # STOP
        (11, True),  # requeue
        (12, True),  # a rank hung or was lost
        (13, False),  # the numbers cannot be trusted
        (-9, True),
        (-15, True),
        (-11, True),
        (137, True),
        (143, True),
        (139, True),
    ],
)
def test_another_attempt_follows_where_it_can_succeed(status: int, retryable: bool) -> None:
    assert errors.is_retryable(status) is retryable


def test_classes_with_one_status_agree_on_whether_it_is_retryable() -> None:
    classes = list(errors._classes(errors.JadebertaError))
    assert len(classes) > 10
    assert {(c.exit_status, c.retryable) for c in classes} == {
        (s, errors.is_retryable(s)) for s in {c.exit_status for c in classes}
    }


@pytest.fixture
def new_final_status() -> Iterator[int]:
    """The status of an error class that only this test knows."""

    class LicenceExpired(errors.JadebertaError):
        exit_status = 99
        retryable = False

    yield LicenceExpired.exit_status
    del LicenceExpired
    gc.collect()  # a class lives in cycles; `is_retryable` would still find it


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes the local launcher run `sh -c TEXT` in an empty directory; the test keeps its own signal handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return lambda text: monkeypatch.setattr(local_launcher, "COMMAND", ["sh", "-c", text])


def test_a_new_final_error_stops_the_slurm_job_and_the_local_launcher(new_final_status, commands) -> None:
    decision = decide(Ending(new_final_status, False), [], Limits(3, 2, 24.0), "requeue")
    assert (decision.action, decision.status) == ("stop", new_final_status)

    commands(f"echo x >> attempts; exit {new_final_status}")
    assert local_launcher.launch(1, [], restarts=5) == new_final_status
    assert Path("attempts").read_text() == "x\n"


def test_a_status_that_no_class_has_is_tried_again_on_both_paths(commands) -> None:
    assert decide(Ending(99, False), [], Limits(3, 2, 24.0), "requeue").action == "requeue"

    commands("echo x >> attempts; exit 99")
    assert local_launcher.launch(1, [], restarts=2) == 99
    assert Path("attempts").read_text() == "x\n" * 3


def test_an_error_is_one_line_whatever_its_path_holds() -> None:
    error = errors.InputError(f"{Path(chr(10).join('ab'))}: \x1b[2J \u202e東京\r\x85\u2028。", "corpora:", "  a\tb")
    assert str(error) == "a\\nb: \\x1b[2J \\u202e東京\\r\\x85\\u2028。\ncorpora:\n  a\\tb"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_path_in_a_log_line_begins_no_line() -> None:
    stream = io.StringIO()
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%s:\n%s", (Path("x\ny"), "lines\nof text"), None)
    ConsoleHandler(stream).emit(record)
    assert stream.getvalue() == "x\\ny:\nlines\nof text\n"
