"""The checksums of a shard are part of it: they come first, are made again when they are missing or damaged, and go with it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jadeberta.shards import INDEX_NAME, open_shards, verify, writer
from preprocess.document_files import read_json, write_json
from preprocess.executors.executor import Executor
from preprocess.stages.pack import pack
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made


@pytest.fixture
def copied(tiny_shards: Made, tmp_path: Path) -> Made:
    return Made(tiny_shards.corpora, tiny_shards.config, shutil.copytree(tiny_shards.out, tmp_path / "copy"))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*out.glob("*.tar"), *out.glob("*.sums"), out / INDEX_NAME]}


def times(out: Path, kind: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob(f"*.{kind}")}


def test_every_shard_has_its_checksums(tiny_shards: Made) -> None:
    tars = {path.stem: path for path in tiny_shards.out.glob("*.tar")}
    assert {path.stem for path in tiny_shards.out.glob("*.sums")} == set(tars)
    assert len(tars) == 7


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_sums_are_made_again_from_the_tar_alone(copied: Made, damage: str) -> None:
    before, tars = contents(copied.out), times(copied.out, "tar")
    checksums = copied.out / "web-00001.sums"
    content = bytearray(checksums.read_bytes())
    content[3] ^= 1
    if damage == "remove":
        checksums.unlink()
    else:
        checksums.write_bytes(content if damage == "flip" else content[:-1])
    assert len(verify(copied.out)) == 1
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == before and times(copied.out, "tar") == tars and verify(copied.out) == []


def test_directory_of_a_version_without_sums_gets_them_and_keeps_its_tars_and_fingerprint(copied: Made) -> None:
    before, tars = contents(copied.out), times(copied.out, "tar")
    fingerprint = open_shards(copied.out).index.fingerprint
    for path in copied.out.glob("*.sums"):
        path.unlink()
    for marker in (copied.out / "work/pack").glob("*.json"):
        found = read_json(marker)
        del found["shard"]["sums_sha256"]
        write_json(marker, found)
    index = read_json(copied.out / INDEX_NAME)
    for corpus in index["corpora"].values():
        for entry in [*corpus["train"], *corpus["valid"]]:
            del entry["sums_sha256"]
    write_json(copied.out / INDEX_NAME, index)
    assert verify(copied.out) == []
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == before and times(copied.out, "tar") == tars
    assert open_shards(copied.out).index.fingerprint == fingerprint


def test_packing_broken_off_between_sums_and_tar_is_done_again(copied: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copied.out)
    (copied.out / "web-00001.tar").unlink()
    (copied.out / "web-00001.sums").unlink()
    write = writer.write_checksums

    def is_killed_after(shard: Path, checksums: np.ndarray) -> Any:
        write(shard, checksums)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_checksums", is_killed_after)
    with pytest.raises(KeyboardInterrupt):
        pack(copied.config, copied.out, Executor())
    assert (copied.out / "web-00001.sums").read_bytes() == before["web-00001.sums"]
    assert not (copied.out / "web-00001.tar").exists() and not (copied.out / INDEX_NAME).exists()
    monkeypatch.undo()
    (copied.out / ".web-00001.tar.tmp-1").write_bytes(b"left by a process that was killed")
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == before and verify(copied.out) == []
    assert not list(copied.out.glob(".*.tmp-*"))


def test_sums_of_shards_that_are_wanted_no_more_are_removed(copied: Made) -> None:
    config = tiny.configure(copied.corpora, shard_bytes=10**9)
    del config.corpora["web-ja"]
    pack(config, copied.out, Executor())
    assert {path.name for path in copied.out.glob("*.sums")} == {"web-00000.sums", "valid-web-00000.sums"}
    assert verify(copied.out) == []
