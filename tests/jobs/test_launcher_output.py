"""A launcher's remarks do not hide the sentence of the program, and are shown where the program said nothing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jadeberta.jobs.launcher_output import LauncherOutput, run
from tests.helpers import ROOT

RULE = "-" * 74
BLOCK = f"{RULE}\nprterun detected that one or more processes exited with non-zero status,\nthus causing the job to be terminated.\n{RULE}"
SENTENCE = "ConfigError: preprocess.vocab_size is 3; it must lie between 10 and 65536."


def stand_in(folder: Path, text: str, status: int) -> str:
    """A program that says a text on its standard error, like a launcher with its ranks."""
    (folder / "text").write_text(text + "\n")
    program = folder / "mpirun"
    program.write_text(f"#!/bin/sh\necho working\ncat '{folder}/text' >&2\nexit {status}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"{SENTENCE}\n{BLOCK}", f"{SENTENCE}\n"),
        (f"[vm:20412] PMIX ERROR: UNREACHABLE in file x.c\na remark\n{SENTENCE}\n{SENTENCE}\nbye\n{BLOCK}", f"a remark\nbye\n{SENTENCE}\n"),
        (f"interrupted; the same command goes on from here\n{BLOCK}", "interrupted; the same command goes on from here\n"),
        (f"rank 1 on a: HangError: gone.\n{BLOCK}", "rank 1 on a: HangError: gone.\n"),
        (f"Traceback (most recent call last):\n{BLOCK}", f"Traceback (most recent call last):\n{BLOCK}\n"),
    ],
)  # fmt: skip
def test_the_sentence_of_the_program_comes_last_without_the_launchers_remarks(tmp_path: Path, said: str, shown: str) -> None:
    out = io.StringIO()
    assert run([stand_in(tmp_path, said, 2)], out) == 2
    assert out.getvalue() == shown


def test_a_sentence_is_shown_at_once_where_the_launcher_hangs_over_it() -> None:
    output = LauncherOutput(out := io.StringIO())
    output.take(SENTENCE, 100.0)
    output.show_held(104.0)
    assert out.getvalue() == ""
    output.show_held(106.0)
    output.show_held(107.0)
    assert out.getvalue() == f"{SENTENCE}\n"


def test_a_killed_launcher_and_a_missing_one_have_their_status(tmp_path: Path) -> None:
    out = io.StringIO()
    assert run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], out) == 137
    assert run([str(tmp_path / "none")], out) == 127 and "cannot be started" in out.getvalue()


def test_a_process_that_the_launcher_leaves_behind_keeps_nobody_waiting() -> None:
    left = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    # The shell's child holds the standard error open until the one above is ended.
    out = io.StringIO()
    try:
        assert run(["sh", "-c", f"tail --pid={left.pid} -f /dev/null & echo ConfigError: no. >&2; exit 3"], out) == 3
        assert out.getvalue() == "ConfigError: no.\n" and left.poll() is None
    finally:
        left.communicate()


def make(target: str, **settings: str) -> subprocess.CompletedProcess[str]:
    words = [f"{name}={value}" for name, value in settings.items()]
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", "-o", "setup", target, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_make_ends_with_the_sentence_of_the_program(tmp_path: Path) -> None:
    done = make("shards", MPIRUN=stand_in(tmp_path, f"{SENTENCE}\n{BLOCK}", 2), OUT=str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == "working\n"
    assert done.stderr.endswith(f"*** {SENTENCE}  Stop.\n") and done.stderr.count("\n") == 1


def test_a_dry_run_of_make_shards_does_not_go_on_to_verify(tmp_path: Path) -> None:
    settings = {"MPIRUN": stand_in(tmp_path, "", 0), "OUT": str(tmp_path / "out")}
    dry = make("shards", EXTRA="--dry-run", **settings)
    assert (dry.returncode, dry.stdout) == (0, "working\n")
    wet = make("shards", **settings)
    assert wet.returncode == 2 and "index.json: cannot be read" in wet.stderr


@pytest.mark.parametrize("ranks", ["0", "-1", "two", ""])
def test_make_starts_no_number_of_ranks_that_is_none(tmp_path: Path, ranks: str) -> None:
    done = make("shards", MPIRUN=stand_in(tmp_path, "", 0), RANKS=ranks)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.endswith(f"*** RANKS={ranks}: give a whole number of processes, at least 1.  Stop.\n")


def test_what_keeps_a_run_under_mpirun_from_starting_is_the_last_line_and_the_launcher_adds_nothing(tmp_path: Path) -> None:
    settings = {"RANKS": "2", "RECIPE": "recipes/demo.yaml", "SHARDS": str(tmp_path / "none"), "RUN_DIR": str(tmp_path / "run")}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))} | settings
    ended = subprocess.run(
        [ROOT / "launch/mpi.sh"], env=env | {"PYTHON": sys.executable}, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "index.json: cannot be read" in ended.stderr.splitlines()[-1]
    assert "prterun" not in ended.stderr and "------" not in ended.stderr
