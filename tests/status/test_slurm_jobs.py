"""The state of a run follows from its records, its ledger and what Slurm says."""

from dataclasses import replace

import pytest
import yaml

from jadeberta.cluster.slurm import SlurmJob
from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.jobs.job_records import JobRecords
from jadeberta.status.eta import Goal, jobs_to_come, next_save, read_goal, training_left_s
from jadeberta.status.facts import NOT_CONTINUED, state
from jadeberta.status.goodput import Attempt, Goodput
from jadeberta.status.slurm_jobs import from_records, newest_job, verdict_sentence, with_slurm

BEGIN = {"event": "begin", "time": 100.0, "job": 12, "array": None, "restarts": 0, "name": "large", "partition": "gpu", "step": -1,
         "hosts": ["node1", "node2"], "blamed": [], "users_exclusions": ["node9"]}  # fmt: skip
START = {"event": "start", "time": 110.0, "slurm": {"job": 12, "restarts": 0, "hosts": ["node1", "node2"], "name": "large"}}
END = {"event": "end", "time": 200.0, "job": 12, "status": 12, "action": "requeue", "reason": "status 12: node2 hangs. It is requeued.",
       "excluded": ["node2"], "blamed": ["node2"], "step": 40}  # fmt: skip
RUNNING = SlurmJob(12, None, "large", "RUNNING", "", "gpu", "node[1-2]", "node9", 0, 90.0, 3690.0)
WAITING = replace(
    RUNNING, state="PENDING", reason="BeginTime", hosts="", excluded="node[2,9]", restarts=1, starts=320.0, ends=3920.0
)


def run_that_ended(ended: str) -> Goodput:
    return Goodput(attempts=[Attempt(0, ended, "node1", 110.0, 190.0, 1, 40, False)])


def test_the_newest_job_is_that_of_the_newest_attempt() -> None:
    assert newest_job(JobRecords([BEGIN]), [])["job"] == 12
    assert newest_job(JobRecords([]), [START]) == START["slurm"], "a job without records"
    assert newest_job(JobRecords([BEGIN, END, BEGIN | {"time": 300.0, "job": 13}]), [START])["job"] == 13
    assert newest_job(JobRecords([BEGIN, END]), [START, {"event": "start", "time": 400.0, "slurm": {}}]) is None, (
        "goes on without Slurm"
    )
    assert newest_job(JobRecords([]), [{"event": "start", "time": 1.0}]) is None and newest_job(JobRecords([]), []) is None


@pytest.mark.parametrize(
    ("records", "ledger", "job", "result", "expected"),
    [
        ([BEGIN], [], RUNNING, Goodput(), "starting up"),
        ([BEGIN], [START], RUNNING, run_that_ended("running"), "running"),
        ([BEGIN], [START], replace(RUNNING, state="TIMEOUT"), run_that_ended("killed"), "killed"),
        ([BEGIN], [START], WAITING, run_that_ended("killed"), "queued"),
        ([BEGIN, END], [START], WAITING, run_that_ended("hang"), "queued"),
        ([BEGIN, END], [START], replace(RUNNING, restarts=1), run_that_ended("hang"), "starting up"),
        (
            [BEGIN, END, BEGIN | {"time": 330.0, "restarts": 1}],
            [START],
            replace(RUNNING, restarts=1),
            run_that_ended("hang"),
            "starting up",
        ),
        ([BEGIN, END], [START], None, run_that_ended("hang"), "requeued"),
        ([BEGIN, END | {"action": "stop"}], [START], replace(RUNNING, state="FAILED"), run_that_ended("stop"), "stopped"),
        (
            [BEGIN, END | {"action": "leave"}],
            [START],
            replace(RUNNING, state="COMPLETING"),
            run_that_ended("requeue"),
            "ended by Slurm",
        ),
        (
            [BEGIN, END | {"action": "leave"}],
            [START],
            replace(RUNNING, state="CANCELLED"),
            run_that_ended("requeue"),
            "cancelled",
        ),
        ([BEGIN], [START], replace(RUNNING, state="CANCELLED"), run_that_ended("killed"), "cancelled"),
        ([BEGIN, END], [START], replace(RUNNING, state="FAILED"), run_that_ended("hang"), NOT_CONTINUED),
        ([BEGIN, END | {"action": "finish"}], [START], replace(RUNNING, state="COMPLETED"), run_that_ended("done"), "done"),
        ([BEGIN, END | {"action": "next"}], [START], replace(WAITING, job=13, restarts=0), run_that_ended("requeue"), "queued"),
        ([BEGIN, END | {"action": "next"}], [START], replace(RUNNING, job=13), run_that_ended("requeue"), "starting up"),
        ([], [START], RUNNING, run_that_ended("running"), "running"),
    ],
)
def test_the_state_of_a_run_follows_from_its_records_and_slurm(records, ledger, job, result, expected) -> None:
    known = from_records(JobRecords(records), ledger)
    assert state(result, with_slurm(known, job, 250.0) if job else known) == expected


def test_records_alone_name_the_job_its_hosts_and_the_excluded_ones() -> None:
    known = from_records(JobRecords([BEGIN, END]), [START])
    assert (known.job, known.name, known.hosts, known.attempts, known.excluded) == (12, "large", "node1,node2", 1, "node2,node9")
    assert known.ends == [END] and known.ended and known.state == ""


def test_slurm_says_when_a_job_begins_and_when_its_time_is_over() -> None:
    known = from_records(JobRecords([BEGIN]), [START])
    waits, works = with_slurm(known, WAITING, 250.0), with_slurm(known, RUNNING, 250.0)
    assert (waits.starts_in_s, waits.limit_in_s, waits.hosts, waits.excluded) == (70.0, None, "", "node[2,9]")
    assert (works.starts_in_s, works.limit_in_s, works.limit_s, works.hosts) == (None, 3440.0, 3600.0, "node[1-2]")
    assert with_slurm(known, replace(RUNNING, ends=None), 250.0).limit_in_s is None


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"time": 150.0, "fit": True, "hosts": [{}, {}]}, "fit, 2 hosts"),
        ({"time": 50.0, "fit": True, "hosts": [{}]}, "fit, 1 host (of an earlier attempt)"),
        (
            {"time": 150.0, "fit": False, "unfit": {"node3": ["link slow", "clock"]}, "common": ["no shards"]},
            "not fit: no shards; node3: link slow, clock",
        ),
        ({}, "not fit: no reason is given (of an earlier attempt)"),
    ],
)
def test_the_verdict_of_a_preflight_is_a_sentence(known, sentence) -> None:
    assert verdict_sentence(known, 100.0) == sentence


def test_the_next_save_is_at_the_next_multiple_or_at_the_end() -> None:
    at = Goodput(step=47, step_s=2.0)
    assert next_save(at, Goal(400, 50)) == (50, 6.0)
    assert next_save(Goodput(step=50, step_s=2.0), Goal(400, 50)) == (100, 100.0)
    assert next_save(at, Goal(48, 50)) == (48, 2.0) and next_save(at, Goal(48, None)) == (48, 2.0)
    assert next_save(Goodput(step=48, step_s=2.0), Goal(48, 50)) is None
    assert next_save(Goodput(step=47), Goal(400, 50)) is None and next_save(at, Goal()) is None


def test_over_the_border_of_a_phase_a_step_takes_as_long_as_its_tokens(tmp_path) -> None:
    recipe = {
        "training": {"max_steps": 100, "global_batch_size": 8, "batch_size_warmup": []},
        "checkpoint": {"every_steps": 20},
        "model": {"max_position_embeddings": 512},
        "phases": [{"steps": 90, "sequence_length": 128, "global_batch_size": None}, {"steps": 10, "global_batch_size": 4}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    goal, at = read_goal(tmp_path), Goodput(step=80, step_s=3.0)
    assert next_save(at, goal) == (100, 10 * 3.0 + 10 * 6.0) and training_left_s(at, goal) == 90.0
    # The shards say how long a row is where a phase does not; the model may take longer ones.
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/index.json").write_text('{"sequence_length": 256}')
    for directory in (tmp_path / "shards", tmp_path):  # the folder of the stages has them too
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"data": {"shards": str(directory)}}))
        assert training_left_s(at, read_goal(tmp_path)) == 10 * 3.0 + 10 * 3.0
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"phases": ["x"]}))
    assert training_left_s(at, read_goal(tmp_path)) == 60.0


def test_what_is_left_of_the_training_counts_in_jobs_of_this_time_limit() -> None:
    known = with_slurm(from_records(JobRecords([BEGIN]), [START]), RUNNING, 90.0)
    assert training_left_s(Goodput(step=100, step_s=10.0), Goal(1000)) == 9000.0
    assert [jobs_to_come(known, left) for left in (3600.0, 3601.0, 9000.0)] == [0, 1, 2]
    assert jobs_to_come(from_records(JobRecords([BEGIN]), [START]), 9000.0) is None
    assert training_left_s(Goodput(step=1000, step_s=10.0), Goal(1000)) is None
    # Ten more steps of 2 sequences and five of 8, at half a second a sequence.
    assert training_left_s(Goodput(step=10, step_s=1.0), Goal(25, sizes=BatchSizes(8, ((2, 20),)))) == 30.0


def test_the_goal_is_read_from_the_recipe_as_far_as_it_can_be(tmp_path) -> None:
    assert read_goal(tmp_path) == Goal()
    for text, goal in (
        ("training: {max_steps: 400}\ncheckpoint: {every_steps: 50}", Goal(400, 50)),
        ("training: {max_steps: many}\ncheckpoint: {every_steps: 0}", Goal()),
        (
            "training: {max_steps: 400, global_batch_size: 8, batch_size_warmup: [[2, 20]]}",
            Goal(400, sizes=BatchSizes(8, ((2, 20),))),
        ),
        ("training: {max_steps: 400, global_batch_size: 8, batch_size_warmup: much}", Goal(400)),
        ("training: [", Goal()),
        ("- a list", Goal()),
    ):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        assert read_goal(tmp_path) == goal
