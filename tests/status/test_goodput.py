"""The goodput of a run, on ledgers written by hand with figures worked out by hand; test_simulated_runs.py has the random ones."""

import orjson
import pytest

from jadeberta.status.goodput import Goodput, compute_goodput
from jadeberta.utils.json_lines import read_jsonl


def event(time: float, name: str, attempt: int = 0, **fields) -> dict:
    return {"time": time, "event": name, "attempt": attempt, "host": "n1", "pid": 7, **fields}


def row(step: int, end: float, seconds: float, attempt: int = 0, **fields) -> dict:
    """A row of metrics; every step has 100 tokens."""
    values = {
        "tokens": 100 * step,
        "tokens_per_second": 100 / seconds,
        "mfu": None,
        "data_wait_s": 0.0,
        "loss": 5.0,
        "skipped": False,
    }
    return {"step": step, "time": end, "step_s": seconds, "attempt": attempt, **values, **fields}


def rows(first: int, last: int, begin: float, seconds: float, attempt: int = 0, **fields) -> list[dict]:
    """Steps without a break between them."""
    return [row(s, begin + (s - first + 1) * seconds, seconds, attempt, **fields) for s in range(first, last + 1)]


def parts(result: Goodput) -> dict[str, float]:
    """The parts that are not 0."""
    return {name: pytest.approx(value) for name, value in result.parts().items() if abs(value) > 1e-9}


def test_one_clean_attempt() -> None:
    # 20 s to start, steps 1-4 of 10 s, save of 3 s, an evaluation of 5 s, 1 s of nothing, steps 5-8, 4 s until the last save is done.
    metrics = [*rows(1, 4, 1020, 10, data_wait_s=1.0), *rows(5, 8, 1069, 10, mfu=0.5)]
    ledger = [
        event(1000, "start", world_size=8),
        event(1063.5, "save", step=4, stall_s=3.0, write_s=1.0),
        event(1068.8, "evaluation", step=4, seconds=5.0),
        event(1112.5, "save", step=8, stall_s=2.0, write_s=3.5),
        event(1113, "done", step=8, tokens=800),
    ]
    result = compute_goodput(ledger, metrics)
    assert result.wall_s == pytest.approx(113)
    assert result.parts() == {
        "steps that stayed": pytest.approx(80), "steps that were lost": 0, "steps that were skipped": 0,
        "waiting for saves": pytest.approx(3 + 4), "evaluations": pytest.approx(5), "starting up": pytest.approx(20),
        "rolling back": 0, "hanging": 0, "between two attempts": 0, "not accounted for": pytest.approx(1),
    }  # fmt: skip
    assert result.goodput == pytest.approx(80 / 113)
    assert (result.steps, result.step, result.tokens, result.data_wait_s) == (8, 8, 800, 4.0)
    assert (result.tokens_per_second, result.mfu, result.loss, result.step_s) == (pytest.approx(10), 0.5, 5.0, 10.0)
    assert [(a.ended, a.failed, a.first_step, a.last_step) for a in result.attempts] == [("done", False, 1, 8)]
    assert (result.saves, result.failed_saves, result.failures, result.recovery_s) == (2, 0, 0, [])


def test_a_kill_loses_the_steps_after_the_checkpoint_and_the_time_until_the_run_is_back() -> None:
    # Killed after step 7, back at step 4: steps 5-7 are lost. 60 s until the next start, 15 s until it trains.
    metrics = [*rows(1, 4, 1010, 10), *rows(5, 7, 1052, 10), *rows(5, 8, 1157, 10, attempt=1)]
    ledger = [
        event(1000, "start"), event(1052, "save", step=4, stall_s=2.0),
        event(1142, "start", attempt=1), event(1150, "resume", attempt=1, step=4, seconds=6.0), event(1197, "done", attempt=1, step=8),
    ]  # fmt: skip
    result = compute_goodput(ledger, metrics)
    assert parts(result) == {
        "steps that stayed": 80, "steps that were lost": 30, "waiting for saves": 2, "starting up": 10 + 15, "between two attempts": 60,
    }  # fmt: skip
    assert result.wall_s == pytest.approx(197)
    assert (result.steps, result.lost_steps, result.failures, result.step) == (8, 3, 1, 8)
    assert [a.ended for a in result.attempts] == ["killed", "done"]
    # From 1082, its last sign, to 1187, when step 7 was done again.
    assert result.recovery_s == [pytest.approx(105)]


@pytest.mark.parametrize("back", [300, 3600, 10**6])
def test_a_clock_that_was_set_back_adds_no_time_and_takes_none(back) -> None:
    # Set back within step 6 of the first attempt: everything after it, the second attempt too, has the new clock.
    metrics = [*rows(1, 5, 1010, 10), *rows(6, 7, 1060 - back, 10), *rows(8, 9, 1157 - back, 10, attempt=1)]
    ledger = [
        event(1000, "start"), event(1052, "save", step=4, stall_s=0.0), event(1081 - back, "save", step=7, stall_s=0.0),
        event(1142 - back, "start", attempt=1), event(1150 - back, "resume", attempt=1, step=7, seconds=6.0),
        event(1177 - back, "done", attempt=1, step=9),
    ]  # fmt: skip
    result = compute_goodput(ledger, metrics)
    assert parts(result) == {
        "steps that stayed": 90, "starting up": 10 + 15, "between two attempts": 61, "not accounted for": 1,
    }  # fmt: skip
    assert result.wall_s == pytest.approx(177)
    # Ages are reckoned from now, so all times are those of the new clock.
    assert [(a.started, a.last) for a in result.attempts] == [(1000 - back, 1081 - back), (1142 - back, 1177 - back)]


def test_a_host_with_another_clock_moves_no_time_of_rank_0() -> None:
    ledger = [event(1000, "start"), event(4600, "set_aside", host="n2", pid=9), event(1031, "done", step=2)]
    result = compute_goodput(ledger, rows(1, 2, 1010, 10))
    assert parts(result) == {"steps that stayed": 20, "starting up": 10, "not accounted for": 1}


def test_steps_are_lost_as_soon_as_an_attempt_has_resumed_before_them() -> None:
    metrics = rows(1, 7, 1010, 10)
    ledger = [event(1000, "start"), event(1090, "start", attempt=1)]
    assert compute_goodput(ledger, metrics).lost_steps == 0  # nobody knows yet where it will go on
    result = compute_goodput([*ledger, event(1099, "resume", attempt=1, step=4)], metrics)
    assert (result.lost_steps, result.steps, result.step, result.recovery_s) == (3, 4, 4, [None])
    assert result.startup_s == pytest.approx(10 + 9)


def test_an_attempt_that_found_no_checkpoint_loses_everything_before_it() -> None:
    metrics = [*rows(1, 3, 1010, 10), *rows(1, 2, 1060, 10, attempt=1)]
    result = compute_goodput([event(1000, "start"), event(1050, "start", attempt=1)], metrics)
    assert (result.steps, result.lost_steps, result.step, result.recovery_s) == (2, 3, 2, [None])


def test_steps_lost_twice_are_counted_twice() -> None:
    metrics = [*rows(1, 3, 1000, 1), *rows(3, 4, 1010, 1, attempt=1), *rows(3, 5, 1020, 1, attempt=2)]
    ledger = [
        event(1000, "start"), event(1009, "start", attempt=1), event(1010, "resume", attempt=1, step=2),
        event(1019, "start", attempt=2), event(1020, "resume", attempt=2, step=2),
    ]  # fmt: skip
    result = compute_goodput(ledger, metrics)
    assert (result.steps, result.lost_steps, result.lost_s) == (5, 3, 3.0)
    # Step 3 was done again at 1011; step 4, the furthest of attempt 1, at 1022, 10 s after that attempt's end.
    assert result.recovery_s == [pytest.approx(8), pytest.approx(10)]


def test_a_hang_counts_the_silence_and_names_the_host() -> None:
    # Step 3 never ends: silent from 1030, found at 1140 by a watchdog that saw 100 s of silence; requeued, 40 s in the queue.
    metrics = [*rows(1, 2, 1010, 10), *rows(2, 3, 1190, 10, attempt=1)]
    ledger = [
        event(1000, "start"), event(1021, "save", step=1, stall_s=0.0),
        event(1140, "hang", host="n2", rank=3, phase="step", step=2, seconds=100.0),
        event(1180, "start", attempt=1), event(1185, "resume", attempt=1, step=1),
        event(1210, "requeue", attempt=1, status=11, reason="USR1"),
    ]  # fmt: skip
    result = compute_goodput(ledger, metrics)
    assert parts(result) == {
        "steps that stayed": 30, "steps that were lost": 10, "starting up": 10 + 10, "hanging": 100, "between two attempts": 40,
        "not accounted for": 10,
    }  # fmt: skip
    assert [(a.ended, a.failed, a.host) for a in result.attempts] == [
        ("hang", True, "n1"),
        ("requeue", False, "n1"),
    ]
    assert result.hangs == [{"rank": 3, "host": "n2", "phase": "step", "step": 2, "seconds": 100.0}]
    assert result.recovery_s == [pytest.approx(60)]  # from 1140 to 1200, when step 2 was done again


def test_one_silence_that_two_ranks_report_is_counted_once_and_one_that_ended_is_no_end() -> None:
    hangs = [event(1060, "hang", rank=r, host=f"n{r}", phase="save", seconds=50.0) for r in (0, 1)]
    result = compute_goodput([event(1000, "start"), *hangs], rows(1, 1, 1000, 5))
    assert (result.hang_s, len(result.hangs), result.attempts[0].ended) == (50.0, 2, "hang")
    result = compute_goodput([event(1000, "start"), *hangs], [*rows(1, 1, 1000, 5), *rows(2, 2, 1070, 5)])
    assert (result.hang_s, result.attempts[0].ended) == (50.0, "killed")
    slow = compute_goodput(
        [event(1000, "start"), *hangs], rows(1, 1, 1000, 100)
    )  # the step ended after all: it is the step's time
    assert (slow.hang_s, slow.productive_s) == (0.0, 100.0)


def test_a_roll_back_loses_its_steps_and_the_time_to_go_back() -> None:
    # Steps 5-6 blow up: skipped, then back to step 4 within 12 s; its own save stall of 2 s after step 6 is a save's.
    metrics = [*rows(1, 4, 1010, 10), *rows(5, 6, 1050, 10, skipped=True, loss=None), *rows(5, 7, 1084, 10)]
    ledger = [
        event(1000, "start"), event(1050, "save", step=4, stall_s=0.0),
        event(1060, "skip", step=5), event(1070, "skip", step=6), event(1072, "save", step=6, stall_s=2.0),
        event(1075, "rollback", step=4, from_step=6, stepped_over=[4, 6], number=1), event(1114, "done", step=7, tokens=700),
    ]  # fmt: skip
    result = compute_goodput(ledger, metrics)
    assert parts(result) == {
        "steps that stayed": 70, "steps that were lost": 20, "waiting for saves": 2, "starting up": 10, "rolling back": 12,
    }  # fmt: skip
    assert (result.rollbacks, result.lost_steps, result.skipped_steps, result.step) == (1, 2, 0, 7)
    before = compute_goodput(ledger[:-1], metrics[:6])  # as it stood right after going back
    assert (before.lost_steps, before.step, before.tokens) == (2, 4, 400)


def test_a_save_that_is_written_down_after_the_next_steps_belongs_to_the_last_step_of_its_number() -> None:
    save = event(1055, "save", step=2, stall_s=4.0, write_s=20.0)
    rollback = event(1025, "rollback", step=0, from_step=2)
    # Step 2 ends at 1020 and is not done again by 1055: the stall lay within the 20 s until step 1 began anew.
    metrics = [*rows(1, 2, 1000, 10), *rows(1, 1, 1040, 10), *rows(2, 5, 1060, 10)]
    assert compute_goodput([event(1000, "start"), rollback, save], metrics).rollback_s == pytest.approx(16)
    # Here step 2 was done again by 1045: the stall came after that.
    metrics = [*rows(1, 2, 1000, 10), *rows(1, 2, 1025, 10), *rows(3, 5, 1060, 10)]
    assert compute_goodput([event(1000, "start"), rollback, save], metrics).rollback_s == pytest.approx(5)


def test_skipped_steps_that_stay_are_not_productive() -> None:
    metrics = [*rows(1, 2, 1000, 10), row(3, 1030, 10, skipped=True, loss=float("nan")), *rows(4, 4, 1030, 10, loss=2.0)]
    result = compute_goodput([event(1000, "start"), event(1030, "skip", step=3)], metrics)
    assert (result.productive_s, result.skipped_s, result.skipped_steps, result.steps) == (30.0, 10.0, 1, 4)
    assert result.loss == pytest.approx((5 + 5 + 2) / 3)
    assert result.goodput == pytest.approx(0.75)


def test_means_of_speed_are_weighted_by_time() -> None:
    metrics = [row(1, 1010, 10, tokens_per_second=10.0, mfu=0.1), row(2, 1040, 30, tokens_per_second=2.0, mfu=0.3)]
    result = compute_goodput([event(1000, "start")], metrics)
    assert (result.tokens_per_second, result.mfu) == (pytest.approx(4.0), pytest.approx(0.25))


def test_save_stalls_of_failed_saves_and_of_older_ledgers_count() -> None:
    ledger = [
        event(1000, "start"), event(1012, "save", step=1, seconds=2.0), event(1027, "save_failed", step=2, stall_s=5.0, error="full"),
        event(1040, "stop", status=10, reason="STOP"),
    ]  # fmt: skip
    result = compute_goodput(ledger, [row(1, 1010, 10), row(2, 1022, 10)])
    assert (result.save_stall_s, result.saves, result.failed_saves) == (2 + 5 + 13, 1, 1)  # the stop waited 13 s for the last one
    assert (result.attempts[0].ended, result.failures, result.unaccounted_s) == ("stop", 0, 0.0)


def test_an_end_for_bad_numbers_is_a_failure() -> None:
    assert compute_goodput([event(1000, "start"), event(1001, "stop", status=13)], []).failures == 1


def test_a_run_that_is_alive_is_counted_up_to_now() -> None:
    metrics = rows(1, 2, 1010, 10)
    result = compute_goodput([event(1000, "start")], metrics, now=1034)
    assert (result.attempts[0].ended, result.wall_s, result.unaccounted_s) == ("running", 34.0, 4.0)
    result = compute_goodput([event(1000, "start"), event(1030, "requeue", status=11)], metrics, now=1090)
    assert (result.attempts[0].ended, result.wall_s, result.down_s) == ("requeue", 90.0, 60.0)
    assert compute_goodput([event(1000, "start"), event(1030, "done", step=2)], metrics, now=9999).wall_s == 30.0


def test_clocks_that_disagree_make_no_negative_time() -> None:
    # The second host's clock is 30 s behind; the first was set back by 100 s within step 2.
    metrics = [row(1, 1010, 10), row(2, 920, 10), row(3, 930, 10), row(3, 905, 10, attempt=1)]
    ledger = [event(1000, "start"), event(890, "start", attempt=1), event(891, "resume", attempt=1, step=2)]
    result = compute_goodput(ledger, metrics)
    assert min(result.parts().values()) >= 0 and result.wall_s == pytest.approx(sum(result.parts().values()))
    assert (result.down_s, result.productive_s, result.lost_s) == (0.0, 30.0, 10.0)
    assert result.recovery_s == [0.0]


def test_missing_rows_and_keys_leave_what_is_there() -> None:
    result = compute_goodput([], [])
    assert (result.wall_s, result.goodput, result.attempts) == (0.0, 0.0, [])
    result = compute_goodput(
        [{"event": "start"}, {"event": "hang"}, {"event": "rollback"}, {"event": "resume", "step": None}], [{"loss": 1.0}]
    )
    assert (result.wall_s, result.rollbacks, result.attempts[0].ended) == (0.0, 1, "hang")
    # Metrics without a ledger line of their attempt, and rows without times; the steps are still counted.
    metrics = [{"step": 1}, {"step": 2, "step_s": 3.0}, {"step": 2, "attempt": 1, "step_s": 4.0, "time": 50.0, "skipped": None}]
    result = compute_goodput([event(10, "start")], metrics)
    assert (result.steps, result.lost_steps, result.productive_s, result.lost_s) == (2, 1, 4.0, 3.0)
    assert [a.number for a in result.attempts] == [0, 1]
    # A disk that took no metrics: the ledger knows how far the run came.
    result = compute_goodput(
        [event(10, "start"), event(90, "save", step=5, stall_s=1.0), event(99, "done", step=9, tokens=900)], rows(1, 3, 20, 1)
    )
    assert (result.step, result.tokens, result.unaccounted_s) == (9, 900, pytest.approx(99 - 10 - 10 - 3 - 1))


def test_lines_cut_by_a_kill_are_left_out(tmp_path) -> None:
    lines = [
        orjson.dumps(r) for r in (event(1000, "start"), event(1010, "save", step=1, stall_s=1.0), event(1020, "done", step=2))
    ]
    (tmp_path / "ledger.jsonl").write_bytes(lines[0] + b"\n" + lines[1][:40] + b"\n" + lines[2])
    whole = orjson.dumps(row(1, 1005, 5))
    (tmp_path / "metrics.jsonl").write_bytes(whole + b"\n" + whole[: len(whole) // 2])
    result = compute_goodput(read_jsonl(tmp_path / "ledger.jsonl"), read_jsonl(tmp_path / "metrics.jsonl"))
    assert (result.wall_s, result.saves, result.steps, result.step) == (20.0, 0, 1, 2)
