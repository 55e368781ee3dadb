"""A lock keeps others out of a directory, is its user's alone, and its holder notices where the file is removed or replaced."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jadeberta.errors import ConfigError
from jadeberta.training import control
from jadeberta.training.control import RunControl
from jadeberta.utils.locks import LOCK_NAME, DirectoryLock, GroupLock, holder_of
from tests.helpers import ROOT

HOLD = (
    "import sys; from pathlib import Path; from jadeberta.utils.locks import DirectoryLock; "
    "lock = DirectoryLock(Path(sys.argv[1]), 'run.dir'); print('held', flush=True); input()"
)


@pytest.mark.parametrize("make", [lambda d: DirectoryLock(d, "run.dir"), lambda d: GroupLock(d, "--out", "one")])
def test_nobody_but_its_user_can_open_the_file(tmp_path, make) -> None:
    old = tmp_path / "old" / LOCK_NAME
    old.parent.mkdir()
    old.touch(0o644)
    for directory in (tmp_path / "new", old.parent):
        lock = make(directory)
        assert stat.S_IMODE((directory / LOCK_NAME).stat().st_mode) == 0o600
        lock.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_can_neither_hold_the_lock_nor_make_out_that_nobody_holds_it(tmp_path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o001 == 0:  # pytest's own folders, one more of them under xdist
            parent.chmod(0o755)
    lock = DirectoryLock(tmp_path, "run.dir")
    code = (
        "import os, sys; from pathlib import Path; from jadeberta.utils.locks import DirectoryLock, holder_of; os.setuid(65534)\n"
        "print(holder_of(Path(sys.argv[1])))\n"
        "try: DirectoryLock(Path(sys.argv[1]), 'run.dir')\nexcept Exception as e: print(e)"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert told.stdout.splitlines() == [
        "perhaps a process of user 0, who alone can look,",
        f"{tmp_path / LOCK_NAME}: cannot be opened (it belongs to user 0). Choose another run.dir.",
    ], told.stderr
    lock.require_held()


def test_a_holder_notices_that_its_file_was_removed_or_replaced(tmp_path) -> None:
    lock = DirectoryLock(tmp_path, "run.dir")
    lock.require_held()
    (tmp_path / LOCK_NAME).unlink()
    with pytest.raises(ConfigError, match=f"removed or replaced while process {os.getpid()} on .* another job may work there"):
        lock.require_held()
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match="removed or replaced"):
        lock.require_held()
    other.communicate(b"\n")


def test_a_holder_notices_that_the_directory_was_moved(tmp_path) -> None:
    lock = DirectoryLock(tmp_path / "run", "run.dir")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="removed or replaced"):
        lock.require_held()


def test_a_run_that_has_lost_its_lock_ends_at_a_step(tmp_path, monkeypatch) -> None:
    lock = DirectoryLock(tmp_path, "run.dir")
    asked = RunControl(tmp_path, True, 0.0, lock)
    monkeypatch.setattr(control, "LOCK_CHECK_S", 0.0)
    asked.flags()
    (tmp_path / LOCK_NAME).unlink()
    with pytest.raises(ConfigError, match="removed or replaced"):
        asked.flags()


def test_a_file_that_is_removed_while_it_is_waited_for_is_not_taken_for_the_lock(tmp_path, monkeypatch) -> None:
    take, removed = DirectoryLock._take, []

    def remove_first(self: DirectoryLock) -> bool:
        if not removed:
            removed.append((tmp_path / LOCK_NAME).unlink())
        return take(self)

    monkeypatch.setattr(DirectoryLock, "_take", remove_first)
    lock = DirectoryLock(tmp_path, "run.dir")
    lock.require_held()
    code = (
        "import sys; from pathlib import Path; from jadeberta.utils.locks import holder_of; print(holder_of(Path(sys.argv[1])))"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.startswith(f"process {os.getpid()} on "), told.stderr


def test_a_directory_without_a_lock_is_held_by_nobody(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    DirectoryLock(tmp_path, "run.dir").release()
    assert holder_of(tmp_path) is None
