"""A run does what it is asked from outside: it saves, ends with the documented status, and goes on later as if nothing had been."""

import signal
import time
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.errors import ConfigError
from jadeberta.shards import DirectoryLock
from jadeberta.training.control import RunControl
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks, start_ranks

STEPS = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    shards = make_shards(folder / "shards", {"wikipedia": (20, 3)})
    # Long enough to be asked in the middle; checkpoints only when something asks for them.
    changes = {
        "training": {"max_steps": STEPS, "global_batch_size": 2},
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
    deadline = time.monotonic() + 60
    while len(list_checkpoints(run / "run/checkpoints")) < 2:
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.02)
    second = start_ranks(1, *start, "--training.micro_batch_size", "2", log=run / "second")
    assert ended(second) == [2]
    assert "works there already" in (run / "second.0.log").read_text()
    (run / "run/STOP").touch()
    assert ended(processes) == [10, 10]
    assert not (run / "run/SAVE").exists() and not (run / "run/STOP").exists()

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
