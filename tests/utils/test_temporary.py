"""Temporary directories of a training and its loaders: removed at the end, and those of killed ones at the next start."""

import multiprocessing.util
import os
import subprocess
import sys
from pathlib import Path

from jadeberta.utils.temporary import remove_abandoned, share_temporary_directory

PROGRAM = """
import multiprocessing.util, os, sys
from jadeberta.utils.temporary import remove_own, share_temporary_directory
share_temporary_directory()
child = multiprocessing.get_context("fork").Process(target=lambda: print(multiprocessing.util.get_temp_dir(), flush=True))
child.start(); child.join()
if sys.argv[1] == "exit": sys.exit(0)
if sys.argv[1] == "cli": remove_own(); os._exit(11)
os.kill(os.getpid(), 9)
"""


def run(folder: Path, end: str) -> Path:
    """Runs a process that ends in some way; returns the directory that its child was told to use."""
    env = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, end], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"{folder}/jadeberta-"), done.stderr
    return Path(done.stdout.strip())


def test_a_child_uses_the_directory_of_its_parent_which_removes_it_at_the_end(tmp_path: Path) -> None:
    assert not run(tmp_path, "exit").exists() and not run(tmp_path, "cli").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_killed_process_is_removed_by_the_next_and_a_living_ones_stays(tmp_path: Path) -> None:
    killed = run(tmp_path, "kill")
    (killed / "listener-1").touch()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    living = tmp_path / "-".join([*killed.name.split("-")[:2], str(os.getpid()), started, "x"])
    elsewhere = tmp_path / "-".join(["jadeberta", "1", *killed.name.split("-")[2:]])
    for path in (living, elsewhere, tmp_path / "jadeberta-notes"):
        path.mkdir()
    remove_abandoned(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([living.name, elsewhere.name, "jadeberta-notes"])
    assert run(tmp_path, "exit") != killed


def test_multiprocessing_asks_for_the_directory_where_it_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("jadeberta.utils.temporary._own", {})
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    made = share_temporary_directory()
    assert multiprocessing.util.get_temp_dir() == str(made)
