"""The shard format: what is written is read back, plain WebDataset reads it too, and damage is found and named."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import webdataset
import xxhash

from jadeberta.shards import (
    INDEX_NAME,
    RowFormat,
    ShardError,
    ShardIndex,
    file_sha256,
    open_files,
    open_shards,
    verify,
    write_shard,
)
from jadeberta.shards.writer import list_blocks
from tests.shards.damage import DOCUMENTS, ROWS, TOKENS, VALID, change_index, random_rows, write


def test_every_row_is_read_back_in_the_order_of_the_index(written: Path) -> None:
    shards = open_shards(written)
    assert len(shards) == len(TOKENS) == 1035
    for row in (0, 999, 1000, 1002, 1003, 1004, 1005, 1034):
        tokens, documents = shards[row]
        assert tokens.dtype == documents.dtype == np.uint16 and tokens.shape == documents.shape == (512,)
        np.testing.assert_array_equal(tokens, TOKENS[row])
        np.testing.assert_array_equal(documents, DOCUMENTS[row])
    assert shards.corpora == {"web": range(1005), "wiki": range(1005, 1035)}


def test_any_rows_in_any_order_can_be_had_at_once(written: Path) -> None:
    wanted = np.random.default_rng(0).integers(0, len(TOKENS), 3000)
    tokens, documents = open_shards(written).rows(wanted)
    np.testing.assert_array_equal(tokens, TOKENS[wanted])
    np.testing.assert_array_equal(documents, DOCUMENTS[wanted])


def test_valid_rows_are_a_split_of_their_own(written: Path) -> None:
    shards = open_shards(written, "valid")
    assert len(shards) == 4
    np.testing.assert_array_equal(shards.rows(np.arange(4))[0], VALID["valid-wiki-00000.tar"][0])


def test_negative_rows_count_from_the_end_and_rows_beyond_it_are_an_index_error(written: Path) -> None:
    shards = open_shards(written)
    np.testing.assert_array_equal(shards[-1][0], TOKENS[-1])
    np.testing.assert_array_equal(shards[-len(shards)][0], TOKENS[0])
    for row in (len(shards), -len(shards) - 1):
        with pytest.raises(IndexError):
            shards[row]
    with pytest.raises(IndexError):
        shards.rows(np.asarray([0, -1]))


def test_directory_above_shards_is_understood(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "shards")
    assert len(open_shards(tmp_path)) == len(TOKENS)
    assert verify(tmp_path) == []


def test_same_rows_give_the_same_bytes_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "first" / "a.tar", *random_rows(5, 0), 3, {"a": 1, "b": 2})
    monkeypatch.setattr("time.time", lambda: 1.0e9)
    write_shard(tmp_path / "second" / "a.tar", *random_rows(5, 0), 3, {"b": 2, "a": 1})
    for kind in ("tar", "sums"):
        assert (tmp_path / f"first/a.{kind}").read_bytes() == (tmp_path / f"second/a.{kind}").read_bytes()


def test_sums_are_of_the_tokens_and_then_the_document_numbers_of_each_row_in_order(written: Path) -> None:
    for name, (tokens, documents) in (ROWS | VALID).items():
        checksums = [xxhash.xxh3_64_intdigest(t.tobytes() + d.tobytes()) for t, d in zip(tokens, documents, strict=True)]
        assert np.fromfile(written / name.replace(".tar", ".sums"), "<u8").tolist() == checksums
    index = ShardIndex.load(written / INDEX_NAME)
    for corpus in index.corpora.values():
        for entry in [*corpus.train, *corpus.valid]:
            assert entry.sums_sha256 == hashlib.sha256((written / entry.file.replace(".tar", ".sums")).read_bytes()).hexdigest()


def test_sums_are_there_before_the_tar_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appeared, replace = [], Path.replace

    def watched(self: Path, target: Path) -> Path:
        appeared.append((target.name, sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_shard(tmp_path / "a.tar", *random_rows(2, 0), 1, {})
    assert appeared == [("a.sums", []), ("a.tar", ["a.sums"])]


def test_plain_webdataset_reads_the_same_rows(written: Path) -> None:
    samples = list(webdataset.WebDataset(str(written / "web-00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["web-00000/0000000000", "web-00000/0000001000"]
    assert [orjson.loads(sample["json"]) for sample in samples] == [{"corpus": "web"}] * 2
    for part, expected in (("bin", ROWS["web-00000.tar"][0]), ("doc", ROWS["web-00000.tar"][1])):
        blocks = [np.frombuffer(sample[part], "<u2").reshape(-1, 512) for sample in samples]
        assert [len(block) for block in blocks] == [1000, 3]
        np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_every_sample_of_plain_webdataset_has_all_parts_and_a_key_of_its_own(written: Path) -> None:
    tars = sorted(map(str, written.glob("*.tar")))
    pairs = list(webdataset.WebDataset(tars, shardshuffle=False).to_tuple("bin", "doc"))
    assert sum(len(tokens) // 1024 for tokens, _ in pairs) == sum(len(tokens) for tokens, _ in (ROWS | VALID).values())
    assert all(len(tokens) == len(documents) for tokens, documents in pairs)
    keys = [sample["__key__"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]
    assert len(keys) == len(set(keys)) == len(pairs)


def test_members_of_a_shard_are_named_by_shard_and_first_row(written: Path) -> None:
    with tarfile.open(written / "web-00001.tar") as tar:
        assert tar.getnames() == [f"web-00001/0000000000.{part}" for part in ("bin", "doc", "json")]


def test_shards_of_earlier_versions_are_read_and_verified(written: Path, tmp_path: Path) -> None:
    """Their tars have one meta.json, which is no sample, and names that are unique in one tar only."""
    shutil.copytree(written, tmp_path / "old")
    index = ShardIndex.load(tmp_path / "old" / INDEX_NAME)
    for entry in (entry for corpus in index.corpora.values() for entry in [*corpus.train, *corpus.valid]):
        path = tmp_path / "old" / entry.file
        with tarfile.open(path) as tar:
            members = [(member.name.rpartition("/")[2], tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for name, content in [("meta.json", b"{}"), *(pair for pair in members if not pair[0].endswith(".json"))]:
                added = tarfile.TarInfo(name)
                added.size = len(content)
                tar.addfile(added, io.BytesIO(content))
        entry.bytes, entry.sha256, entry.blocks = path.stat().st_size, file_sha256(path), list_blocks(path, RowFormat(512))
    (tmp_path / "old" / INDEX_NAME).write_bytes(index.to_json())
    assert verify(tmp_path / "old") == []
    np.testing.assert_array_equal(open_shards(tmp_path / "old").rows(np.arange(len(TOKENS)))[0], TOKENS)


def test_a_shard_without_rows_is_a_whole_tar(tmp_path: Path) -> None:
    entry = write_shard(tmp_path / "a.tar", np.empty((0, 512), np.uint16), np.empty((0, 512), np.uint16), 0, {"corpus": "a"})
    assert entry.sequences == 0 and entry.blocks == list_blocks(tmp_path / "a.tar", RowFormat(512)) == []


@pytest.mark.parametrize(
    ("tokens", "documents", "what"),
    [
        (np.ones((2, 511), np.uint16), np.ones((2, 511), np.uint16), "rows of 512"),
        (np.ones(512, np.uint16), np.ones(512, np.uint16), "rows of 512"),
        (np.ones((2, 512), np.uint16), np.ones((1, 512), np.uint16), "rows of 512"),
        (np.ones((2, 512), np.int64), np.ones((2, 512), np.uint16), "uint16 expected"),
        (np.ones((2, 512), np.uint16), np.ones((2, 512), np.int16), "uint16 expected"),
    ],
)
def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path, tokens: np.ndarray, documents: np.ndarray, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        write_shard(tmp_path / "a.tar", tokens, documents, 1, {})


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", *random_rows(2, 0), 1, {})
    before = (tmp_path / "a.tar").read_bytes()
    with pytest.raises(TypeError):
        write_shard(tmp_path / "a.tar", *random_rows(2, 1), 1, {"not JSON": object()})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.sums", "a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read .*Make the shards with 'python -m preprocess all'"),
        (b'{"format": ', "not JSON .*Run 'python -m preprocess pack' again"),
        (b"[]", "not an index of shards .*Point to a directory"),
        (b'{"format": "another"}', "not an index of shards .*Point to a directory"),
        (b'{"format": "jadeberta-shards", "version": 99}', "format version 99, this program reads 1.*Run"),
        (b'{"format": "jadeberta-shards", "version": 1}', "incomplete .*Run"),
        (
            b'{"format": "jadeberta-shards", "version": 1, "corpora": {"a": {"repeats": 1, "train": [{}], "valid": []}}}',
            "incomplete",
        ),
    ],
)
def test_unusable_index_is_refused_with_its_name_and_a_remedy(tmp_path: Path, content: bytes | None, what: str) -> None:
    if content is not None:
        (tmp_path / INDEX_NAME).write_bytes(content)
    for use in (open_shards, verify):
        with pytest.raises(ShardError, match=rf"^{tmp_path / INDEX_NAME}: {what}"):
            use(tmp_path)


def test_no_more_files_are_held_open_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "OPEN_FILES", 3)
    rows = {f"web-{n:05d}.tar": random_rows(2, n) for n in range(8)}
    shards = open_shards(write(tmp_path / "out", rows))

    def held() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(str(tmp_path) in str(link.readlink()) for link in links if link.is_symlink())

    expected = np.concatenate([tokens for tokens, _ in rows.values()])
    for row in np.random.default_rng(0).permutation(np.repeat(np.arange(16), 3)):
        np.testing.assert_array_equal(shards[int(row)][0], expected[row])
        assert held() <= 3
    assert held() == 3
    shards.close()
    assert held() == 0


def test_fingerprint_follows_the_training_rows_and_the_tokenizer_and_nothing_else(written: Path, tmp_path: Path) -> None:
    def fingerprint(name: str, **changes: Any) -> str:
        return open_shards(write(tmp_path / name, **({"rows": ROWS} | changes))).index.fingerprint

    same = open_shards(written).index.fingerprint
    assert fingerprint("again") == same
    assert fingerprint("repeats", repeats=10) == same
    assert fingerprint("valid", valid={}) == same
    assert fingerprint("content", rows=ROWS | {"wiki-00000.tar": random_rows(30, 99)}) != same
    assert fingerprint("fewer", rows={name: ROWS[name] for name in ("web-00000.tar", "wiki-00000.tar")}) != same
    change_index(tmp_path / "again", lambda index: index.update(tokenizer_sha256="0" * 64))
    assert open_shards(tmp_path / "again").index.fingerprint != same


def test_index_reads_back_what_it_wrote(written: Path) -> None:
    index = ShardIndex.load(written / INDEX_NAME)
    assert index.to_json() == (written / INDEX_NAME).read_bytes()
    assert index.corpora["web"].train[0].documents == 2006 and index.sequence_length == 512
