"""A disk that fills up under preprocessing, a second job in the same directory, and a lock that a dead job left."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.preprocess_job import RECIPE, Job, contents, write_corpora
from tests.chaos.test_disk import mount  # noqa: F401 - a fixture
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_corpora(folder / "corpora", kilobytes=100)
    (folder / "recipe.yaml").write_text(RECIPE.replace("CORPORA", str(folder / "corpora")))
    return folder / "recipe.yaml"


def run(recipe: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.chaos.preprocess_rank", "all", "--config", str(recipe), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_sentence_and_with_room_the_same_command_ends_with_the_same_bytes(
    recipe: Path,
    tmp_path: Path,
    mount: Callable[..., None],  # noqa: F811
) -> None:
    untouched, out = tmp_path / "untouched", tmp_path / "out"
    assert run(recipe, untouched).returncode == 0
    out.mkdir()
    mount("-t", "tmpfs", "-o", "size=100k", "none", out)
    for size in (500, 1000):  # at first it fills up in extract, then in a later stage
        done = run(recipe, out)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "OutputError: " in done.stderr and "No space left on device" in done.stderr and "Make room" in done.stderr
        mount("-o", f"remount,size={size}k", out)
    mount("-o", "remount,size=50m", out)
    done = run(recipe, out)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(untouched)


@pytest.mark.slow
def test_a_second_job_is_refused_by_host_and_process_until_the_first_is_dead_and_then_goes_on(
    recipe: Path, tmp_path: Path
) -> None:
    job = Job(recipe, tmp_path / "out", "alone")
    try:
        job.start()
        while not job.stage():
            assert job.statuses() is None, job.tail()
        second = run(recipe, job.out)
        assert second.returncode == 2 and f"process {job.processes[0].pid} on " in second.stderr, second.stderr
        assert "works there already. Wait for it, or choose another --out." in second.stderr
        assert job.kill("all")
        job.processes[0].wait()
        assert (job.out / "work/.lock").read_bytes(), "the dead job left its name in the lock"
        assert run(recipe, job.out).returncode == 0
    finally:
        job.end()
