"""Processes that share work through files: who does what, who is dead, and that their number, deaths and delays change no byte."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jadeberta.shards import ConfigError, DirectoryLock, GroupLock, InputError
from preprocess.executors.file_claims import Decision, TaskState, decide, read_states
from preprocess.executors.file_executor import DEATHS, FileExecutor, require_finished
from preprocess.executors.liveness import CHECK_SECONDS, LivenessMonitor, LivenessWriter
from preprocess.workdir import progress_dir
from tests.helpers import ROOT
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.test_main import RECIPE, files, run

# Each process writes a file with what it did; a task can wait for a file, fail, or end its process.
WORKER = """
import os, sys, time
from pathlib import Path
from typing import Any
from jadeberta.shards import InputError
from preprocess.executors.file_executor import FileExecutor
out, silence = Path(sys.argv[1]), float(sys.argv[2])
pool = FileExecutor(out, "p", "test", silence)
def work(task):
    with open(out / "did", "a") as f:
        f.write(f"{os.getpid()} {task}\\n")
    end = time.monotonic() + 60
    while (out / f"wait-{task}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    if (out / f"fail-{task}").exists():
        raise InputError(f"task {task} is bad")
    if (out / f"die-{task}").exists():
        os.kill(os.getpid(), 9)
    return task * task
try:
    print(pool.map(range(6), work), pool.run_on_root(os.getpid), flush=True)
except InputError as e:
    print(e, flush=True)
    pool.abort(1)
pool.leave()
"""


def start(out: Path, silence: float = 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(out), str(silence)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def did(out: Path) -> list[tuple[int, int]]:
    """(process, task) in the order in which tasks were begun."""
    path = out / "did"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(process), int(task)) for process, task in (line.split() for line in lines)]


def wait_until(true, what: str) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("names", "dead", "expected"),
    [
        ([], (), Decision("claim", 0, 0)),
        (["00000.claim-0"], (), Decision("claim", 1, 0)),
        (["00000.claim-0", "00001.claim-0"], (), Decision("wait")),
        (["00000.claim-0", "00001.claim-0"], (1,), Decision("claim", 1, 1)),
        (["00000.claim-0", "00000.done", "00001.claim-0", "00001.claim-1"], (1,), Decision("claim", 1, 2)),
        (["00000.claim-0", "00000.done", "00001.claim-0", "00001.done"], (), Decision("done")),
        (["00001.claim-0", "00001.failed-0"], (), Decision("failed", 1, 0)),
        (["00000.claim-0", "00001.claim-0", "00001.failed-0", "00001.claim-1"], (), Decision("wait")),
        (["00000.done", "00001.claim-0", ".00001.done.tmp-7"], (), Decision("wait")),
    ],
)
def test_the_next_step_follows_from_the_names_in_the_folder(names, dead, expected) -> None:
    assert decide(read_states(names, 2), set(), set(dead)) == expected


def test_a_failure_from_before_a_process_came_is_tried_again() -> None:
    states = read_states(["00000.claim-0", "00000.failed-0", "00001.claim-0"], 2)
    assert decide(states, {(0, 0)}) == Decision("claim", 0, 1)


def test_a_task_that_is_not_ready_is_left_to_later() -> None:
    states = read_states(["00000.done"], 3)
    assert decide(states, set(), unready={1}) == Decision("claim", 2, 0)
    assert decide(states, set(), unready={1, 2}) == Decision("wait")


def test_tasks_of_a_pool_wait_for_the_one_that_makes_them_ready(tmp_path: Path) -> None:
    pool, order = FileExecutor(tmp_path, "p", "test"), list[str]()

    def work(task: str) -> str:
        order.append(task)
        (tmp_path / task).touch()
        return task

    ready = {"a": "c", "b": "a"}  # what each waits for
    found = pool.map("abc", work, ready=lambda task: task == "c" or (tmp_path / ready[task]).exists())
    pool.leave()
    assert (found, order) == (["a", "b", "c"], ["c", "a", "b"])


def test_only_time_in_which_a_file_was_looked_at_unchanged_counts_as_silence(tmp_path: Path) -> None:
    now, path = [0.0], tmp_path / "one.beat"
    watch = LivenessMonitor(silence=12, clock=lambda: now[0])
    path.write_text("1")
    dead = []
    for pause in (0, 3600, 4, 4):  # an hour in which nobody looked is one look
        now[0] += pause
        dead.append(watch.is_dead(path))
    assert dead == [False, False, False, True] and CHECK_SECONDS + 4 <= 12 < CHECK_SECONDS + 8
    path.write_text("2")
    assert not watch.is_dead(path), "a renewal ends the silence"
    path.unlink()
    assert watch.is_dead(path), "a file that is gone says that its process is"


def test_a_liveness_file_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    code = "import sys, time; from preprocess.executors.liveness import *\n"
    code += "LivenessWriter(Path(sys.argv[1]), 60); print(1, flush=True); time.sleep(60)"
    path = tmp_path / "one.beat"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    assert path.exists()
    process.kill()
    process.wait()
    wait_until(lambda: not path.exists(), "the file outlived its process")


def test_the_liveness_helper_is_found_from_any_directory(tmp_path: Path) -> None:
    code = f"import sys; sys.path[0] = {str(ROOT)!r}\nfrom preprocess.executors.liveness import *\n"
    code += "writer = LivenessWriter(Path('one.beat'), 60); print(Path('one.beat').exists()); writer.stop()"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_a_process_whose_liveness_file_stood_still_too_long_is_ended_before_it_writes_beside_its_successor(
    tmp_path: Path,
) -> None:
    code = "import sys, time; from preprocess.executors.liveness import *; b = LivenessWriter(Path(sys.argv[1]), 1.0)\n"
    code += "print(b._process.pid, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "one.beat")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    os.kill(helper, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(helper, signal.SIGCONT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL and "stood still" in complaint


def test_a_liveness_file_that_cannot_be_written_is_an_error_of_its_process(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the liveness file cannot be written"):
        LivenessWriter(tmp_path / "missing" / "one.beat", 60)


def test_all_get_all_results_and_each_task_is_done_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0] for process in processes}
    assert len(printed) == 1 and re.fullmatch(r"\[0, 1, 4, 9, 16, 25\] \d+\n", printed.pop())
    assert sorted(task for _, task in did(tmp_path)) == list(range(6))


def listings_and_names(folder: Path, tasks: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How often one process lists a call's folder, and how many names it reads there, while it does so many tasks."""
    listed: list[int] = []
    listing = Path.iterdir

    def counted(path: Path):
        names = list(listing(path))
        if path.name.startswith("call-"):
            listed.append(len(names))
        return iter(names)

    monkeypatch.setattr(Path, "iterdir", counted)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    pool = FileExecutor(folder, "p", "test")
    assert pool.map(range(tasks), lambda task: task) == list(range(tasks))
    pool.leave()
    monkeypatch.undo()
    return len(listed), sum(listed)


def test_the_listings_of_a_pool_do_not_grow_with_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tasks in (50, 400):
        listings, names = listings_and_names(tmp_path / str(tasks), tasks, monkeypatch)
        assert listings == 2 and names <= 2 * tasks, "once before the first task, and once after the last"


def test_what_processes_exchange_is_json(tmp_path: Path) -> None:
    pool = FileExecutor(tmp_path, "p", "test")
    assert pool.map(["a", "b"], lambda task: {Path(task): (1, None)}) == [{Path("a"): (1, None)}, {Path("b"): (1, None)}]
    with pytest.raises(InputError, match="task is bad"):
        pool.map([1], lambda task: (_ for _ in ()).throw(InputError("task is bad")))
    pool.leave()
    results = [path for path in tmp_path.glob("work/pool/*/call-*/*") if ".done" in path.name or ".failed" in path.name]
    assert len(results) == 3 and all(json.loads(path.read_bytes()) for path in results)


def test_a_planted_result_ends_the_pool_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "work/pool/77-segment/call-000"
    folder.mkdir(parents=True)
    (folder / "00000.done").write_bytes(b"\x80\x04cos\nsystem\n(S'touch planted'\ntR.")
    pool = FileExecutor(tmp_path, "77", "segment")
    with pytest.raises(InputError, match=r"call-000/00000\.done: not a result of this pool"):
        pool.run_on_root(lambda: 1)
    pool.leave()


def test_one_that_comes_when_all_is_done_gets_the_results_and_does_nothing(tmp_path: Path) -> None:
    first, _ = start(tmp_path).communicate(timeout=60)
    begun = did(tmp_path)
    assert start(tmp_path).communicate(timeout=60)[0] == first and did(tmp_path) == begun


def test_what_a_killed_process_held_is_done_by_another_at_once(tmp_path: Path) -> None:
    (tmp_path / "wait-0").touch()
    killed = start(tmp_path)
    wait_until(lambda: did(tmp_path), "nobody began")
    other = start(tmp_path)
    wait_until(lambda: len(did(tmp_path)) == 6, "the other does not do the rest")
    killed.kill()
    (tmp_path / "wait-0").unlink()
    assert other.communicate(timeout=30)[0].startswith("[0, 1, 4, 9, 16, 25]")
    assert [task for process, task in did(tmp_path) if process == other.pid] == [1, 2, 3, 4, 5, 0]


def test_a_process_that_ended_its_task_and_left_is_not_taken_for_dead(tmp_path: Path) -> None:
    pool = FileExecutor(tmp_path, "p", "test")
    listed = TaskState(attempt=0)
    (tmp_path / "00000.claim-0").write_text("one that left\n")
    assert pool._is_dead(tmp_path, 0, listed)
    for name in ("00000.done", "00000.failed-0"):
        (tmp_path / name).touch()
        assert not pool._is_dead(tmp_path, 0, listed)
        (tmp_path / name).unlink()
    pool.leave()


def test_a_task_at_which_every_process_dies_is_named_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "die-3").touch()
    for number in range(DEATHS):
        process = start(tmp_path)
        assert process.wait(60) == -signal.SIGKILL, f"process {number}"
        last = process.pid
    printed, _ = start(tmp_path).communicate(timeout=60)
    assert f"3: {DEATHS} processes died at it, at last process {last} on" in printed


def test_an_error_ends_all_and_one_that_comes_later_tries_again(tmp_path: Path) -> None:
    (tmp_path / "fail-2").touch()
    (tmp_path / "wait-0").touch()
    first = start(tmp_path)
    wait_until(lambda: did(tmp_path), "nobody began")
    second = start(tmp_path)
    assert second.communicate(timeout=60)[0] == "task 2 is bad\n" and second.returncode == 1
    (tmp_path / "wait-0").unlink()
    assert first.communicate(timeout=60)[0] == "task 2 is bad\n"
    assert [task for _, task in did(tmp_path)] == [0, 1, 2], "tasks after the error were begun"
    (tmp_path / "fail-2").unlink()
    assert start(tmp_path).communicate(timeout=60)[0].startswith("[0, 1, 4, 9, 16, 25]")


def lock(directory: Path, kind: str) -> tuple[str, str]:
    """What another process prints that takes a lock: whether it was the first of its group, or an error."""
    code = "import sys; from pathlib import Path; from jadeberta.shards import DirectoryLock, GroupLock\n"
    code += f"lock = {kind}; print(getattr(lock, 'first', 'held'))"
    done = subprocess.run([sys.executable, "-c", code, str(directory)], cwd=ROOT, capture_output=True, text=True)
    return done.stdout, done.stderr


def group(name: str) -> str:
    return f"GroupLock(Path(sys.argv[1]), '--out', '{name}', 0.5)"


def test_processes_of_a_pool_hold_a_directory_together_and_against_all_others(tmp_path: Path) -> None:
    one = GroupLock(tmp_path, "--out", "one")
    assert one.first and lock(tmp_path, group("one")) == ("False\n", "")
    for other in (group("two"), "DirectoryLock(Path(sys.argv[1]), '--out')"):
        printed, error = lock(tmp_path, other)
        who = f"the group of processes 'one', begun by process {os.getpid()} on {socket.gethostname()}, works there already"
        assert printed == "" and who in error
    one.release()
    assert lock(tmp_path, group("two")) == ("True\n", "")
    single = DirectoryLock(tmp_path, "--out")
    assert f"process {os.getpid()} on" in lock(tmp_path, group("one"))[1]
    single.release()


def test_others_of_a_pool_come_in_when_the_first_has_tidied_up_however_long_that_takes(tmp_path: Path) -> None:
    came: list[Any] = []

    def tidy() -> None:
        other = threading.Thread(target=lambda: came.append(lock(tmp_path, group("one"))))
        came.append(other)
        other.start()
        other.join(3)  # six times as long as it is patient with others
        came.append(other.is_alive())

    first = GroupLock(tmp_path, "--out", "one", prepare=tidy)
    came[0].join()
    assert came[1:] == [True, ("False\n", "")]
    first.release()


def test_a_new_pool_removes_what_an_old_one_left(tmp_path: Path) -> None:
    (tmp_path / "work/pool/old-all").mkdir(parents=True)
    (tmp_path / "work/pool/new-verify").mkdir()
    FileExecutor(tmp_path, "new", "all").leave()
    assert {path.name for path in (tmp_path / "work/pool").iterdir()} == {"new-all", "new-verify"}


def test_the_progress_file_of_a_process_killed_after_the_last_call_goes_when_the_pool_is_joined_again(tmp_path: Path) -> None:
    folder = progress_dir(tmp_path)
    folder.mkdir(parents=True)
    (folder / "rank-00000-host-1.json").write_text("{}")
    FileExecutor(tmp_path, "p", "all").leave()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("name", "variables"), [("a/b", {}), ("", {}), ("x" * 101, {}), ("ok", {"PMIX_RANK": "0"})])
def test_a_name_that_is_no_files_and_mpi_beside_a_pool_are_refused(
    tmp_path: Path, monkeypatch, name: str, variables: dict
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=f"--pool {name[:40]}: "):
        FileExecutor(tmp_path, name, "all")
    assert not list(tmp_path.iterdir())


def test_work_done_everywhere_fails_on_one_alone(tmp_path: Path) -> None:
    pool = FileExecutor(tmp_path, "p", "all")
    assert [result for _, result in pool.run_on_all(lambda: 7)] == [7, 7]
    with pytest.raises(InputError) as error:
        pool.run_on_all(lambda: (_ for _ in ()).throw(InputError("not installed here")))
    assert pool.reports(error.value)
    assert pool.map([1], lambda task: task) == [1], "the others would not find the call again"
    pool.leave()


def test_the_command_makes_the_same_bytes_by_a_pool_as_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("CORPORA", str(tiny.write_corpora(tmp_path / "corpora"))))
    one = run("all", "--config", recipe, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    command = [sys.executable, "-m", "preprocess", "all", "--config", str(recipe), "--out", str(tmp_path / "two"), "--pool", "p"]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    made = {name: content for name, content in files(tmp_path / "two").items() if not name.startswith("work/pool")}
    assert made == files(tmp_path / "one")
    require_finished(tmp_path / "two", "p", "all")
    verified = run("verify", tmp_path / "two", "--pool", "p")
    assert verified.returncode == 0 and "all as index.json says" in verified.stdout
    unfinished = run("verify", tmp_path / "one", "--pool", "p")
    assert unfinished.returncode == 1 and "the processes of pool p have not finished 'all'" in unfinished.stderr
