"""Slow ranks: what each rank has spent goes from the trainer to its watchdog, and the one that all wait for is named with its cause."""

import mmap
import time
from typing import Any

import orjson
import pytest
import torch

from jadeberta.status import cli as status
from jadeberta.training.comm_meter import Stopwatch
from jadeberta.training.watchdog.monitor import Watchdog
from jadeberta.training.watchdog.rank_pace import (
    PaceWindow,
    Spent,
    judge_pace,
    read_spent,
    summary,
    waited_for,
    write_spent,
)
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, start_ranks
from tests.training.loop_fakes import LoopRun
from tests.watchdog.watched import Watched


def beat(rank: int, step_s: Any = 5.0, data_s: Any = 0.1, compute_s: Any = 3.0, **more: Any) -> dict:
    return {
        "rank": rank,
        "host": f"n{rank}",
        "pace": {"steps": 12, "step_s": step_s, "data_s": data_s, "compute_s": compute_s},
        **more,
    }


def test_sums_are_read_whole_also_while_the_next_are_written() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    assert read_spent(memory) is None
    for steps in range(1, 5):
        write_spent(memory, Spent(steps, 2.0 * steps, 0.5 * steps, 1.0 * steps))
        assert read_spent(memory) == Spent(steps, 2.0 * steps, 0.5 * steps, 1.0 * steps)
    memory[520:524] = b"torn"  # in the slot of the newest
    assert read_spent(memory) == Spent(3, 6.0, 1.5, 3.0)
    assert memory[:260] == bytes(260), "the heartbeat's own bytes"


def means(steps: int, step_s: float, data_s: float, compute_s: float) -> dict:
    return {"steps": steps, "step_s": step_s, "data_s": data_s, "compute_s": compute_s, "last_forward_s": 0.0}


def test_a_window_gives_means_of_a_step_and_waits_for_a_step_that_takes_longer() -> None:
    window = PaceWindow(60.0)
    assert (
        window.add(0.0, None) == {} == window.add(1.0, Spent(5, 50.0, 5.0, 25.0)) == window.add(60.9, Spent(9, 90.0, 9.0, 45.0))
    )
    assert window.add(61.0, Spent(10, 110.0, 10.0, 50.0)) == means(5, 12.0, 1.0, 5.0)
    assert window.add(130.0, Spent(10, 110.0, 10.0, 50.0)) == means(5, 12.0, 1.0, 5.0)
    assert window.add(200.0, Spent(11, 249.0, 10.0, 51.0)) == means(1, 139.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        (beat(3, compute_s=3.5), "rank 3 on n3: the others wait 0.5 s of each step (10%), because it computes more slowly"),
        (beat(3, data_s=1.1), "rank 3 on n3: the others wait 1 s of each step (20%), because it waits longer for its data"),
        (beat(3, compute_s=3.1), ""),  # within the noise
        (beat(3, step_s=9.0), ""),  # a slow link holds up all ranks alike: no rank's own part is longer
    ],
)
def test_the_rank_that_all_wait_for_is_named_with_its_cause(slow, words) -> None:
    found = waited_for([*(beat(rank) for rank in range(3)), slow, *(beat(rank) for rank in range(4, 8))])
    assert (found.in_words() if found else "") == words


def networked(rank: int, step_s: float, compute_s: float = 1.0, data_s: float = 0.1, host: str = "") -> dict:
    record = beat(rank, step_s, data_s, compute_s)
    record["pace"]["last_forward_s"] = 0.1
    return record | ({"host": host} if host else {})


@pytest.mark.parametrize(
    ("beats", "named"),
    [
        ([networked(rank, 5.0) for rank in range(3)], ("n0", "n1", "n2")),
        ([networked(rank, 5.0, compute_s=2.5) for rank in range(3)], None),  # under half of the step
        ([*(networked(rank, 5.0) for rank in range(2)), networked(2, 5.0, compute_s=4.0)], None),  # this one is slow
        (
            [*(networked(rank, 5.0) for rank in range(2)), networked(2, 5.0, compute_s=1.3)],
            ("n0", "n1", "n2"),
        ),  # far less than the network
        ([*(networked(rank, 5.0) for rank in range(2)), networked(2, 5.0, compute_s=2.0)], None),
        ([*(networked(rank, 5.0) for rank in range(2)), networked(2, 5.0, data_s=4.0)], None),
        ([networked(rank, 5.0, host="n0") for rank in range(3)], None),  # no network between them
        ([beat(rank, 5.0, 0.1, 0.1) for rank in range(3)], None),  # heartbeats of an older version do not tell
        ([], None),
    ],
)
def test_the_network_is_named_where_all_ranks_wait_and_none_is_slow_and_no_host_is_blamed(beats, named) -> None:
    slow, found = judge_pace(beats)
    assert slow is None or found is None
    assert (found.hosts if found else None) == named
    row = summary(beats)
    if found and row:
        # Five seconds without data, the slowest computing and a backward pass of three times the last forward pass.
        slowest = max(b["pace"]["compute_s"] for b in beats)
        assert row["waits_for"] is None and row["network"]["lost_s"] == pytest.approx(5.0 - 0.1 - slowest - 0.3)
        assert found.in_words().startswith("the network between n0, n1, n2: all ranks wait 3.")


def test_status_names_the_network(tmp_path, capsys) -> None:
    (tmp_path / "heartbeat").mkdir()
    now = time.time()
    for rank in range(12):
        record = networked(rank, 5.0) | {"attempt": 4, "time": now, "step": 3, "phase": "step", "place": "data", "seconds": 0.1}
        (tmp_path / f"heartbeat/rank-{rank:05d}.json").write_bytes(orjson.dumps(record))
    (tmp_path / "ledger.jsonl").write_bytes(orjson.dumps({"event": "start", "attempt": 4, "time": now}) + b"\n")
    assert status.main([str(tmp_path)]) == 0
    assert "SLOW: the network between n0, n1, n10, n11, n2, n3, n4, n5 and 4 more: all ranks wait" in capsys.readouterr().out
    assert status.main([str(tmp_path), "--json"]) == 0
    printed = orjson.loads(capsys.readouterr().out)
    assert printed["waits_for"] is None and len(printed["network_wait"]["hosts"]) == 12


def test_records_without_a_pace_or_with_a_damaged_one_are_left_out() -> None:
    odd = [{"rank": 5}, {"rank": 6, "pace": [1]}, beat(7, compute_s="x"), beat(8, step_s=0.0), beat(9, data_s=float("nan"))]
    assert waited_for([beat(0), *odd]) is None and summary([beat(0), *odd]) == {}
    found = waited_for([beat(0), *odd, beat(1, compute_s=4.0)])
    assert found is not None and (found.rank, found.lost_s, found.cause) == (1, 1.0, "compute")


def test_rank_0_appends_a_row_a_minute_and_status_names_the_rank(tmp_path, capsys) -> None:
    run, now = tmp_path / "run", time.time()
    watched = Watched(run, tmp_path / "none", "none", world_size=3)
    watched.watchdog.pace = PaceWindow(0.0)
    for steps in (1, 3):
        write_spent(watched.watchdog.memory, Spent(steps, 5.0 * steps, 0.1 * steps, 3.0 * steps))
        record = watched.watchdog.take_record()
    assert record["pace"] == means(2, 5.0, 0.1, 3.0)
    watched.watchdog.write_record(record)
    for rank, compute_s in ((1, 3.0), (2, 4.0)):
        other = beat(rank, compute_s=compute_s, attempt=4, attempt_id="id", time=now, step=3)
        (run / f"heartbeat/rank-{rank:05d}.json").write_bytes(orjson.dumps(other))
    watched.watchdog.record_pace()
    (row,) = read_jsonl(run / "ranks.jsonl")
    assert (row["attempt"], row["step"], row["ranks"], row["compute_s"]) == (4, 3, 3, [3.0, 3.0, 4.0])
    assert row["waits_for"] == {"rank": 2, "host": "n2", "lost_s": 1.0, "step_s": 5.0, "cause": "compute"}
    (run / "ledger.jsonl").write_bytes(orjson.dumps({"event": "start", "attempt": 4, "time": now}) + b"\n")
    assert status.main([str(run)]) == 0
    assert "SLOW: rank 2 on n2: the others wait 1 s of each step (20%)" in capsys.readouterr().out
    assert status.main([str(run), "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["waits_for"]["rank"] == 2


def test_a_disk_that_takes_no_row_holds_up_no_watchdog(tmp_path, monkeypatch) -> None:
    watched = Watched(tmp_path, tmp_path / "none", "none", world_size=2)
    monkeypatch.setattr(Watchdog, "read_records", lambda self, ranks=(): {0: beat(0), 1: beat(1)})
    (tmp_path / "ranks.jsonl").mkdir()
    watched.watchdog.record_pace()
    assert list((tmp_path / "ranks.jsonl").iterdir()) == []


def test_the_loop_tells_what_each_step_took() -> None:
    job = LoopRun(max_steps=3)
    job.run()
    assert len(job.spent) == 3 and all(0 <= data_s <= step_s for step_s, data_s, *_ in job.spent)


SLOWED = """
import os, sys, time
from jadeberta import cli
from jadeberta import pretrain as pretrain_module
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.watchdog.client import WatchdogClient
slow = os.environ["RANK"] == "1"
forward, add_step, iterate_steps, steps = TrainingEngine.forward, WatchdogClient.add_step, pretrain_module.iterate_steps, []
def slow_forward(self, micro_batch):
    time.sleep(0.15 * (slow and len(steps) < 4))
    return forward(self, micro_batch)
def slow_data(*arguments):
    for batch in iterate_steps(*arguments):
        time.sleep(0.3 * (slow and len(steps) >= 4))
        yield batch
def told(self, *times):
    steps.append(times)
    print("SPENT", *times, flush=True)
    add_step(self, *times)
TrainingEngine.forward, WatchdogClient.add_step, pretrain_module.iterate_steps = slow_forward, told, slow_data
sys.argv = ["jadeberta", *sys.argv[1:]]
cli.main()
"""
"""Rank 1 computes slowly in its first four steps, and reads slowly after them."""


@pytest.mark.long
def test_a_slow_processor_and_a_slow_disk_are_told_apart_in_a_run_of_two_ranks(tmp_path) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (40, 1)})
    training = {"max_steps": 8, "micro_batch_size": 2, "global_batch_size": 8}
    recipe = make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", training=training)
    processes = start_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log", code=SLOWED)
    assert [p.wait(200) for p in processes] == [0, 0], printed_by(tmp_path / "log")
    causes = []
    for first, end in ((1, 4), (4, 8)):  # the first step compiles and allocates
        beats = []
        for rank in range(2):
            lines = (tmp_path / f"log.{rank}.log").read_text().splitlines()
            rows = [list(map(float, line.split()[1:])) for line in lines if line.startswith("SPENT")][first:end]
            step_s, data_s, compute_s, last_forward_s = (sum(column) / len(rows) for column in zip(*rows, strict=True))
            assert 0 < last_forward_s < compute_s
            beats.append(beat(rank, step_s, data_s, compute_s))
        found = waited_for(beats)
        causes.append(None if found is None else (found.rank, found.cause))
    assert causes == [(1, "compute"), (1, "data")]


def test_a_stopwatch_reads_the_devices_time_and_never_waits_for_it(monkeypatch) -> None:
    class Event:
        passed = True

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            assert stream == "compute stream"

        def query(self) -> bool:
            return self.passed

        def elapsed_time(self, ended: "Event") -> float:
            assert ended.passed
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "compute stream")
    watch = Stopwatch(torch.device("cuda", 0))
    began, ended = watch.mark(), watch.mark()
    assert watch.seconds(began, ended) == 0.25
    ended.passed = False
    assert watch.seconds(began, ended) == 0.0
    watch = Stopwatch(torch.device("cpu"))
    assert 0 <= watch.seconds(watch.mark(), watch.mark()) < 60
