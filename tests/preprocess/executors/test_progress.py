"""Progress of all ranks: from their counters to the one line, the table of `status`, and which ranks are alive."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.shards import ConfigError, DirectoryLock, holder_of
from preprocess.executors import progress
from preprocess.executors.counters import SINGLE_RANK_WORK, WINDOW_SECONDS, Counters, RankState, parse_state
from preprocess.executors.progress import ProgressReporter, RankStatus, clear, describe, read_ranks, summarise
from preprocess.job_status import describe_directory, read_table
from tests.helpers import ROOT
from tests.preprocess.conftest import Made
from tests.preprocess.executors.test_task_queue import Clock


def status(name: str, alive: bool = True, **values: object) -> RankStatus:
    return RankStatus(name, alive, RankState(**({"stage": "segment", "call": 1, "tasks": 10, "weight": 1000.0} | values)))  # type: ignore[arg-type]


def test_counters_know_tasks_counts_and_the_rates_of_the_last_minute() -> None:
    clock = Clock()
    counters = Counters(clock)
    counters.open_stage("segment")
    counters.open_call([100, 50])
    counters.state()
    counters.begin(0, "a part")
    clock.now = 10
    counters.count(documents=2, sentences=30, bytes=400)
    state = counters.state()
    assert (state.stage, state.call, state.tasks, state.weight) == ("segment", 1, 2, 150)
    assert (state.task, state.task_seconds, state.task_weight_done) == ("a part", 10, 100), "never more than the task weighs"
    assert state.counts == {"documents": 2, "sentences": 30, "bytes": 400} and state.rates["sentences"] == 3
    counters.end()
    clock.now += WINDOW_SECONDS
    counters.state()
    clock.now += 10
    state = counters.state()
    assert (state.task, state.tasks_done, state.weight_done, state.rates["sentences"]) == ("", 1, 100, 0)


def test_a_progress_file_of_an_earlier_version_is_read() -> None:
    old = {
        "stage": "pack",
        "pieces": 4,
        "pieces_done": 2,
        "piece": "web 0",
        "piece_weight_done": 3.0,
        "piece_seconds": 5.0,
        "x": 1,
    }
    expected = RankState("pack", tasks=4, tasks_done=2, task="web 0", task_weight_done=3.0, task_seconds=5.0)
    assert parse_state(old) == expected


def test_all_ranks_together_in_one_line() -> None:
    rates = {"sentences": 500.0, "documents": 9.0, "bytes": 2e6}
    found = summarise(
        [
            status("0", tasks_done=3, weight_done=300.0, task="p", task_weight_done=50.0, rates=rates, call_seconds=40.0),
            status("1", tasks_done=2, weight_done=100.0, rates=rates, call_seconds=39.0),
            status(
                "2", alive=False, tasks_done=1, weight_done=50.0, task="q", task_weight_done=90.0, rates=rates, call_seconds=5
            ),
            status("3", call=0, weight=77.0, tasks_done=9, weight_done=70.0, call_seconds=90.0),
        ]
    )
    assert found is not None
    assert describe(found) == "segment 50.0%, 40s left, 6/10 tasks, 1.0k sentences/s, 3 of 4 ranks"


def test_a_line_without_what_is_not_known_yet() -> None:
    early = summarise([status("0", stage="extract", rates={"documents": 20.0, "bytes": 1e6}, call_seconds=1.0)])
    assert early is not None and describe(early) == "extract 0.0%, ? left, 0/10 tasks, 20 docs/s, 1.0MB/s, 1 ranks"
    alone = summarise(
        [status("0", tasks_done=10, weight_done=1000.0, task=SINGLE_RANK_WORK, call_seconds=50.0), status("1", call_seconds=50)]
    )
    assert alone is not None and describe(alone) == f"segment: {SINGLE_RANK_WORK}, 2 of 2 ranks alive"
    assert summarise([]) is None and summarise([status("0", stage="")]) is None


def test_the_line_of_the_large_recipe_fits_eighty_columns() -> None:
    """171 GB: 4,300 parts of words and more, millions of sentences a second on 512 ranks."""
    for stage, rates in (("extract", {"documents": 9e6, "bytes": 9.9e9}), ("segment", {"sentences": 9e6, "bytes": 9.9e8})):
        summary = progress.JobProgress(stage, 0.999, 12_345, 12_345, 512, 512, rates, 9.9 * 86400, False)
        assert len(describe(summary)) < 80, describe(summary)
    alone = progress.JobProgress("tokenizer", 1.0, 32, 32, 512, 512, {}, None, True)
    assert len(describe(alone)) < 80


RANK = """
import sys, time
from pathlib import Path
from preprocess.executors.counters import Counters
from preprocess.executors.progress import ProgressReporter
counters = Counters()
counters.open_stage("segment")
counters.open_call([10])
counters.begin(0, "a part")
ProgressReporter(Path(sys.argv[1]), 7, counters)
print("there", flush=True)
time.sleep(60)
"""


def test_a_rank_is_alive_until_the_moment_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        (rank,) = read_ranks(tmp_path)
        assert rank.alive and rank.state.task == "a part" and rank.name.startswith("rank-00007-")
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
    counters = Counters()
    reporter = ProgressReporter(tmp_path, 0, counters, shown.append)
    counters.open_stage("pack")
    counters.open_call([1, 1])
    counters.begin(0, "web 0")
    end = time.monotonic() + 20
    while not shown and time.monotonic() < end:
        time.sleep(0.01)
    reporter.stop()
    assert shown and shown[-1].startswith("pack 0.0%, ? left, 0/2 tasks") and shown[-1].endswith(", 1 ranks")
    assert not list(tmp_path.iterdir())


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


def test_status_shows_what_is_done_of_each_stage(tiny_shards: Made, tmp_path: Path) -> None:
    rows = {(row.stage, row.corpus): (row.done, row.tasks) for row in read_table(tiny_shards.out)}
    assert rows[("extract", "web")] == (1, 1) and rows[("tokenizer", "all")] == (1, 1) and rows[("pack", "all")] == (7, 7)
    parts = len(list((tiny_shards.out / "work/words/web").glob("*.json")))
    assert rows[("segment", "web")] == (parts, parts)
    lines = describe_directory(tiny_shards.out)
    assert sum(line.endswith("done") for line in lines) == 6 and "nobody works here now" in lines
    with pytest.raises(ConfigError, match=r"no stage was ever begun here\. Name the directory that --out"):
        describe_directory(tmp_path)
