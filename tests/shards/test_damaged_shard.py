"""A damaged shard is refused by name and place, or left out and recorded; whatever is changed, no reader ever gets other tokens."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

from jadeberta.shards import ShardError, ShardIndex, open_files, open_shards, reader
from jadeberta.shards.index import INDEX_NAME
from tests.helpers import make_shards
from tests.shards.damage import DOCUMENTS, TOKENS, append, change_index, cut, flip_bit, random_rows, without_checksums, write

WEB1 = range(1003, 1005)
"""Rows of web-00001.tar."""


@pytest.fixture(params=["mapped", "on disk"])
def sums_kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "on disk":
        monkeypatch.setattr(reader, "MAPPED_FILES", 0)


def row_at(index: ShardIndex, offset: int) -> tuple[int, int] | None:
    """Row of the only tar that a byte belongs to and the byte of that row's tokens; None where it belongs to none."""
    first = 0
    for rows, *parts in index.corpora["web"].train[0].blocks:
        for part in parts:
            if part <= offset < part + rows * 1024:
                within = (offset - part) // 1024
                return first + within, parts[0] + within * 1024
        first += rows
    return None


@pytest.mark.usefixtures("sums_kept")
def test_any_flipped_bit_is_refused_with_row_and_byte_or_changes_nothing_that_is_read(tmp_path: Path) -> None:
    every = 1 if reader.MAPPED_FILES else 4  # sums that are read from the disk anew each time take three times as long
    tokens, documents = random_rows(1003, 5)
    directory = write(tmp_path / "out", {"web-00000.tar": (tokens, documents)}, valid={})
    tar, index = directory / "web-00000.tar", ShardIndex.load(directory / INDEX_NAME)
    shards = open_shards(directory)
    headers = [*range(0, 1536, 9), *range(1536 + 1000 * 1024 - 20, 1536 + 1000 * 1024 + 512, 3)]
    offsets = [*headers, *np.random.default_rng(0).integers(0, tar.stat().st_size, 200).tolist()]
    seen = {"refused": 0, "harmless": 0}
    for n, offset in list(enumerate(offsets))[::every]:
        flip_bit(tar, offset, n % 8)
        hit = row_at(index, offset)
        if hit is None:
            read = shards.rows(np.arange(1003))
            assert np.array_equal(read[0], tokens) and np.array_equal(read[1], documents)
            seen["harmless"] += 1
        else:
            with pytest.raises(
                ShardError, match=rf"^{tar}: row {hit[0]}, its tokens at byte {hit[1]}: it was changed: its checksum is "
            ):
                shards.rows(np.arange(1003))
            seen["refused"] += 1
        flip_bit(tar, offset, n % 8)
    assert seen["refused"] > 150 / every and seen["harmless"] > 150 / every
    assert np.array_equal(shards.rows(np.arange(1003))[0], tokens)


@pytest.mark.usefixtures("sums_kept")
def test_the_error_names_both_sums_and_the_remedy(copied: Path) -> None:
    written = xxhash.xxh3_64_intdigest(TOKENS[1004].tobytes() + DOCUMENTS[1004].tobytes())
    offset = open_shards(copied).index.corpora["web"].train[1].blocks[0][1] + 1024
    flip_bit(copied / "web-00001.tar", offset, 3)
    changed = TOKENS[1004].copy()
    changed[0] ^= 8
    found = xxhash.xxh3_64_intdigest(changed.tobytes() + DOCUMENTS[1004].tobytes())
    shards = open_shards(copied)
    assert np.array_equal(shards[1003][0], TOKENS[1003])
    with pytest.raises(ShardError) as refused:
        shards[1004]
    assert str(refused.value) == (
        f"{copied / 'web-00001.tar'}: row 1, its tokens at byte {offset}: it was changed: its checksum is {found:016x}, "
        f"web-00001.sums says {written:016x}. Restore it or run 'python -m preprocess pack' again; "
        "data.damaged: exclude trains without what is damaged."
    )


OPENING = [
    ("web-00001.tar", cut, r"\d+ bytes, index\.json says \d+"),
    ("web-00001.tar", append, r"\d+ bytes, index\.json says \d+"),
    ("web-00001.tar", Path.unlink, "No such file"),
    ("web-00001.sums", lambda path: flip_bit(path, 9), r"sha256 differs from index\.json \(expected [0-9a-f]{12}…, found "),
    ("web-00001.sums", cut, "15 bytes, 2 checksums of 8 bytes expected"),
    ("web-00001.sums", append, "17 bytes, 2 checksums of 8 bytes expected"),
    ("web-00001.sums", Path.unlink, r"No such file.*it holds the checksums of the rows of web-00001\.tar"),
]


@pytest.mark.parametrize(("name", "damage", "what"), OPENING)
def test_missing_or_other_file_is_refused_when_the_directory_is_opened(
    copied: Path, name: str, damage: Callable, what: str
) -> None:
    damage(copied / name)
    with pytest.raises(ShardError, match=rf"^{copied / name}: {what}.*run 'python -m preprocess pack' again"):
        open_shards(copied)


@pytest.mark.parametrize(("name", "damage", "what"), OPENING)
def test_missing_or_other_file_excludes_its_shard_and_no_other_row(copied: Path, name: str, damage: Callable, what: str) -> None:
    damage(copied / name)
    shards = open_shards(copied, damaged="exclude")
    (shard,) = shards.excluded_shards
    assert (shard.file, shard.row, shard.sequences, shard.whole_shard) == ("web-00001.tar", 0, 2, True)
    assert shard.reason.startswith(f"{copied / name}: ") and len(shards) == len(TOKENS)
    assert shards.corpora == {"web": range(1005), "wiki": range(1005, 1035)}
    tokens, documents = shards.rows(np.arange(len(shards)))
    kept = ~np.isin(np.arange(len(shards)), WEB1)
    assert np.array_equal(tokens[kept], TOKENS[kept]) and np.array_equal(documents[kept], DOCUMENTS[kept])
    assert not tokens[~kept].any() and not documents[~kept].any()
    records = shards.take_excluded()
    assert [(r.file, r.row, r.sequences, r.whole_shard) for r in records] == [("web-00001.tar", row, 1, True) for row in (0, 1)]
    assert shards.take_excluded() == []


@pytest.mark.usefixtures("sums_kept")
def test_changed_row_alone_is_set_aside_and_recorded_with_its_place(copied: Path) -> None:
    entry = open_shards(copied).index.corpora["web"].train[0]
    flip_bit(copied / entry.file, entry.blocks[1][2] + 1024 + 7)  # a document number of the second row of the second block
    shards = open_shards(copied, damaged="exclude")
    tokens, documents = shards.rows(np.asarray([5, 1001, 1002, 1001]))
    assert not tokens[1].any() and not documents[1].any() and not tokens[3].any()
    assert np.array_equal(tokens[[0, 2]], TOKENS[[5, 1002]]) and np.array_equal(documents[[0, 2]], DOCUMENTS[[5, 1002]])
    first, second = shards.take_excluded()
    assert first == second and (first.file, first.row, first.whole_shard) == ("web-00000.tar", 1001, False)
    assert first.offset == entry.blocks[1][1] + 1024 and "it was changed: its checksum is" in first.reason
    assert shards.excluded_shards == []


def test_read_from_a_file_cut_after_it_was_opened_is_an_error_that_names_it(copied: Path) -> None:
    shards, lenient = open_shards(copied), open_shards(copied, damaged="exclude")
    assert shards[1003][0].any()
    os.truncate(copied / "web-00001.tar", 2000)
    with pytest.raises(
        ShardError, match=rf"^{copied / 'web-00001.tar'}: row 0, its tokens at byte \d+: .* ends before byte \d+\."
    ):
        shards[1003]
    assert np.array_equal(shards[0][0], TOKENS[0])
    assert not lenient[1003][0].any() and "ends before byte" in lenient.take_excluded()[0].reason


def test_sums_cut_or_gone_after_they_were_opened_set_rows_aside(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAPPED_FILES", 0)
    shards = open_shards(copied, damaged="exclude")
    os.truncate(copied / "web-00001.sums", 8)
    (copied / "wiki-00000.sums").unlink()
    tokens, _ = shards.rows(np.asarray([1003, 1004, 1005]))
    assert np.array_equal(tokens[0], TOKENS[1003]) and not tokens[1:].any()
    assert [r.reason for r in shards.take_excluded()] == [
        "web-00001.sums ends before byte 16",
        "reading wiki-00000.sums at byte 0 failed (No such file or directory)",
    ]


def test_read_that_the_disk_fails_is_an_error_or_set_aside(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "RETRY_PAUSES_S", (0.0,))
    strict, lenient = open_shards(copied), open_shards(copied, damaged="exclude")

    def fails(*arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    working = {name: getattr(os, name) for name in ("preadv", "pread")}
    for name in working:
        monkeypatch.setattr(os, name, fails)
    with pytest.raises(ShardError, match=r"web-00000\.tar: row 7, .* failed \(Input/output error\)"):
        strict[7]
    assert not lenient[7][0].any() and lenient.take_excluded()[0].row == 7
    for name, sound in working.items():
        monkeypatch.setattr(os, name, sound)
    assert np.array_equal(lenient[7][0], TOKENS[7])


def test_tar_and_sums_of_another_shard_are_refused_although_they_fit_each_other(copied: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"web-00001.tar": random_rows(2, 77)}, valid={})
    for name in ("web-00001.tar", "web-00001.sums"):
        shutil.copy(other / name, copied / name)
    with pytest.raises(ShardError, match=r"web-00001\.sums: sha256 differs from index\.json"):
        open_shards(copied)


def test_directory_of_which_nothing_can_be_used_is_refused_even_when_setting_aside(copied: Path) -> None:
    for tar in copied.glob("w*.tar"):
        tar.unlink()
    with pytest.raises(
        ShardError, match=rf"^{copied}: none of its 3 train shards can be used\. {copied}/web-00000\.tar: No such"
    ):
        open_shards(copied, damaged="exclude")
    assert len(open_shards(copied, "valid")) == 4


def test_index_that_contradicts_itself_is_refused(copied: Path) -> None:
    change_index(copied, lambda index: index["corpora"]["wiki"]["train"][0].update(sequences=31))
    with pytest.raises(ShardError, match=r"wiki-00000\.tar: 31 sequences and blocks of 30 in index"):
        open_shards(copied)


def test_shard_set_aside_later_is_left_out_in_forked_processes_too(copied: Path) -> None:
    shards = open_shards(copied, damaged="exclude")
    ready, told = os.pipe(), os.pipe()
    if not (child := os.fork()):
        before = shards[1003][0].any()
        os.write(ready[1], b".")
        os.read(told[0], 1)
        os._exit(0 if before and not shards[1003][0].any() and shards.take_excluded()[0].whole_shard else 1)
    os.read(ready[0], 1)
    assert shards.exclude_shard("web-00001.tar", "found while training") is True
    assert shards.exclude_shard("web-00001.tar", "again") is False
    os.write(told[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    assert not shards[1004][0].any() and shards.take_excluded()[0].reason == "found while training"
    assert [s.reason for s in shards.excluded_shards] == ["found while training"]


def test_directory_without_checksums_reads_as_ever_and_has_the_same_fingerprint(copied: Path, written: Path) -> None:
    shards = open_shards(without_checksums(copied))
    assert np.array_equal(shards.rows(np.arange(len(shards)))[0], TOKENS)
    assert shards.index.fingerprint == open_shards(written).index.fingerprint


@pytest.mark.parametrize("damaged", ["stop", "exclude"])
def test_a_token_beyond_the_vocabulary_is_refused_without_checksums_too(tmp_path: Path, damaged: reader.Damaged) -> None:
    directory = without_checksums(make_shards(tmp_path / "shards", {"web": (5, 1)}, length=512))
    entry = open_shards(directory).index.corpora["web"].train[0]
    offset = entry.blocks[0][1] + 3 * 1024
    flip_bit(directory / entry.file, offset + 1, 7)  # high byte of row 3's first token
    shards = open_shards(directory, damaged=damaged)
    assert shards[2][0].any()
    if damaged == "stop":
        with pytest.raises(
            ShardError, match=rf"web-00000\.tar: row 3, .* byte {offset}: a token is beyond the vocabulary of 64\."
        ):
            shards[3]
    else:
        assert not shards[3][0].any() and shards.take_excluded()[0].row == 3


def test_the_old_spelling_set_aside_means_exclude(copied: Path) -> None:
    cut(copied / "web-00001.tar")
    shards = open_shards(copied, damaged="set_aside")
    assert shards.damaged == "exclude" and [record.file for record in shards.excluded_shards] == ["web-00001.tar"]
