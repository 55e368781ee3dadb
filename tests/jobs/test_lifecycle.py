"""The records of a job: what an attempt writes into them, and what the next attempt and the shell read."""

import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from jadeberta.jobs.exit_reason import read_exit_reason, write_exit_reason
from jadeberta.jobs.lifecycle import _parser, is_finished, reported_cause
from jadeberta.preflight.cli import _parser as preflight_parser
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT, make_recipe, make_shards

JOB = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NAME": "large", "SLURM_RESTART_COUNT": "0",
    "PATH": "/usr/bin:/bin",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with a recipe and a run directory."""
    shards = make_shards(tmp_path / "shards", {"wikipedia": (4, 1)})
    make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", training={"micro_batch_size": 1})
    (tmp_path / "run").mkdir()
    return tmp_path


def ask(run: Path, *options: str, status: int = 0, **env: str) -> str:
    """The line that the shell reads."""
    command = [sys.executable, "-m", "jadeberta.jobs.lifecycle", options[0], "--config", str(run / "recipe.yaml"), *options[1:]]
    done = subprocess.run(command, env=JOB | env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == status, done.stderr
    return done.stdout.strip()


def records(run: Path) -> list[dict]:
    return read_jsonl(run / "run" / "jobs.jsonl")


def write_ledger(run: Path, *rows: dict) -> None:
    with open(run / "run" / "ledger.jsonl", "ab") as f:
        f.writelines(orjson.dumps({"time": time.time(), "life": 0} | row) + b"\n" for row in rows)


def test_an_attempt_is_recorded_from_its_begin_to_its_end(run) -> None:
    assert ask(run, "begin", "--excluded", "(null)") == ""
    (run / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    write_ledger(run, {"event": "requeue", "status": 11, "reason": "USR1 asked to end"})
    assert ask(run, "end", "--status", "11", "--next", "requeue") == "requeue 11 -"
    begin, end = records(run)
    assert (begin["job"], begin["hosts"], begin["step"], begin["life"]) == (7, ["node1", "node2"], -1, 0)
    assert (end["status"], end["action"], end["step"], end["life"]) == (11, "requeue", 4, 0)
    assert end["reason"].startswith("status 11: USR1 asked to end. ")


def test_events_of_earlier_attempts_are_not_read_as_this_ones(run) -> None:
    write_ledger(run, {"event": "stop", "status": 13, "reason": "numerics", "time": time.time() - 100})
    ask(run, "begin")
    assert ask(run, "end", "--status", "12", "--next", "requeue") == "requeue 12 -"


def test_a_host_that_does_not_answer_or_hung_is_excluded_while_others_are_free(run) -> None:
    ask(run, "begin")
    hang = {"event": "hang", "reason": "it is behind", "suspects": [{"rank": 1, "host": "node2.cluster.jp"}]}
    write_ledger(run, hang)
    usable = ("--usable", "node1 node2 node3")
    assert ask(run, "end", "--status", "12", "--next", "requeue", "--answered", "node1 node2", *usable) == "requeue 12 node2"
    ask(run, "begin")
    assert ask(run, "end", "--status", "12", "--next", "requeue", "--answered", "node2", *usable) == "requeue 12 node1"
    assert [row["blamed"] for row in records(run) if row["event"] == "end"] == [["node2"], ["node1"]]


def test_a_host_that_was_slow_for_too_long_is_excluded_and_one_that_was_asked_for_before_is_not(run) -> None:
    ask(run, "begin")
    slow = {"event": "slow_rank", "rank": 1, "host": "node2.cluster.jp", "requeue": True}
    write_ledger(
        run, slow | {"host": "node1", "requeue": False}, slow, {"event": "requeue", "status": 11, "reason": "asked to end"}
    )
    answer = ask(run, "end", "--status", "11", "--next", "requeue", "--answered", "node1 node2", "--usable", "node1 node2 node3")
    assert answer == "requeue 11 node2" and records(run)[-1]["blamed"] == ["node2"]


def test_no_host_is_excluded_where_the_partition_has_no_other(run) -> None:
    ask(run, "begin")
    answer = ask(run, "end", "--status", "12", "--next", "requeue", "--answered", "node1", "--usable", "node1 node2")
    assert answer == "requeue 12 -"


def test_hosts_that_the_user_excluded_stay_excluded(run) -> None:
    ask(run, "begin", "--excluded", "node[8-9]")
    usable = ("--usable", "node1 node2 node3 node4")
    assert (
        ask(run, "end", "--status", "12", "--next", "requeue", "--answered", "node1", *usable) == "requeue 12 node2,node8,node9"
    )
    # The next attempt finds all three in its ExcNodeList; node2 expires in time, the others never.
    ask(run, "begin", "--excluded", "node[2,8-9]")
    assert records(run)[-1]["users_exclusions"] == ["node8", "node9"]


def test_a_host_that_went_down_with_an_attempt_is_blamed_by_the_next(run) -> None:
    ask(run, "begin")
    ask(run, "begin", "--down", "node2 node4", SLURM_RESTART_COUNT="1")
    assert records(run)[-1]["blamed"] == ["node2"]
    assert ask(run, "end", "--status", "1", "--next", "requeue", "--usable", "node1 node2 node3") == "requeue 1 node2"
    # The script may still have had the time to record that Slurm ends it.
    ask(run, "begin", SLURM_RESTART_COUNT="2")
    assert ask(run, "end", "--status", "12", "--state", "COMPLETING") == "leave 12 -"
    ask(run, "begin", "--down", "node1", SLURM_RESTART_COUNT="3")
    assert records(run)[-1]["blamed"] == ["node1"]


def test_the_verdict_of_an_earlier_attempts_preflight_does_not_count(run) -> None:
    verdict = {"time": time.time(), "fit": False, "unfit": {"node2": ["slow"]}}
    (run / "run" / "preflight.json").write_bytes(orjson.dumps(verdict))
    ask(run, "begin")
    assert ask(run, "fit", "--next", "requeue") == "go"
    (run / "run" / "preflight.json").write_bytes(orjson.dumps(verdict | {"time": time.time()}))
    assert ask(run, "fit", "--next", "requeue", "--usable", "node1 node2 node3") == "requeue 1 node2"
    assert ask(run, "fit", "--cluster.drop_hosts", "1") == "without node2 1 1"


def test_a_fault_of_no_host_stops_the_job(run) -> None:
    ask(run, "begin")
    verdict = {"time": time.time(), "fit": False, "unfit": {}, "common": ["the index differs"]}
    (run / "run" / "preflight.json").write_bytes(orjson.dumps(verdict))
    assert ask(run, "fit", "--next", "requeue") == "stop 2 -"


def test_the_watch_answers_late_when_the_ranks_have_ended_and_srun_has_not(run) -> None:
    ask(run, "begin")
    write_ledger(run, {"event": "hang", "time": time.time() - 3600}, {"event": "save"}, {"event": "lost_rank"})
    began = time.monotonic()
    assert ask(run, "watch") == "late" and time.monotonic() - began > 20


def test_a_watch_whose_shell_has_ended_meanwhile_ends_too(run) -> None:
    ask(run, "begin")
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert ask(run, "watch", "--parent", str(gone.pid)) == ""


def test_exit_reasons_of_ranks_that_had_no_ledger_yet_count(run) -> None:
    folder = run / "run" / "logs" / "exit-reasons"
    write_exit_reason(folder, 3, 2, "of an earlier attempt.")
    ask(run, "begin")
    # srun's status is that of its own signal to the others.
    assert ask(run, "end", "--status", "143", "--next", "requeue") == "requeue 143 -"
    write_exit_reason(folder, 1, 2, "the batch does not divide.")
    (folder / "rank-00000.json").write_bytes(b"cut sho")
    assert ask(run, "end", "--status", "143", "--next", "requeue") == "stop 2 -"
    assert records(run)[-1]["reason"].startswith("status 143: the batch does not divide. ")


def test_exit_reasons_count_whatever_the_clock_of_their_host_shows(run) -> None:
    folder = run / "run" / "logs" / "exit-reasons"
    write_exit_reason(folder, 3, 2, "of an earlier attempt.")
    late = orjson.loads((folder / "rank-00003.json").read_bytes()) | {"time": time.time() + 3600}
    (folder / "rank-00003.json").write_bytes(orjson.dumps(late))
    ask(run, "begin")
    assert read_exit_reason(folder) == (None, "")
    (folder / "rank-00001.json").write_bytes(orjson.dumps(late | {"time": 0.0, "reason": "the batch does not divide."}))
    assert read_exit_reason(folder) == (2, "the batch does not divide.")


def test_an_exit_reason_that_cannot_be_written_is_skipped(run) -> None:
    write_exit_reason(run / "recipe.yaml", 0, 2, "no folder")
    assert not list(run.glob("*.tmp"))


def test_a_recipe_that_cannot_be_read_ends_with_its_status(run) -> None:
    ask(run, "begin", "--training.max_steps", "0", status=2)


@pytest.mark.parametrize(
    "rows,reported",
    [
        ([], (None, "")),
        ([{"event": "save"}], (None, "")),
        ([{"event": "hang", "reason": "silent"}], (12, "silent.")),
        # Rank 0 only saw another one go; that one knows why.
        ([{"event": "stop", "status": 1, "reason": "bad shard."}, {"event": "lost_rank", "status": 12}], (1, "bad shard.")),
        ([{"event": "lost_rank", "status": 12, "reason": "closed"}], (12, "closed.")),
    ],
)
def test_the_cause_is_reported_rather_than_its_consequences(rows, reported) -> None:
    assert reported_cause(rows) == reported


@pytest.mark.parametrize(
    "content,finished", [(b'{"step": 6}', True), (b'{"step": 5}', False), (b"", False), (b"[]", False), (b'{"step": "6"}', False)]
)
def test_only_the_last_step_is_the_end(tmp_path, content, finished) -> None:
    (tmp_path / "DONE").write_bytes(content)
    assert is_finished(tmp_path, 6) is finished
    assert not is_finished(tmp_path / "nowhere", 6)


@pytest.mark.parametrize("parse", [_parser().parse_known_args, preflight_parser().parse_known_args])
def test_options_of_the_training_alone_are_taken_beside_the_keys_of_the_recipe(parse) -> None:
    own = [] if parse.__self__.prog == "jadeberta preflight" else ["begin"]
    options = ["--resume", "auto", "--branch-from", "runs/large/checkpoints/step-00000100", "--training.lr", "1e-3"]
    assert parse([*own, "--config", "recipe.yaml", *options])[1] == ["--training.lr", "1e-3"]
