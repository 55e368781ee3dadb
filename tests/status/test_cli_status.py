"""`jadeberta status`: what it prints of a run directory, and where it refuses."""

import json
import os
import subprocess
import sys
import time

import orjson
import pytest

from jadeberta.errors import ConfigError, InputError
from jadeberta.status import cli as status
from jadeberta.status.attempts import read_run
from jadeberta.status.facts import read_goodput
from jadeberta.status.goodput import compute_goodput
from jadeberta.status.slurm_jobs import JobStatus
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT


@pytest.fixture
def run(tmp_path):
    """A run of two attempts; the second is at step 150 of 400 and was heard of 5 s ago."""
    now = time.time()
    born = now - 2000
    ledger = [
        {"time": born, "event": "start", "life": 0, "host": "n1", "world_size": 2},
        {"time": born + 1100, "event": "save", "life": 0, "host": "n1", "step": 100, "stall_s": 2.0},
        {"time": born + 1150, "event": "hang", "life": 0, "host": "n2", "rank": 1, "phase": "step", "step": 100, "seconds": 48.0},
        {"time": born + 1300, "event": "start", "life": 1, "host": "n1", "world_size": 2},
        {"time": born + 1400, "event": "resume", "life": 1, "host": "n1", "step": 100},
    ]
    steps = [(s, born + 100 + 10 * s, 0) for s in range(1, 101)] + [(s, born + 1495 + 10 * (s - 100), 1) for s in range(101, 151)]
    metrics = [
        {
            "step": s,
            "time": t,
            "life": life,
            "step_s": 10.0,
            "loss": 2.5,
            "tokens": 1000 * s,
            "tokens_per_second": 100.0,
            "mfu": 0.25,
        }
        for s, t, life in steps
    ]
    for name, rows in (("ledger.jsonl", ledger), ("metrics.jsonl", metrics)):
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text("training: {max_steps: 400, a_key_of_another_version: 1}\n", encoding="utf-8")
    for step in (50, 100):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000150.tmp").mkdir()
    (tmp_path / "heartbeat").mkdir()
    for rank in range(2):
        beat = {
            "rank": rank,
            "host": f"n{rank + 1}",
            "phase": "step",
            "step": 150,
            "section": "backward",
            "seconds": 3.0,
            "limit_s": 600,
        }
        beat["time"] = now - 5 - 90 * rank
        (tmp_path / "heartbeat" / f"rank-{rank}.json").write_bytes(orjson.dumps(beat))
    (tmp_path / "heartbeat" / "rank-3.json").write_bytes(b'{"rank": 3, "time": 1.0}')  # of an attempt with more ranks
    (tmp_path / "heartbeat" / "rank-2.json").write_bytes(b'{"rank": 2, "ti')
    return tmp_path


def test_the_table_says_how_far_the_run_is_and_where_its_time_went(run, capsys) -> None:
    assert status.main([str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for line in (
        "state running", "step 150 of 400 (37.5%)", "tokens 150,000", "loss 2.5000", "100 tokens/s, MFU 25.0%", "time left 41m 40s",
        "150 stayed, 0 of them skipped, 0 lost", "saves 1, 0 failed; 0 roll-backs",
        "wall time 2000", "steps that stayed 1500", "hanging 48.00", "between two attempts 150.00", "waiting for saves 2.00",
        "0 hang 19m 10s steps 1 to 100 n1", "1 running", "steps 101 to 150 n1", "hang: rank 1, host n2, phase step, step 100, 48s silent",
        "checkpoints step-00000050, step-00000100", "heartbeats of 2 ranks",
        "rank 0 on n1, 5s ago: phase step, step 150, section backward, for 3s of 10m 00s",
        "rank 1 on n2, 1m 35s ago: phase",
    ):  # fmt: skip
        assert line in printed, f"{line!r} is not in {printed!r}"
    assert ".tmp" not in printed and "rank 3" not in printed
    assert printed.startswith("Running; done ") and "; nothing needs you. " in printed


def test_json_holds_all_figures_and_the_old_spellings(run, capsys) -> None:
    assert status.main([str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = compute_goodput(read_jsonl(run / "ledger.jsonl"), read_jsonl(run / "metrics.jsonl"))
    assert found["productive_s"] == expected.productive_s == 1500.0
    assert [life["ended"] for life in found["attempts"]] == ["hang", "running"]
    assert found["wall_s"] == pytest.approx(2000, abs=5)
    assert found["lives"] == found["attempts"]
    assert (found["slurm"]["lives"], found["slurm"]["kept_books"]) == (found["slurm"]["attempts"], found["slurm"]["has_records"])


def test_a_run_that_is_long_silent_ended_with_its_last_row(run) -> None:
    late = time.time() + 1e6
    result = read_goodput(run, late)
    assert (result.attempts[-1].ended, result.wall_s) == ("killed", pytest.approx(1995, abs=1))
    assert read_goodput(run, late, last_heartbeat=late - 200).attempts[-1].ended == "killed"
    assert read_goodput(run, late, last_heartbeat=late - 60).attempts[-1].ended == "running"


def test_a_run_is_dead_as_soon_as_its_rank_0_is_and_alive_as_long_however_old_its_rows_are(run) -> None:
    hold = "import sys; from pathlib import Path; from jadeberta.utils.locks import DirectoryLock; "
    hold += "lock = DirectoryLock(Path(sys.argv[1]), 'run.dir'); print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", hold, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        last = read_run(run)[0][-1]["time"]
        for now in (last + 1, last + 10**6):
            assert read_goodput(run, now).attempts[-1].ended == "running"
    finally:
        process.kill()
        process.wait()
    assert read_goodput(run, last + 1, last_heartbeat=last).attempts[-1].ended == "killed"
    # Another host's lock that is not held proves nothing.
    (run / ".lock").write_text('{"host": "elsewhere", "pid": 1}')
    assert read_goodput(run, last + 1, last_heartbeat=last).attempts[-1].ended == "running"


def test_a_working_job_keeps_its_run_alive_where_it_ends_with_its_ranks(run) -> None:
    late = time.time() + 1e6
    for jobs, ended in (
        (JobStatus(state="RUNNING", works=True, has_records=True), "running"),
        (JobStatus(state="RUNNING", works=True), "killed"),  # an interactive job outlives its ranks
        (JobStatus(state="FAILED", has_records=True), "killed"),
        (JobStatus(state="RUNNING", works=True, has_records=True, starting=True), "killed"),
    ):
        assert read_goodput(run, late, jobs=jobs).attempts[-1].ended == ended
    assert read_goodput(run, time.time(), jobs=JobStatus(state="FAILED")).attempts[-1].ended == "killed"


def test_a_run_without_recipe_metrics_or_heartbeats_is_shown_as_far_as_it_goes(tmp_path, capsys) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"event":"start","time":1000,"life":0}\n{"ti')
    assert status.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "killed" in printed and "checkpoints  none" in printed


def test_watching_ends_with_the_run(run, capsys, monkeypatch) -> None:
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        done = {"event": "done", "time": time.time(), "life": 1, "step": 400, "tokens": 400_000}
        with open(run / "ledger.jsonl", "ab") as f:
            f.write(orjson.dumps(done) + b"\n")

    monkeypatch.setattr(status.time, "sleep", nap)
    assert status.main([str(run), "--watch", "7", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (naps, first["step"], second["step"], second["attempts"][-1]["ended"]) == ([7.0], 150, 400, "done")


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """What a job of Slurm records where its attempt begins; this host has no scontrol."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return {
        "event": "begin",
        "time": time.time() - 5,
        "job": 12,
        "restarts": 1,
        "name": "large",
        "partition": "gpu",
        "hosts": ["n1", "n2"],
    }


def test_a_job_whose_ranks_have_written_nothing_yet_is_starting_up(tmp_path, begin, capsys) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(orjson.dumps(begin) + b"\n")
    assert status.main([str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for line in (
        "state starting up",
        "job 12 large in gpu",
        "scontrol is not on this host",
        "It was on n1,n2.",
        "requeued 1 time",
    ):
        assert line in printed
    assert "where the time went" not in printed
    assert status.main([str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["attempts"], found["slurm"]["job"], found["slurm"]["starting"]) == ("starting up", [], 12, True)


def test_a_job_that_began_long_ago_and_wrote_nothing_was_killed(tmp_path, begin, capsys) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(orjson.dumps(begin | {"time": time.time() - 3600}) + b"\n")
    assert status.main([str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("NEEDS YOU: not continued since ") and f"{tmp_path} state killed" in printed


def test_a_job_that_is_not_to_go_on_says_why_and_what_was_decided_before(run, begin, capsys) -> None:
    ledger = run / "ledger.jsonl"
    slurm = {key: begin[key] for key in ("job", "restarts", "name", "partition", "hosts")}
    with open(ledger, "ab") as f:
        f.write(orjson.dumps({"event": "start", "time": begin["time"] + 1, "life": 2, "host": "n1", "slurm": slurm}) + b"\n")
    first = {
        "event": "end",
        "time": begin["time"] - 60,
        "life": 0,
        "action": "requeue",
        "reason": "status 12: n3 hangs.",
        "excluded": ["n3"],
    }
    why = "status 13: the weights of all ranks must be the same."
    last = {"event": "end", "time": begin["time"] + 3, "life": 1, "action": "stop", "status": 13, "reason": why, "excluded": []}
    (run / "jobs.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in (begin, first, begin, last)))
    assert status.main([str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for line in (
        "state stopped",
        f"because {why}",
        "attempts 2 of the run",
        "0 requeue 1m 05s ago status 12: n3 hangs. Without n3.",
        "1 stop 2s ago",
    ):
        assert line in printed, f"{line!r} is not in {printed!r}"
    assert "next save" not in printed


def test_a_directory_without_a_run_is_one_sentence_and_status_1(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no ledger\.jsonl"):
        status.main([str(tmp_path)])
    with pytest.raises(ConfigError, match="not a number above 0"):
        status.main([str(tmp_path), "--watch", "0"])
    command = [sys.executable, "-m", "jadeberta", "status", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert (result.returncode, len(result.stderr.splitlines()), result.stdout) == (1, 1, "")
