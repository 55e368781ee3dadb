"""Trouble of the process or of the storage is no damage: it is waited for, or ends the reading with an error that blames no file."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jadeberta.errors import is_retryable
from jadeberta.shards import ResourceError, ShardError, open_files, open_shards
from jadeberta.shards.scrub import shard_reason
from tests.shards.damage import TOKENS, flip_bit, random_rows, write

POLICIES = pytest.mark.parametrize("damaged", ["stop", "exclude"])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))


def failing(original: Callable, number: int, times: float) -> Callable:
    """A function of `os` that fails some times before it works."""
    left = [times]

    def call(*arguments, **options):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return original(*arguments, **options)

    return call


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Lets this process open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/", os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [errno.EINTR, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ESTALE, errno.EIO,
                                    errno.ETIMEDOUT])  # fmt: skip
@pytest.mark.parametrize("functions", [("pread", "preadv"), ("open",)], ids=str)
@POLICIES
def test_an_error_that_passes_changes_no_row(copied: Path, monkeypatch, number: int, functions, damaged) -> None:
    shards = open_shards(copied, damaged=damaged)
    for name in functions:
        monkeypatch.setattr(os, name, failing(getattr(os, name), number, 2))
    assert np.array_equal(shards[1004][0], TOKENS[1004])
    for name in functions:
        monkeypatch.setattr(os, name, failing(getattr(os, name), number, 2))
    assert np.array_equal(shards.rows(np.asarray([3, 1003, 1007]))[0], TOKENS[[3, 1003, 1007]])
    assert shards.excluded == shards.excluded_shards == []


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENFILE, errno.ESTALE, errno.ENOTCONN])
@POLICIES
def test_an_error_that_stays_and_is_not_of_the_file_may_be_tried_again_and_blames_no_file(
    copied: Path, monkeypatch, number: int, damaged
) -> None:
    shards = open_shards(copied, damaged=damaged)
    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, failing(getattr(os, name), number, float("inf")))
    with pytest.raises(ResourceError, match=r"No file is taken for damaged") as e:
        shards.rows(np.asarray([3, 1003]))
    assert "pack" not in str(e.value) and is_retryable(ResourceError.exit_status)
    assert shards.excluded == shards.excluded_shards == []


@POLICIES
def test_a_reader_gives_up_open_files_where_the_process_may_have_no_more(tmp_path: Path, damaged) -> None:
    rows = {f"web-{n:05d}.tar": random_rows(2, n) for n in range(12)}
    shards = open_shards(write(tmp_path / "out", rows), damaged=damaged)
    with descriptors_left(4):
        found = [shards[row][0] for row in range(24)] + list(shards.rows(np.arange(24))[0])
    assert np.array_equal(found, 2 * [row for tokens, _ in rows.values() for row in tokens])
    assert shards.excluded == [] and len(shards._open_files) <= 4


@POLICIES
def test_without_a_descriptor_the_error_says_so_and_names_the_limit(copied: Path, damaged) -> None:
    shards = open_shards(copied, damaged=damaged)
    with descriptors_left(0), pytest.raises(ResourceError, match=r"no file descriptor left \(its limit is \d+\).*ulimit -Hn"):
        shards[5]
    with descriptors_left(0), pytest.raises(ResourceError, match="no file descriptor left"):
        open_shards(copied, damaged=damaged)
    assert shards.excluded == []
    assert np.array_equal(shards[5][0], TOKENS[5])


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOMEM])
def test_opening_a_directory_waits_for_what_passes(copied: Path, monkeypatch, number: int) -> None:
    monkeypatch.setattr(os, "stat", failing(os.stat, number, 2))
    assert open_shards(copied, damaged="exclude").excluded_shards == []


def test_a_read_that_ends_early_goes_on(copied: Path, monkeypatch) -> None:
    shards, preadv = open_shards(copied, damaged="exclude"), os.preadv
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: b"")
    monkeypatch.setattr(os, "preadv", lambda descriptor, parts, offset: preadv(descriptor, [parts[0][:100]], offset))
    assert np.array_equal(shards[7][0], TOKENS[7])


def test_a_disk_that_keeps_failing_costs_the_pauses_once(copied: Path, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(open_files.time, "sleep", slept.append)
    shards = open_shards(copied, damaged="exclude")
    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, failing(getattr(os, name), errno.EIO, float("inf")))
    assert not shards.rows(np.arange(20))[0].any() and len(shards.take_excluded()) == 20
    assert len(slept) == 3


def test_scrubbing_takes_no_shortage_for_damage(copied: Path, monkeypatch) -> None:
    entry = open_shards(copied).index.corpora["web"].train[1]
    path = copied / entry.file
    with descriptors_left(0), pytest.raises(ResourceError, match="no file descriptor left"):
        shard_reason(path, entry)
    assert shard_reason(path, entry) is None
    flip_bit(path)
    assert "sha256 differs" in str(shard_reason(path, entry))


def test_maps_of_checksums_take_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards = open_shards(write(tmp_path / "out", {f"web-{n:05d}.tar": random_rows(2, n) for n in range(9)}))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert Path("/proc/self/maps").read_text().count(f"{tmp_path}/out/") == len(shards) // 2 == 9
    del shards
    assert f"{tmp_path}/out/" not in Path("/proc/self/maps").read_text()


def test_damage_is_still_damage(copied: Path) -> None:
    flip_bit(copied / "web-00001.tar", open_shards(copied).index.corpora["web"].train[1].blocks[0][1])
    with pytest.raises(ShardError, match="was changed"):
        open_shards(copied)[1003]
