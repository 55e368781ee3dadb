"""A file that is written atomically is the old one or the new one, and nothing else is left beside it."""

import os
from pathlib import Path

import pytest

from jadeberta.utils.files import atomic_path, write_atomically
from jadeberta.utils.json_lines import finite, time_of


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path, durable) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_atomically(path, b"old", durable)
    write_atomically(path, b"new", durable)
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError, match="half"), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old" and temporary.parent == path.parent
        raise RuntimeError("half")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "directory"])
def test_what_is_no_file_is_never_replaced_by_one(kind: str, tmp_path) -> None:
    path = tmp_path / ("pipe" if kind == "pipe" else "name")
    os.mkfifo(tmp_path / "pipe")
    if kind == "directory":
        path.mkdir()
    elif kind == "link to a pipe":
        path.symlink_to("pipe")
    before = path.lstat()
    with pytest.raises(OSError, match="something else than a file"):
        write_atomically(path, b"x")
    assert path.lstat().st_ino == before.st_ino and path.lstat().st_mode == before.st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"pipe", path.name})


def test_what_is_durable_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch) -> None:
    calls = []
    path = tmp_path / "a.json"
    real = os.fsync

    def record(descriptor: int) -> None:
        calls.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, b"x")
    assert [(name.endswith(str(os.getpid())), there) for name, there in calls] == [(True, False), (False, True)]
    calls.clear()
    write_atomically(path, b"y", durable=False)
    assert calls == []


@pytest.mark.parametrize("time", [1e300, -1e300, 1e12, True, "1", None, float("nan")])
def test_a_time_that_no_calendar_shows_counts_as_none(time: object) -> None:
    assert finite({"time": time}, "time") is None and time_of({"time": time}) == 0.0
    assert time_of({"time": 1.7e9}) == 1.7e9 and finite({"tokens": 1e12}, "tokens") == 1e12
