"""The training loop through every branch, with fakes around it: which calls it makes, in which order, and the state it ends with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from jadeberta.config.phase_config import PhaseConfig
from jadeberta.data.batches import StepBatch
from jadeberta.errors import CheckpointError, NumericsError, RequeueRequested, ShardError, StopRequested, is_retryable
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import StepResult
from jadeberta.training.hooks import TrainerHooks
from jadeberta.training.loop import SAVE_TRIES, RollBack
from jadeberta.training.lr_schedule import rate_of
from jadeberta.training.run_state import RunState
from tests.training.loop_fakes import ROW, SHARD, TOKENS, FakeEngine, FakeSaver, LoopRun


def without_beats(job: LoopRun) -> list[str]:
    return [call for call in job.calls if not call.startswith("beat")]


def step(number: int) -> list[str]:
    """Calls of an ordinary step."""
    return [f"step {number}", f"beat step {number} metrics", f"log {number}", f"beat step {number + 1} data"]


def test_ordinary_steps_then_the_save_at_the_end_and_nothing_else() -> None:
    job = LoopRun(max_steps=3)
    assert job.run() == RunState(step=3, tokens=3 * TOKENS)
    assert job.calls == [
        "beat first_step 1 data", "step 1", "beat first_step 1 metrics", "log 1", "first step done", "beat step 2 data",
        *step(2),
        "step 3", "beat step 3 metrics", "log 3", "beat save 3 snapshot", "save 3", "beat step 4 data",
        "beat save 3 last save", "settle 3", "secure",
    ]  # fmt: skip
    assert job.lrs == [rate_of(job.recipe, n) for n in range(3)] == [0.0, 0.5, 1.0]
    assert job.own_flags == [RankFlags()] * 3


def test_a_resumed_run_goes_on_from_its_state_and_its_first_step_is_a_first_step_again() -> None:
    job = LoopRun(max_steps=6, first_step=4)
    assert job.run(tokens=40, skipped_steps=1, rollbacks=2) == RunState(6, 60, 1, 2)
    assert job.calls[:3] == ["beat first_step 5 data", "step 5", "beat first_step 5 metrics"]
    assert job.calls.count("first step done") == 1


def test_at_a_border_the_next_step_is_a_first_step_again_with_the_phase_entered_before_it() -> None:
    job = LoopRun(max_steps=4)
    job.recipe.phases = [PhaseConfig(steps=2), PhaseConfig(steps=2, lr=0.5, warmup_steps=0)]
    job.run()
    assert job.calls[:2] == ["enter phase 1", "beat first_step 1 data"]
    border = job.calls.index("first step ahead")
    assert job.calls[border - 1 : border + 6] == [
        "log 2", "first step ahead", "enter phase 2 at its border", "beat first_step 3 data",
        "step 3", "beat first_step 3 metrics", "log 3",
    ]  # fmt: skip
    assert job.lrs == [0.0, 0.5, 0.5, 0.5] and job.calls.count("first step done") == 2


@pytest.mark.parametrize(("first", "entered"), [(2, "enter phase 2 at its border"), (3, "enter phase 2")])
def test_a_run_that_resumes_enters_the_phase_of_its_step(first, entered) -> None:
    job = LoopRun(max_steps=4, first_step=first)
    job.recipe.phases = [PhaseConfig(steps=2), PhaseConfig(steps=2)]
    job.run()
    assert job.calls[:2] == [entered, f"beat first_step {first + 1} data"] and "first step ahead" not in job.calls


def test_a_loader_that_gives_another_step_is_an_error() -> None:
    job = LoopRun(first_step=2)
    with pytest.raises(RuntimeError, match="gave step 2 where step 0 was due"):
        job.first_step, batches = 0, job.batches()
        next(batches), next(batches)
        job.batches = lambda: batches  # type: ignore[method-assign]
        job.run()


def test_a_skipped_step_is_counted_and_recorded_with_its_samples_and_the_run_goes_on() -> None:
    job = LoopRun(skipped={2})
    assert job.run() == RunState(step=4, tokens=4 * TOKENS, skipped_steps=1)
    calls = without_beats(job)
    assert calls[calls.index("step 2") :][:3] == ["step 2", "log 2", "log skipped 2"]
    # Training step 1 reads data step 3: the steps 1 and 2 of the data are skipped.
    assert job.skip_rows == [{"data_step": 3, "epochs": [0], "samples": job.order.step(1)[1].tolist()}]


def test_skips_that_are_not_consecutive_roll_nothing_back() -> None:
    job = LoopRun(max_steps=6, skipped={2, 4, 6})
    assert job.run().skipped_steps == 3


def test_one_consecutive_skip_more_than_the_guard_allows_rolls_back_before_anything_is_saved() -> None:
    job = LoopRun(max_steps=6, max_skips=2, skipped={3, 4, 5}, every=5)
    error = job.ends_with(RollBack)
    assert (error.first_bad, error.end, str(error)) == (2, 5, "3 steps in a row up to step 5 were skipped")
    # The step after it may be one of the phase before, which compiles again.
    assert job.calls[-2:] == ["log skipped 5", "first step ahead"] and not any(call.startswith("save") for call in job.calls)


def test_a_due_save_is_settled_at_the_step_where_all_ranks_have_written() -> None:
    job = LoopRun(max_steps=6, every=2, written_after=2)
    job.run()
    assert without_beats(job) == [
        "step 1", "log 1", "first step done", "step 2", "log 2", "save 2",
        # The first look comes before step 3, the second before step 4, which carries the flag to all ranks.
        "step 3", "log 3", "step 4", "log 4", "settle 2", "save 4",
        "step 5", "log 5", "step 6", "log 6", "settle 4", "save 6", "settle 6", "secure",
    ]  # fmt: skip
    assert [flags.written for flags in job.own_flags] == [0, 0, 0, 1, 0, 1]


def test_the_time_of_a_save_belongs_to_the_row_after_it_and_to_no_step(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("jadeberta.training.loop.time.monotonic", lambda: now[0])
    job = LoopRun(max_steps=4, every=2)
    monkeypatch.setattr(FakeSaver, "save", advancing(now, 30.0, FakeSaver.save))
    monkeypatch.setattr(FakeEngine, "step", advancing(now, 2.0, FakeEngine.step))
    job.run()
    rows = [(1, 2.0, 0.0, 0.0), (2, 2.0, 0.0, 0.0), (3, 2.0, 0.0, 30.0), (4, 2.0, 0.0, 0.0)]
    assert [(number, *times) for number, times in job.logged] == rows


def advancing(now: list[float], seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        now[0] += seconds
        return function(*arguments)

    return call


def test_the_file_save_saves_once_and_the_run_goes_on() -> None:
    job = LoopRun(flags={2: RankFlags(save=1)})
    assert job.run().step == 4
    calls = without_beats(job)
    assert calls[calls.index("step 2") :][:4] == ["step 2", "log 2", "save 2", "clear SAVE"]
    assert [call for call in calls if call.startswith("save")] == ["save 2", "save 4"]


def test_the_file_stop_saves_waits_for_the_disk_and_ends_the_run() -> None:
    job = LoopRun(flags={2: RankFlags(stop=1)})
    error = job.ends_with(StopRequested)
    assert job.calls[job.calls.index("log 2") :] == [
        "log 2", "beat save 2 snapshot", "save 2", "beat save 2 save before the end", "settle 2", "secure", "clear STOP",
    ]  # fmt: skip
    assert "runs/test/STOP was found at step 2 of 4; the newest checkpoint is of step 2" in str(error)


@pytest.mark.parametrize(
    ("reason", "named"),
    [("SIGUSR1", "SIGUSR1"), ("SIGTERM", "SIGTERM"), ("run.max_hours", "run.max_hours"), ("", "another rank")],
)
def test_a_signal_or_the_time_limit_saves_and_asks_for_a_requeue(reason, named) -> None:
    job = LoopRun(flags={3: RankFlags(requeue=1)})
    job.reason = reason
    error = job.ends_with(RequeueRequested)
    assert without_beats(job)[-3:] == ["save 3", "settle 3", "secure"]
    assert f"{named} asked to end at step 3 of 4; the newest checkpoint is of step 3" in str(error)


def test_stop_goes_before_requeue() -> None:
    job = LoopRun(flags={3: RankFlags(stop=1, requeue=1)}, every=1, written_after=1)
    assert "STOP was found at step 3 of 4" in str(job.ends_with(StopRequested))


@pytest.mark.parametrize(("flags", "error"), [(RankFlags(stop=1), CheckpointError), (RankFlags(requeue=1), RequeueRequested)])
def test_an_end_that_was_asked_for_is_no_good_end_where_the_last_checkpoint_is_not_as_it_was_written(flags, error) -> None:
    job = LoopRun(flags={3: flags}, every=2, fails_to_save={3: SAVE_TRIES}, written_after=1)
    ended = job.ends_with(error)
    assert is_retryable(ended.exit_status) and "clear STOP" not in job.calls
    assert "at step 3 of 4, but the last checkpoint, of step 3, could not be written; the newest is of step 2" in str(ended)


def test_a_request_at_the_last_step_changes_nothing_the_run_is_done() -> None:
    job = LoopRun(max_steps=2, flags={2: RankFlags(stop=1, requeue=1)})
    assert job.run().step == 2
    assert without_beats(job)[-3:] == ["save 2", "settle 2", "secure"] and "clear STOP" not in job.calls


def test_an_evaluation_comes_when_it_is_due_and_at_the_end_and_before_the_save() -> None:
    job = LoopRun(max_steps=5, evaluate_every=2, every=2)
    job.run()
    assert [call for call in without_beats(job) if call.split()[0] in ("evaluate", "save")] == [
        "evaluate 2", "save 2", "evaluate 4", "save 4", "evaluate 5", "save 5",
    ]  # fmt: skip
    assert job.calls[job.calls.index("evaluate 2") - 1] == "beat eval 2 evaluation"


@pytest.mark.parametrize("flags", [RankFlags(stop=1), RankFlags(requeue=1)])
def test_no_evaluation_begins_where_the_run_is_to_end(flags) -> None:
    job = LoopRun(evaluate_every=2, flags={2: flags})
    job.ends_with(StopRequested if flags.stop else RequeueRequested)
    assert not any(call.startswith("evaluate") for call in job.calls) and "save 2" in job.calls


@pytest.mark.parametrize(
    ("flags", "error"), [(RankFlags(stop=1), StopRequested), (RankFlags(requeue=2), RequeueRequested), (RankFlags(save=1), None)]
)
def test_a_request_that_comes_while_evaluating_is_done_at_the_same_step(flags, error) -> None:
    job = LoopRun(evaluate_every=2, flags_while_evaluating={2: flags})
    assert (job.run().step == 4) if error is None else job.ends_with(error)
    calls = without_beats(job)
    assert calls[calls.index("evaluate 2") + 1] == "save 2"
    assert ("clear SAVE" in calls) == bool(flags.save)


def test_a_damaged_row_is_recorded_and_the_run_goes_on() -> None:
    job = LoopRun(rows={2: [ROW]})
    assert job.run().step == 4
    calls = without_beats(job)
    assert calls[calls.index("log 2") + 1] == "excluded row 3 of cc100-00000.tar at 2"


def test_a_damaged_shard_is_excluded_on_all_ranks_at_the_step_whose_flags_tell_of_it() -> None:
    job = LoopRun(damaged={3: [SHARD]})
    assert job.run().step == 4
    assert [flags.damaged for flags in job.own_flags] == [0, 0, 1, 0]
    assert [call for call in job.calls if call.startswith("exclude")] == ["exclude ['cc100-00001.tar'] at 3"]


def test_a_rank_that_found_nothing_excludes_what_another_found() -> None:
    job = LoopRun()
    other = FakeEngine.step

    def step_of_two(self: FakeEngine, batch: StepBatch, lr: float, flags: RankFlags) -> StepResult:
        result = other(self, batch, lr, flags)
        return replace(result, flags=replace(result.flags, damaged=int(batch.step == 1)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeEngine, "step", step_of_two)
        job.run()
    assert [flags.damaged for flags in job.own_flags] == [0] * 4
    assert [call for call in job.calls if call.startswith("exclude")] == ["exclude [] at 2"]


def test_damage_that_ends_the_run_leaves_no_checkpoint_of_its_step() -> None:
    job = LoopRun(every=1, damaged={3: [SHARD]}, is_strict=True)
    job.ends_with(ShardError)
    assert "save 2" in job.calls and "save 3" not in job.calls


def test_weights_are_compared_after_the_first_step_and_every_so_many() -> None:
    job = LoopRun(max_steps=7, first_step=1, compare_every=3)
    job.run()
    calls = without_beats(job)
    assert [calls[place - 1] for place, call in enumerate(calls) if call == "compare weights"] == ["log 2", "log 3", "log 6"]


def test_weights_are_never_compared_where_the_recipe_says_0() -> None:
    job = LoopRun()
    job.run()
    assert "compare weights" not in job.calls


@pytest.mark.parametrize(("odd", "who"), [([1], "those of rank 1 are not"), ([0, 1], "ranks 0, 1 do not agree")])
def test_ranks_whose_weights_differ_end_the_run_before_the_save(odd, who) -> None:
    job = LoopRun(compare_every=2, every=2, differing={2: odd})
    error = job.ends_with(NumericsError)
    assert f"the same at step 2 and {who}" in str(error)
    assert job.calls[-1] == "compare weights" and "save 2" not in job.calls


def test_a_last_checkpoint_that_cannot_be_written_is_an_error() -> None:
    job = LoopRun(max_steps=4, every=2, fails_to_save={4: SAVE_TRIES}, written_after=1)
    error = job.ends_with(CheckpointError)
    assert "the last checkpoint, of step 4, could not be written; the newest is of step 2" in str(error)
    assert [call for call in job.calls if call.startswith("save")] == ["save 2", *["save 4"] * SAVE_TRIES]


def test_a_last_checkpoint_that_is_not_as_it_was_written_is_saved_again_each_time_with_the_watchdogs_whole_limit() -> None:
    job = LoopRun(max_steps=3, fails_to_save={3: SAVE_TRIES - 1})
    assert job.run().step == 3
    again = ["beat step 3 save again", "beat save 3 save again", "save 3", "settle 3", "secure"]
    assert job.calls[job.calls.index("beat save 3 last save") :] == [
        "beat save 3 last save",
        "settle 3",
        "secure",
        *again,
        *again,
    ]


def test_a_save_on_a_disk_that_does_not_answer_is_not_tried_again() -> None:
    job = LoopRun(max_steps=3, fails_to_save={3: 1}, may_retry=False)
    job.ends_with(CheckpointError)
    assert job.calls.count("save 3") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [(RankFlags(stop=1), "not finished: asked to end"), (RankFlags(), "none: the shards hold no held-out rows of this length")],
)
def test_an_evaluation_without_figures_says_why(flags, words, caplog) -> None:
    context = MagicMock()
    with caplog.at_level("INFO", "jadeberta"):
        assert TrainerHooks(context, [], lambda local: ({}, flags)).evaluate(8) == flags
    assert f"step 8: held-out masked accuracy  {words}" in caplog.text
    assert context.record.call_args.kwargs["whole"] is False
