"""A local job ends as its ranks do, and is started again where another attempt can succeed and no signal ended it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import newest_step
from jadeberta.jobs.local_launcher import first_cause, run_directory
from jadeberta.utils.ports import free_port
from tests.helpers import ROOT

RECORD = """
import os, pathlib, signal, sys, time
rank, folder = os.environ["RANK"], pathlib.Path({folder!r})
with open(folder / f"attempts-{{rank}}", "a") as f:
    f.write("x")
attempt = len((folder / f"attempts-{{rank}}").read_text())
while any(not (other := folder / f"attempts-{{r}}").exists() or len(other.read_text()) < attempt for r in (0, 1)):
    time.sleep(0.01)  # a rank that ends takes the others with it, also those that have not begun
"""


def start(folder: Path, body: str, restarts: int, arguments: list[str] | None = None) -> subprocess.Popen:
    """A launcher of two ranks that run a few lines of Python, which know `rank`, `attempt` (from 1) and `folder`, a directory."""
    code = RECORD.format(folder=str(folder)) + body
    setup = (
        f"import sys; from jadeberta.jobs import local_launcher as launcher; launcher.COMMAND = [sys.executable, '-c', {code!r}]"
    )
    driver = f"{setup}; sys.exit(launcher.launch(2, {arguments or []!r}, {restarts}))"
    return subprocess.Popen(
        [sys.executable, "-c", driver], cwd=folder, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
    )


def ended(launcher: subprocess.Popen) -> tuple[int, str]:
    _, printed = launcher.communicate(timeout=60)
    return launcher.returncode, printed


def attempts(folder: Path, rank: int = 0) -> int:
    file = folder / f"attempts-{rank}"
    return len(file.read_text()) if file.exists() else 0


@pytest.mark.parametrize(
    "statuses,cause", [((None, None), 0), ((0, None), 0), ((None, 5), 5), ((2, -9), -9), ((12, 1), 12), ((0, 0), 0), ((), 0)]
)
def test_a_signal_explains_the_errors_of_the_other_ranks(statuses, cause) -> None:
    assert first_cause(statuses) == cause


def test_a_job_that_is_killed_is_started_again_with_the_same_arguments_until_it_ends_well(tmp_path) -> None:
    body = "assert sys.argv[1:] == ['verb', '--key', '3']\nif attempt < 3 and rank == '1': os.kill(os.getpid(), signal.SIGKILL)"
    status, printed = ended(start(tmp_path, body, restarts=5, arguments=["verb", "--key", "3"]))
    assert status == 0 and attempts(tmp_path) == 3
    assert "status 137; it is started again (restart 1 of at most 5)" in printed


def test_without_restarts_a_job_has_one_attempt(tmp_path) -> None:
    assert ended(start(tmp_path, "sys.exit(12)", restarts=0))[0] == 12
    assert attempts(tmp_path) == 1


def test_there_are_no_more_restarts_than_allowed(tmp_path) -> None:
    assert ended(start(tmp_path, "sys.exit(11)", restarts=2))[0] == 11
    assert attempts(tmp_path) == 3


def test_a_failure_that_another_attempt_would_not_mend_is_final(tmp_path) -> None:
    assert ended(start(tmp_path, "sys.exit(13)", restarts=5))[0] == 13
    assert attempts(tmp_path) == 1


def test_after_three_attempts_in_a_row_without_a_newer_checkpoint_it_gives_up(tmp_path) -> None:
    gets_on = "pathlib.Path('run/checkpoints/step-00000007').mkdir(parents=True)"
    body = f"if rank == '1': time.sleep(100)\nif attempt == 3: {gets_on}\nsys.exit(1)"
    status, printed = ended(start(tmp_path, body, restarts=50, arguments=["pretrain", "--run.dir", "run"]))
    assert status == 1 and attempts(tmp_path) == 3 + 3
    assert "3 attempts in a row without a newer checkpoint" in printed


def test_the_recipe_says_how_many_attempts_may_bring_no_progress(tmp_path) -> None:
    (tmp_path / "recipe.yaml").write_text("cluster: {max_attempts_without_progress: 2}")
    status, printed = ended(start(tmp_path, "sys.exit(1)", restarts=50, arguments=["pretrain", "--config", "recipe.yaml"]))
    assert status == 1 and attempts(tmp_path) == 2 and "(cluster.max_attempts_without_progress)" in printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launcher_that_receives_term_or_int_starts_nothing_again(tmp_path, number) -> None:
    body = (
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, lambda *_: sys.exit(11))\nopen(folder / f'ready-{rank}', 'w')"
    )
    launcher = start(tmp_path, f"{body}\ntime.sleep(100)", restarts=5)
    wait_for(tmp_path, "ready-0", "ready-1")
    launcher.send_signal(number)
    assert ended(launcher)[0] == 11
    assert attempts(tmp_path, 0) == attempts(tmp_path, 1) == 1


def test_usr1_reaches_every_rank_and_a_requeue_that_it_brings_is_followed_by_an_attempt(tmp_path) -> None:
    body = "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(11))\nopen(folder / f'ready-{rank}', 'w')\nif attempt == 1: time.sleep(100)"
    launcher = start(tmp_path, body, restarts=5)
    wait_for(tmp_path, "ready-0", "ready-1")
    launcher.send_signal(signal.SIGUSR1)
    assert ended(launcher)[0] == 0
    assert attempts(tmp_path, 0) == attempts(tmp_path, 1) == 2


def wait_for(folder: Path, *names: str) -> None:
    deadline = time.monotonic() + 60
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_run_directory_is_found_in_the_options_in_the_recipe_or_is_the_default(tmp_path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: {dir: from/recipe}\n")
    assert run_directory(["pretrain", "--config", str(recipe)]) == Path("from/recipe")
    assert run_directory(["pretrain", f"--config={recipe}", "--run.dir=given"]) == Path("given")
    assert run_directory(["pretrain", "--config", str(recipe), "--run.dir", "given"]) == Path("given")
    assert run_directory(["pretrain", "--config", "missing.yaml"]) == run_directory([]) == Path("runs/default")


def test_the_newest_step_is_that_of_a_finished_name(tmp_path) -> None:
    assert newest_step(tmp_path) == -1
    for name in ("step-00000003", "step-00000012", "step-00000015.tmp", "step-00000018.deleted", "other"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 12


def test_the_port_to_meet_at_is_none_that_the_kernel_gives_to_connections() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if first < 32768:
        pytest.skip(f"the kernel gives away ports from {first} on")
    assert not any(first <= free_port() <= last for _ in range(50))
