"""Who hangs is told from the heartbeats of all ranks."""

from pathlib import Path
from typing import Any

import pytest

from jadeberta.training.watchdog.diagnose import describe_hang, silences, suspects


def at(rank: int, phase: str, step: int, place: str, state: str = "S", **more: Any) -> dict[str, Any]:
    return {"rank": rank, "host": f"node{rank}", "phase": phase, "step": step, "place": place, "state": state, "beats": 1, **more}


REDUCE = [at(r, "step", 9, "all-reduce") for r in range(4)]
CASES = {
    "stopped, though all stand alike": ([*REDUCE[:3], at(3, "step", 9, "all-reduce", "T")], 4, [3], "stopped by a signal"),
    "stopped goes before behind": ([at(0, "step", 9, "data"), at(1, "step", 9, "all-reduce", "t")], 2, [1], "debugger"),
    "host lost": ([*REDUCE[:3], at(3, "step", 9, "all-reduce", silent_s=580.0)], 4, [3], "host is lost"),
    "a pause of the disk is no lost host": ([*REDUCE[:3], at(3, "step", 9, "all-reduce", silent_s=3.0)], 4, [], "every rank"),
    "silent because done": ([at(0, "end", 9, "end", silent_s=99.0), at(1, "step", 9, "update")], 2, [1], "behind"),
    "never begun": ([at(0, "start", 0, "meet"), at(2, "start", 0, "meet")], 3, [1], "has not begun"),
    "missing says nothing": ([at(0, "step", 3, "data")], 0, [0], "no other rank's heartbeat can be read"),
    "alone": ([at(0, "step", 3, "data")], 1, [0], "only rank"),
    "step behind": ([at(0, "step", 9, "data"), at(1, "step", 8, "metrics")], 2, [1], "behind"),
    "data": ([at(0, "step", 9, "data"), *REDUCE[1:]], 4, [0], "such as rank 1 at phase step, step 9, section all-reduce"),
    "forward before backward": ([at(0, "step", 9, "backward 2"), at(1, "step", 9, "forward 2")], 2, [1], "behind"),
    "backward before next forward": ([at(0, "step", 9, "backward 2"), at(1, "step", 9, "forward 3")], 2, [0], "behind"),
    "by number, not by letter": ([at(0, "step", 9, "forward 9"), at(1, "step", 9, "forward 10")], 2, [0], "behind"),
    "two of four": ([*REDUCE[:2], at(2, "step", 9, "forward 1"), at(3, "step", 9, "forward 1")], 4, [2, 3], "behind"),
    "update before metrics": ([at(0, "step", 9, "metrics"), at(1, "step", 9, "update")], 2, [1], "behind"),
    "all": (REDUCE, 4, [], "every rank waits at all-reduce: the interconnect or the file system between them"),
    "first step is a step": ([at(0, "first_step", 9, "all-reduce"), at(1, "step", 9, "data")], 2, [1], "behind"),
    "start before any step": ([at(0, "first_step", 1, "data"), at(1, "start", 500, "checkpoint")], 2, [1], "behind"),
    "save after its step": ([at(0, "save", 9, "write"), at(1, "step", 9, "metrics")], 2, [1], "behind"),
    "save before the next step": ([at(0, "save", 9, "write"), at(1, "step", 10, "data")], 2, [0], "behind"),
    "unknown sections by beats": ([at(0, "save", 9, "b", beats=3), at(1, "save", 9, "a", beats=2)], 2, [1], "behind"),
    "disk": ([at(0, "save", 9, "write", "D"), at(1, "save", 9, "write")], 2, [0], "state D"),
    "disk of a rank that is ahead": ([at(0, "step", 10, "data", "D"), at(1, "step", 9, "update")], 2, [1], "behind"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_one_to_blame_is_found_from_the_heartbeats(case) -> None:
    records, world_size, guilty, words = CASES[case]
    found, reason = suspects(records, world_size)
    assert found == [(rank, f"node{rank}" if case != "never begun" else "unknown host") for rank in guilty]
    assert words in reason


def test_a_rank_is_silent_by_the_uptime_of_its_record_and_not_by_any_hosts_clock() -> None:
    # Rank 1 was not renewed while rank 0 looked; rank 2 was, with a clock that was set back; the clocks of all hosts differ.
    before = {0: {"uptime_s": 80.0, "time": 5e9}, 1: {"uptime_s": 60.0, "time": 9e9}, 2: {"uptime_s": 80.5, "time": 7e9}}
    now = {0: {"uptime_s": 80.0, "time": 5e9}, 1: {"uptime_s": 60.0, "time": 9e9}, 2: {"uptime_s": 82.0, "time": 1e9}}
    assert silences(before, now, own_rank=0) == {0: 0.0, 1: 22.0, 2: 0.0}


def test_the_sentence_names_a_few_and_counts_the_rest() -> None:
    hang = at(3, "step", 9, "all-reduce", seconds=601.2, limit_s=600.0, found_by=0, reason="the host is lost")
    text = describe_hang(hang | {"suspects": [{"rank": r, "host": f"node{r}"} for r in range(3, 19)]}, Path("/runs/large"))
    assert "rank 3 on node3, rank 4 on node4, rank 5 on node5, rank 6 on node6 and 12 more: the host is lost" in text
    assert "phase step, step 9, section all-reduce; rank 0 has waited 601.2 s, the limit is 600 s" in text
    assert text.endswith("/runs/large/logs/stacks-rank-*.txt") and "\n" not in text
