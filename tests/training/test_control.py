"""A run does what it is asked from outside: it saves, ends with the documented status, and goes on later as if nothing had been."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.errors import ConfigError
from jadeberta.shards import DirectoryLock
from jadeberta.training.control import ONE_PRESS_S, RunControl
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT, make_recipe, make_shards, read_metrics, run_ranks, start_ranks

STEPS = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    shards = make_shards(folder / "shards", {"wikipedia": (20, 3)})
    # Long enough to be asked in the middle; checkpoints only when something asks for them.
    changes = {
        "training": {"max_steps": STEPS, "global_batch_size": 2, "micro_batch_size": 1},
        "checkpoint": {"every_steps": 10_000},
        "data": {"workers": 1},
    }
    make_recipe(folder / "recipe.yaml", shards, folder / "run", **changes)
    return folder


def wait_for_step(run: Path, step: int, processes: list) -> None:
    deadline = time.monotonic() + 120
    while len(read_jsonl(run / "run/metrics.jsonl")) < step:
        assert all(p.poll() is None for p in processes), (run / "log.0.log").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(processes: list) -> list[int]:
    return [p.wait(60) for p in processes]


@pytest.mark.slow
def test_signals_and_files_save_and_end_with_their_status_and_the_run_goes_on_to_the_end(run) -> None:
    start = ["pretrain", "--config", str(run / "recipe.yaml")]
    processes = start_ranks(2, *start, log=run / "log")
    wait_for_step(run, 5, processes)
    model = run / "shards/tokenizer/spm.model"
    held = model.read_bytes()
    model.write_bytes(b"of another run")
    processes[1].send_signal(signal.SIGUSR1)  # one rank gets the signal, both must act at the same step
    assert ended(processes) == [11, 11]
    first = [int(p.name[-8:]) for p in list_checkpoints(run / "run/checkpoints")]
    assert len(first) == 1 and 5 <= first[0] < STEPS
    # A checkpoint carries the tokenizer that was checked at the start, not what lies there by now.
    assert (run / f"run/checkpoints/step-{first[0]:08d}/spm.model").read_bytes() == held
    model.write_bytes(held)

    processes = start_ranks(2, *start, "--resume", "required", log=run / "log")
    rows = len(read_metrics(run / "run"))
    wait_for_step(run, rows + 3, processes)
    (run / "run/SAVE").touch()
    deadline = time.monotonic() + 120
    while len(list_checkpoints(run / "run/checkpoints")) < 2:
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.02)
    second = start_ranks(1, *start, "--training.micro_batch_size", "2", log=run / "second")
    assert ended(second) == [2]
    assert "works there already" in (run / "second.0.log").read_text()
    # Requests that cannot be removed are done once, and end nothing that was not asked.
    (run / "run/SAVE").mkdir()
    while len(list_checkpoints(run / "run/checkpoints")) < 3:
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.02)
    wait_for_step(run, len(read_metrics(run / "run")) + 20, processes)
    (run / "run/PROFILE").write_text("1")
    while not list((run / "run").glob("profiles/*.json.gz")):
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.02)
    (run / "run/STOP").mkdir()
    assert ended(processes) == [10, 10]
    printed = (run / "log.0.log").read_text()
    assert printed.count("SAVE: cannot be removed") == 1 and "STOP: cannot be removed" in printed and "Traceback" not in printed
    assert len(list_checkpoints(run / "run/checkpoints")) == 4
    (run / "run/SAVE").rmdir(), (run / "run/STOP").rmdir()

    assert [path.name[14:] for path in (run / "run/profiles").iterdir()] == ["rank-00001.json.gz"]
    assert not (run / "run/PROFILE").exists()

    run_ranks(2, *start, "--resume", "required", log=run / "log")
    rows = read_metrics(run / "run")
    # Every step once, none lost and none trained twice: each ending saved first.
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["event"] for row in read_jsonl(run / "run/ledger.jsonl") if row["event"] in ("requeue", "stop", "done")] == [
        "requeue",
        "stop",
        "done",
    ]


def test_the_time_limit_asks_for_a_requeue_and_only_rank_0_looks_at_the_clock_and_the_files(tmp_path) -> None:
    (tmp_path / "STOP").touch()
    root, other = RunControl(tmp_path, True, max_hours=1e-9), RunControl(tmp_path, False, max_hours=1e-9)
    time.sleep(0.01)
    asked, not_asked = root.flags(), other.flags()
    assert (asked.requeue, asked.stop, asked.save) == (1, 1, 0) and root.reason == "run.max_hours"
    assert (not_asked.requeue, not_asked.stop, not_asked.save) == (0, 0, 0)
    root.clear("STOP")
    assert not (tmp_path / "STOP").exists() and root.flags().stop == 0


def test_a_request_that_cannot_be_removed_is_answered_once_and_again_after_it_was_renewed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("jadeberta.training.control.FILE_CHECK_S", -1)
    control = RunControl(tmp_path, True, max_hours=0)
    for _ in range(2):
        (tmp_path / "SAVE").mkdir()
        assert control.flags().save == 1
        control.clear("SAVE")
        assert (tmp_path / "SAVE").is_dir() and [control.flags().save for _ in range(3)] == [0, 0, 0]
        (tmp_path / "SAVE").rmdir()
        assert control.flags().save == 0
    (tmp_path / "STOP").symlink_to("nowhere")
    assert control.flags().stop == 1
    control.clear("STOP")
    assert list(tmp_path.iterdir()) == []


INTERRUPTED_RUN = """
import sys, time
from pathlib import Path
from jadeberta.training.control import RunControl
control = RunControl(Path(sys.argv[1]), True, max_hours=0)
control.listen()
print("listens", flush=True)
while not control.flags().stop:
    time.sleep(0.01)
print(control.stopped_by, flush=True)
time.sleep(100)
"""


def test_the_first_ctrl_c_asks_for_a_stop_and_the_second_ends_at_once_whatever_the_run_does(tmp_path) -> None:
    command = [sys.executable, "-c", INTERRUPTED_RUN, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "listens\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # the terminal and the launcher both send it
        assert process.stdout.readline() == "Ctrl-C (SIGINT) came\n" and "saves after this step" in process.stderr.readline()
        time.sleep(2 * ONE_PRESS_S)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130 and process.stderr.readline() == "interrupted again: ended at once\n"
    finally:
        process.kill()


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path) -> None:
    import os
    import subprocess
    import sys

    hold = "import sys, time; from pathlib import Path; from jadeberta.shards import DirectoryLock; "
    hold += "lock = DirectoryLock(Path(sys.argv[1]), 'run.dir'); print('held', flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {process.pid} on .*another run.dir"):
        DirectoryLock(tmp_path, "run.dir")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    DirectoryLock(tmp_path, "run.dir").release()
