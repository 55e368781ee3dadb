"""The rule `watchdog.slow_rank`: when it asks for an attempt without a host, how the trainer hears of it, and when it keeps still."""

import mmap
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import orjson
import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.training.control import RankFlags
from jadeberta.training.hooks import TrainerHooks
from jadeberta.training.watchdog.monitor import Watchdog
from jadeberta.training.watchdog.rank_pace import WaitedFor
from jadeberta.training.watchdog.slow_rank_rule import SlowHost, SlowRankRule, event_of, read_wish, sentence_of, write_wish
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT
from tests.watchdog.test_rank_pace import beat
from tests.watchdog.watched import Watched

RULE = SlowRankRule(acts=True, share=0.2, seconds=300.0, again_s=3600.0)


def slow(host: str = "n1", lost_s: float = 2.0, rank: int = 1) -> WaitedFor:
    return WaitedFor(rank, host, lost_s, 5.0, "compute")


@pytest.mark.parametrize(
    ("minutes", "acts_in"),
    [
        ([slow()] * 8, [5]),  # once
        ([slow(rank=n % 2) for n in range(6)], [5]),  # several ranks of the host
        ([slow()] * 4 + [None] + [slow()] * 5, [10]),  # a break: counted anew
        ([slow()] * 4 + [slow("n2")] * 5, [9]),
        ([slow(lost_s=0.9)] * 9, []),  # not slow enough
        ([None] * 9, []),
    ],
)
def test_a_host_that_was_slow_for_long_enough_without_a_break_is_found_once(minutes, acts_in) -> None:
    host = SlowHost(RULE)
    found = [n for n, seen in enumerate(minutes, 1) if host.look(60.0 * n, seen) is not None]
    assert found == acts_in
    assert SlowHost(SlowRankRule()).look(1e9, slow()) is None


def test_a_short_time_has_short_windows_and_no_rule_has_a_minute() -> None:
    assert (SlowRankRule().window_s, RULE.window_s, SlowRankRule(seconds=8.0).window_s) == (60.0, 60.0, 2.0)


def test_an_attempt_without_a_host_is_asked_for_once_while_that_host_would_be_left_out() -> None:
    first = event_of(slow(), 300.0, [], 1000.0, 3600.0)
    assert first["requeue"] is True
    rows = [{"event": "slow_rank", "time": 1000.0, **first}]
    assert event_of(slow(), 300.0, rows, 2000.0, 3600.0)["requeue"] is False
    assert event_of(slow(), 300.0, rows, 5000.0, 3600.0)["requeue"] is True  # the exclusion has run out
    assert event_of(slow("n2"), 300.0, rows, 2000.0, 3600.0)["requeue"] is True
    assert sentence_of(first) == (
        "rank 1 on n1 computes more slowly: the others have waited 40% of each step for 5m 00s; the run saves and asks for another "
        "attempt without n1"
    )
    assert "the run goes on" in sentence_of({**first, "requeue": False}) and "rank None on None" in sentence_of({"step_s": "x"})


def test_a_wish_is_read_whole_or_not_at_all() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    assert read_wish(memory) == ""
    write_wish(memory, "slow 遅い")
    assert read_wish(memory) == "slow 遅い" and memory[:1024] == bytes(1024)
    memory[1030:1031] = b"?"
    assert read_wish(memory) == ""
    write_wish(memory, "遅" * 400)
    assert set(read_wish(memory)) == {"遅"}


@pytest.mark.parametrize("acts", [True, False])
def test_the_watchdog_of_rank_0_asks_its_trainer_after_it_has_written_the_host_down(acts, tmp_path, monkeypatch, capfd) -> None:
    watched = Watched(tmp_path, tmp_path / "none", "none", world_size=2)
    watchdog = watched.watchdog
    watchdog.slow_host = SlowHost(SlowRankRule(acts, 0.2, 0.001))
    monkeypatch.setattr(Watchdog, "read_records", lambda self, ranks=(): {0: beat(0), 1: beat(1, compute_s=5.0)})
    for _ in range(2):
        watchdog.record_pace()
        time.sleep(0.002)
    wished = read_wish(watchdog.memory)
    events = [row for row in read_jsonl(tmp_path / "ledger.jsonl") if row["event"] == "slow_rank"]
    if not acts:
        assert (wished, events) == ("", [])
        return
    assert wished == "watchdog.slow_rank (rank 1 on n1)"
    assert [(e["host"], e["rank"], e["cause"], e["requeue"], e["attempt"]) for e in events] == [("n1", 1, "compute", True, 4)]
    assert "SLOW: rank 1 on n1 computes more slowly" in capfd.readouterr().err
    again = Watched(tmp_path, tmp_path / "none", "none", world_size=2)
    again.watchdog.slow_host = SlowHost(SlowRankRule(True, 0.2, 0.001))
    for _ in range(2):
        again.watchdog.record_pace()
        time.sleep(0.002)
    assert read_wish(again.watchdog.memory) == ""
    assert [e["requeue"] for e in read_jsonl(tmp_path / "ledger.jsonl")] == [True, False]


def test_a_wish_is_a_request_for_a_requeue_with_its_reason() -> None:
    context = MagicMock()
    context.control = SimpleNamespace(flags=RankFlags, reason="")
    context.watchdog.wish = ""
    hooks = TrainerHooks(context, [], None)
    assert (hooks.flags().requeue, hooks.reason) == (0, "")
    context.watchdog.wish = "watchdog.slow_rank (rank 1 on n1)"
    assert (hooks.flags().requeue, hooks.reason) == (1, "watchdog.slow_rank (rank 1 on n1)")
    context.control.reason = "SIGTERM"
    assert hooks.reason == "SIGTERM"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--watchdog.slow_rank_share", "0"), "watchdog.slow_rank_share is 0"),
        (("--watchdog.slow_rank_share", "20"), "watchdog.slow_rank_share is 20"),
        (("--watchdog.slow_rank_share", ".nan"), "watchdog.slow_rank_share is nan"),
        (("--watchdog.slow_rank_s", "0"), "watchdog.slow_rank_s is 0"),
        (("--watchdog.slow_rank", "exclude"), "watchdog.slow_rank"),
        (("--watchdog.slow_rank", "requeue", "--cluster.excluded_hosts", "0"), "lets no host be left out"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(options, words) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(ROOT / "recipes/large.yaml", options)


def test_the_published_recipe_only_reports_and_outside_a_job_no_recipe_asks_for_more() -> None:
    published = load_recipe(ROOT / "recipes/large.yaml")
    assert SlowRankRule.of(published, in_job=True).acts is False
    asks = load_recipe(ROOT / "recipes/large.yaml", ("--watchdog.slow_rank", "requeue", "--watchdog.slow_rank_s", "600"))
    assert SlowRankRule.of(asks, in_job=True) == SlowRankRule(True, 0.2, 600.0, 24 * 3600)
    assert SlowRankRule.of(asks, in_job=False).acts is False
    assert orjson.loads(orjson.dumps(vars(SlowRankRule.of(asks, in_job=True))))["seconds"] == 600.0
