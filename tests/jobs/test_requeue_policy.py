"""What happens to a job whose ranks have ended follows from how they ended and from the attempts before."""

import pytest

from jadeberta.jobs.requeue_policy import Ending, Limits, decide, hosts_to_exclude

LIMITS = Limits(attempts_without_progress=3, excluded_hosts=2, excluded_hours=24.0)
HOUR = 3600.0


def end(step: int, action: str = "requeue", at: float = 0.0, blamed: tuple[str, ...] = ()) -> dict:
    return {"event": "end", "step": step, "action": action, "time": at, "blamed": list(blamed)}


@pytest.mark.parametrize(
    "ending,following,action,status",
    [
        (Ending(0, True), "requeue", "finish", 0),
        (Ending(137, True), "requeue", "finish", 0),  # DONE is what counts
        (Ending(0, False), "requeue", "requeue", 11),  # srun after a failed launch
        (Ending(11, False, 11, "SIGUSR1 asked to end."), "requeue", "requeue", 11),
        (Ending(11, False, 11), "singleton", "next", 11),
        (Ending(11, False, 11), "none", "stop", 11),
        (Ending(12, False, 12), "requeue", "requeue", 12),
        (Ending(1, False), "requeue", "requeue", 1),
        (Ending(137, False), "requeue", "requeue", 137),
        (Ending(2, False), "requeue", "stop", 2),
        (Ending(3, False, 3), "requeue", "stop", 3),
        (Ending(10, False, 10), "singleton", "stop", 10),
        (Ending(13, False, 13), "requeue", "stop", 13),
        (Ending(143, False, 13), "requeue", "stop", 13),  # srun ended the others with TERM before it saw the cause
        (Ending(12, False, 1), "requeue", "requeue", 12),
        (Ending(11, False, 11, state="COMPLETING"), "requeue", "leave", 11),  # cancelled, or preempted
        (Ending(11, False, 11, state="CANCELLED"), "singleton", "leave", 11),
        (Ending(2, False, state="COMPLETING"), "requeue", "stop", 2),
        (Ending(0, True, state="COMPLETING"), "requeue", "finish", 0),
    ],
)
def test_an_ending_has_its_consequence(ending, following, action, status) -> None:
    decision = decide(ending, [], LIMITS, following)
    assert (decision.action, decision.status) == (action, status)


def test_attempts_without_progress_come_to_an_end() -> None:
    crash = Ending(1, False, step=-1)
    assert decide(crash, [], LIMITS, "requeue").action == "requeue"
    assert decide(crash, [end(-1)], LIMITS, "requeue").action == "requeue"
    third = decide(crash, [end(-1), end(-1)], LIMITS, "requeue")
    assert third.action == "stop" and third.status == 1 and "3 attempts in a row" in third.reason
    assert decide(crash, [end(-1), end(-1)], LIMITS, "singleton").action == "stop"


def test_a_hundred_attempts_with_progress_go_on() -> None:
    past = [end(step) for step in range(100)]
    assert decide(Ending(12, False, step=100), past, LIMITS, "requeue").action == "requeue"


def test_one_attempt_with_progress_resets_the_count() -> None:
    past = [end(5), end(5), end(5), end(7), end(7), end(7)]
    assert decide(Ending(1, False, step=8), past, LIMITS, "requeue").action == "requeue"
    assert decide(Ending(1, False, step=7), past, LIMITS, "requeue").action == "stop"


def test_going_back_to_an_older_checkpoint_is_no_progress() -> None:
    assert decide(Ending(1, False, step=6), [end(9), end(4), end(5)], LIMITS, "requeue").action == "stop"


def test_a_job_that_a_person_submits_again_begins_a_new_count() -> None:
    past = [end(5), end(5), end(5), end(5, "stop")]
    assert decide(Ending(1, False, step=5), past, LIMITS, "requeue").action == "requeue"
    assert decide(Ending(1, False, step=5), [*past, end(5), end(5)], LIMITS, "requeue").action == "stop"


def test_an_attempt_that_slurm_ended_does_not_count() -> None:
    past = [end(5), {"event": "begin"}, {"event": "begin"}, end(5, "leave"), end(5, "leave"), {"event": "begin"}]
    assert decide(Ending(1, False, step=5), past, LIMITS, "requeue").action == "requeue"


def test_a_blamed_host_is_excluded_for_a_day() -> None:
    past = [end(5, at=0.0, blamed=("node7",)), end(6, at=20 * HOUR, blamed=("node2",))]
    ending = Ending(12, False, step=9, time=23 * HOUR, blamed=("node3",))
    assert decide(ending, past, LIMITS, "requeue").excluded == ("node3", "node2")  # the limit is two: the oldest goes
    later = Ending(11, False, step=9, time=25 * HOUR)
    assert hosts_to_exclude(later, past, LIMITS) == ["node2"]
    assert hosts_to_exclude(Ending(11, False, time=45 * HOUR), past, LIMITS) == []


def test_no_host_is_excluded_where_none_can_be_spared() -> None:
    assert hosts_to_exclude(Ending(12, False, time=1.0, blamed=("node3",)), [], Limits(3, 0, 24.0)) == []


def test_rows_with_missing_fields_are_read() -> None:
    rows = [{"event": "end"}, {"event": "end", "step": None, "blamed": None}, {}, {"event": "begin", "blamed": ["node1"]}]
    assert decide(Ending(1, False), rows, LIMITS, "requeue").action == "requeue"
