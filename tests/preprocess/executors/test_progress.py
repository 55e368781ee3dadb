"""What is shown of all ranks: from their accounts to the one line, the table of `status`, and who is alive."""

import io
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.shards import ConfigError, DirectoryLock, holder_of
from preprocess.executors import progress
from preprocess.executors.counters import FOR_ALL, WINDOW_SECONDS, Account, State
from preprocess.executors.progress import Reporter, Screen, Seen, clear, describe, read_ranks, summarise
from preprocess.job_status import describe_directory, read_table
from tests.helpers import ROOT
from tests.preprocess.conftest import Made
from tests.preprocess.executors.test_task_queue import Clock


def seen(name: str, alive: bool = True, **values: object) -> Seen:
    return Seen(name, alive, State(**({"stage": "segment", "call": 1, "pieces": 10, "weight": 1000.0} | values)))  # type: ignore[arg-type]


def test_an_account_knows_pieces_counts_and_the_rates_of_the_last_minute() -> None:
    clock = Clock()
    account = Account(clock)
    account.open_stage("segment")
    account.open_call([100, 50])
    account.state()
    account.begin(0, "a part")
    clock.now = 10
    account.count(documents=2, sentences=30, bytes=400)
    state = account.state()
    assert (state.stage, state.call, state.pieces, state.weight) == ("segment", 1, 2, 150)
    assert (state.piece, state.piece_seconds, state.piece_weight_done) == ("a part", 10, 100), "never more than the piece weighs"
    assert state.counts == {"documents": 2, "sentences": 30, "bytes": 400} and state.rates["sentences"] == 3
    account.end()
    clock.now += WINDOW_SECONDS
    account.state()
    clock.now += 10
    state = account.state()
    assert (state.piece, state.pieces_done, state.weight_done, state.rates["sentences"]) == ("", 1, 100, 0)


def test_all_ranks_together_in_one_line() -> None:
    rates = {"sentences": 500.0, "documents": 9.0, "bytes": 2e6}
    found = summarise(
        [
            seen("0", pieces_done=3, weight_done=300.0, piece="p", piece_weight_done=50.0, rates=rates, call_seconds=40.0),
            seen("1", pieces_done=2, weight_done=100.0, rates=rates, call_seconds=39.0),
            seen(
                "2", alive=False, pieces_done=1, weight_done=50.0, piece="q", piece_weight_done=90.0, rates=rates, call_seconds=5
            ),
            seen("3", call=0, weight=77.0, pieces_done=9, weight_done=70.0, call_seconds=90.0),
        ]
    )
    assert found is not None
    assert describe(found) == "segment: 50.0%, 6 of 10 pieces, 1,000 sentences/s, 4.0 MB/s, 3 of 4 ranks alive, 0:00:40 left"


def test_a_line_without_what_is_not_known_yet() -> None:
    early = summarise([seen("0", stage="extract", rates={"documents": 20.0, "bytes": 1e6}, call_seconds=1.0)])
    assert early is not None and describe(early).endswith("20 documents/s, 1.0 MB/s, 1 of 1 ranks alive, time left not known yet")
    alone = summarise(
        [seen("0", pieces_done=10, weight_done=1000.0, piece=FOR_ALL, call_seconds=50.0), seen("1", call_seconds=50)]
    )
    assert alone is not None and describe(alone) == f"segment: {FOR_ALL}, 2 of 2 ranks alive"
    assert summarise([]) is None and summarise([seen("0", stage="")]) is None


RANK = """
import sys, time
from pathlib import Path
from preprocess.executors.counters import Account
from preprocess.executors.progress import Reporter
account = Account()
account.open_stage("segment")
account.open_call([10])
account.begin(0, "a part")
Reporter(Path(sys.argv[1]), 7, account)
print("there", flush=True)
time.sleep(60)
"""


def test_a_rank_is_alive_until_the_moment_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        (rank,) = read_ranks(tmp_path)
        assert rank.alive and rank.state.piece == "a part" and rank.name.startswith("rank-00007-")
        clear(tmp_path)
        assert len(read_ranks(tmp_path)) == 1, "the file of a living rank was removed"
    finally:
        process.kill()
        process.wait()
    (rank,) = read_ranks(tmp_path)
    assert not rank.alive
    clear(tmp_path)
    assert read_ranks(tmp_path) == []


def test_a_reporter_shows_all_ranks_and_takes_its_file_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.02)
    shown: list[str] = []
    account = Account()
    reporter = Reporter(tmp_path, 0, account, shown.append)
    account.open_stage("pack")
    account.open_call([1, 1])
    account.begin(0, "web 0")
    end = time.monotonic() + 20
    while not shown and time.monotonic() < end:
        time.sleep(0.01)
    reporter.stop()
    assert shown and shown[-1].startswith("pack: 0.0%, 0 of 2 pieces") and "1 of 1 ranks alive" in shown[-1]
    assert not list(tmp_path.iterdir())


def test_in_a_log_the_line_comes_now_and_then_as_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    screen = Screen(io.StringIO())
    with caplog.at_level(logging.INFO):
        for number in range(60):
            screen.show(f"line {number}")
    assert caplog.messages == ["line 29", "line 59"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_stays_below_what_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "width_of", lambda stream: 20)
    terminal = Terminal()
    screen = Screen(terminal)
    screen.show("half done and much more to tell")
    screen.emit(logging.LogRecord("", logging.INFO, "", 0, "a piece is done", None, None))
    screen.close_line()
    screen.emit(logging.LogRecord("", logging.INFO, "", 0, "the end", None, None))
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert drawn[1] == drawn[3] == "half done and much "
    assert drawn[2].endswith(" a piece is done\n") and drawn[4].endswith(" the end\n") and len(drawn) == 5


def test_a_terminal_without_a_width_as_mpirun_gives_it_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "width_of", lambda stream: 0)
    terminal = Terminal()
    Screen(terminal).show("half done")
    assert terminal.getvalue() == ""


def test_the_holder_of_a_directory_is_named_only_while_it_lives(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from jadeberta.shards import DirectoryLock\n"
    code += "lock = DirectoryLock(Path(sys.argv[1]), '--out'); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        assert (holder_of(tmp_path) or "").startswith(f"process {process.pid} on ")
    finally:
        process.kill()
        process.wait()
    assert holder_of(tmp_path) is None
    DirectoryLock(tmp_path, "--out").release()  # what the dead process left keeps nobody out


def test_status_tells_of_each_stage_what_is_done(tiny_shards: Made, tmp_path: Path) -> None:
    rows = {(row.stage, row.corpus): (row.done, row.pieces) for row in read_table(tiny_shards.out)}
    assert rows[("extract", "web")] == (1, 1) and rows[("tokenizer", "all")] == (1, 1) and rows[("pack", "all")] == (7, 7)
    parts = len(list((tiny_shards.out / "work/words/web").glob("*.json")))
    assert rows[("segment", "web")] == (parts, parts)
    lines = describe_directory(tiny_shards.out)
    assert sum(line.endswith("done") for line in lines) == 6 and "nobody works here now" in lines
    with pytest.raises(ConfigError, match=r"no stage was ever begun here\. Name the directory that --out"):
        describe_directory(tmp_path)
