"""The ledger says which program ran, and which settings differ from those of the attempt before."""

import subprocess
from pathlib import Path

import pytest

from jadeberta import __version__
from jadeberta.start.program_version import changed_settings, program_version
from jadeberta.utils.files import file_sha256


def git(where: Path, *arguments: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *options, *arguments], cwd=where, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("state", ["branch", "packed", "detached", "worktree"])
def test_the_commit_is_that_of_git_and_the_lock_file_is_hashed(tmp_path: Path, state: str) -> None:
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    for name in ("cpu.lock", "cuda.lock"):
        (root / "requirements" / name).write_text("torch==1")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    if state == "packed":
        git(root, "pack-refs", "--all")
    if state == "detached":
        git(root, "checkout", "-q", "--detach")
    if state == "worktree":
        git(root, "worktree", "add", "-q", "../other")
        root = tmp_path / "other"
    found = program_version(root)
    assert found["commit"] == git(root, "rev-parse", "HEAD") and found["version"] == __version__
    assert found["lock_sha256"] == file_sha256(root / "requirements" / "cpu.lock")


def test_without_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert {"commit", "lock_sha256"} & program_version(tmp_path).keys() == set()
    (tmp_path / ".git").write_bytes(b"\xff")
    assert "commit" not in program_version(tmp_path)


def test_changed_settings_are_those_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    assert changed_settings(path, "a: 1") == {}
    path.write_text("training: {lr: 0.1, steps: 5}\nphases: []\nold: {x: 1}")
    now = "training: {lr: 0.1, steps: 6}\nphases: [{steps: 1}]\nnew: true"
    assert changed_settings(path, now) == {
        "training.steps": ["5", "6"], "phases": ["[]", "[{'steps': 1}]"], "old.x": ["1", "unset"], "new": ["unset", "True"],
    }  # fmt: skip
    path.write_text("{")
    assert changed_settings(path, now) == {}
