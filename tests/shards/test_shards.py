"""The shard format: what is written is read back, plain WebDataset reads it too, and damage is found and named."""

import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import webdataset

from jadeberta.shards import (
    INDEX_NAME,
    CorpusEntry,
    ShardError,
    ShardIndex,
    file_sha256,
    open_shards,
    reader,
    verify,
    write_shard,
)
from tests.helpers import make_shards

VOCAB = 64
Rows = tuple[np.ndarray, np.ndarray]


def random_rows(count: int, seed: int) -> Rows:
    """Rows of two documents each; the last one ends in padding."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, VOCAB, (count, 512), dtype=np.uint16)
    documents = np.ones((count, 512), np.uint16)
    documents[:, 300:] = 2
    tokens[-1, 400:], documents[-1, 400:] = 0, 0
    return tokens, documents


ROWS = {"web-00000.tar": random_rows(1003, 1), "web-00001.tar": random_rows(2, 2), "wiki-00000.tar": random_rows(30, 3)}
VALID = {"valid-wiki-00000.tar": random_rows(4, 4)}
TOKENS, DOCUMENTS = (np.concatenate([rows[i] for rows in ROWS.values()]) for i in (0, 1))


def write(directory: Path, rows: dict[str, Rows], valid: dict[str, Rows] = VALID, repeats: int = 1) -> Path:
    """A shard directory that `verify` has nothing against; corpora by what stands before the last hyphen."""
    model = directory / "tokenizer" / "spm.model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"not read by this package")
    index = ShardIndex(512, VOCAB, file_sha256(model), {"engine": "none"}, "none", "none", {})
    for split, shards in (("train", rows), ("valid", valid)):
        for name, (tokens, documents) in shards.items():
            corpus = name.removeprefix("valid-").rpartition("-")[0]
            entry = write_shard(directory / name, tokens, documents, 2 * len(tokens), {"corpus": corpus})
            getattr(index.corpora.setdefault(corpus, CorpusEntry(repeats)), split).append(entry)
    (directory / INDEX_NAME).write_bytes(index.to_json())
    return directory


def change_index(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = orjson.loads((directory / INDEX_NAME).read_bytes())
    change(document)
    (directory / INDEX_NAME).write_bytes(orjson.dumps(document))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards") / "out", ROWS)


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(written, tmp_path / "copy")


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
    write_shard(tmp_path / "first.tar", *random_rows(5, 0), 3, {"a": 1, "b": 2})
    monkeypatch.setattr("time.time", lambda: 1.0e9)
    write_shard(tmp_path / "second.tar", *random_rows(5, 0), 3, {"b": 2, "a": 1})
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_plain_webdataset_reads_the_same_rows(written: Path) -> None:
    samples = list(webdataset.WebDataset(str(written / "web-00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["meta", "0000000000", "0000001000"]
    assert orjson.loads(samples[0]["json"]) == {"corpus": "web"}
    for part, expected in (("bin", ROWS["web-00000.tar"][0]), ("doc", ROWS["web-00000.tar"][1])):
        blocks = [np.frombuffer(sample[part], "<u2").reshape(-1, 512) for sample in samples[1:]]
        assert [len(block) for block in blocks] == [1000, 3]
        np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_meta_json_is_the_first_member(written: Path) -> None:
    with tarfile.open(written / "web-00001.tar") as tar:
        assert tar.getnames() == ["meta.json", "0000000000.bin", "0000000000.doc"]


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
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == before


def test_sound_directory_has_no_fault_and_every_file_is_looked_at(written: Path) -> None:
    lines: list[str] = []
    assert verify(written, lines.append) == []
    assert [line.split(":")[0] for line in lines] == [
        *("web web-00000.tar", "web web-00001.tar"),
        *("wiki wiki-00000.tar", "wiki valid-wiki-00000.tar"),
    ]


def flip_byte(path: Path) -> None:
    with open(path, "r+b") as f:
        f.seek(5000)
        byte = f.read(1)[0]
        f.seek(5000)
        f.write(bytes([byte ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path) -> None:
    with open(path, "ab") as f:
        f.write(b"\0")


@pytest.mark.parametrize("name", ["web-00001.tar", "valid-wiki-00000.tar"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip_byte, r"sha256 differs from index\.json"),
        (cut, r"\d+ bytes, index\.json says"),
        (append, r"\d+ bytes, index\.json says"),
        (Path.unlink, "missing"),
    ],
)
def test_damaged_file_is_the_one_fault_and_named_with_a_remedy(copied: Path, damage: Callable, what: str, name: str) -> None:
    damage(copied / name)
    (fault,) = verify(copied)
    assert re.match(rf"{copied / name}: {what}.*Delete it and run 'python -m preprocess pack' again", fault)


def test_other_or_missing_tokenizer_is_a_fault(copied: Path) -> None:
    model = copied / "tokenizer" / "spm.model"
    model.write_bytes(b"another")
    (fault,) = verify(copied)
    assert fault.startswith(f"{model}: sha256 differs")
    model.unlink()
    (fault,) = verify(copied)
    assert fault.startswith(f"{model}: missing")


def wrong_ids(tokens: np.ndarray, documents: np.ndarray) -> None:
    tokens[1, 7] = VOCAB


def padding_in_tokens_alone(tokens: np.ndarray, documents: np.ndarray) -> None:
    tokens[0, 9] = 0


def padding_in_the_middle(tokens: np.ndarray, documents: np.ndarray) -> None:
    tokens[0, 9], documents[0, 9] = 0, 0


def falling_numbers(tokens: np.ndarray, documents: np.ndarray) -> None:
    documents[0, 310:] = 1


def first_number_is_two(tokens: np.ndarray, documents: np.ndarray) -> None:
    documents[0, :300] = 2


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (wrong_ids, "block 0: token id 64 with a vocabulary of 64"),
        (padding_in_tokens_alone, "block 0: padding of tokens and of document numbers disagree"),
        (padding_in_the_middle, "block 0: document numbers do not start at 1, rise, and end in padding alone"),
        (falling_numbers, "block 0: document numbers do not start at 1, rise, and end in padding alone"),
        (first_number_is_two, "block 0: document numbers do not start at 1, rise, and end in padding alone"),
    ],
)
def test_impossible_rows_are_a_fault_although_the_hash_is_right(tmp_path: Path, mistake: Callable, what: str) -> None:
    tokens, documents = random_rows(3, 0)
    mistake(tokens, documents)
    directory = write(tmp_path / "out", {"web-00000.tar": (tokens, documents)})
    assert verify(directory) == [f"{directory / 'web-00000.tar'}: {what}."]


@pytest.mark.parametrize("key", ["sequences", "tokens"])
def test_counts_that_do_not_add_up_are_a_fault(copied: Path, key: str) -> None:
    def miscount(index: dict[str, Any]) -> None:
        index["corpora"]["wiki"]["train"][0][key] += 1

    change_index(copied, miscount)
    (fault,) = verify(copied)
    assert fault.startswith(f"{copied / 'wiki-00000.tar'}: 30 sequences and {30 * 512 - 112} tokens, index.json says")


def test_blocks_that_lie_elsewhere_are_a_fault(copied: Path) -> None:
    change_index(copied, lambda index: index["corpora"]["wiki"]["train"][0]["blocks"][0].reverse())
    (fault,) = verify(copied)
    assert fault.startswith(f"{copied / 'wiki-00000.tar'}: blocks lie elsewhere")


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


@pytest.mark.parametrize(("damage", "what"), [(cut, r"\d+ bytes, index\.json says \d+"), (Path.unlink, "No such file")])
def test_missing_or_cut_file_is_refused_when_the_directory_is_opened(copied: Path, damage: Callable, what: str) -> None:
    damage(copied / "web-00001.tar")
    with pytest.raises(ShardError, match=rf"^{copied / 'web-00001.tar'}: {what}.*run 'python -m preprocess pack' again"):
        open_shards(copied)


def test_read_from_a_file_cut_after_it_was_opened_is_an_error_that_names_it(copied: Path) -> None:
    shards = open_shards(copied)
    assert shards[1003][0].any()
    os.truncate(copied / "web-00001.tar", 2000)
    with pytest.raises(ShardError, match=rf"^{copied / 'web-00001.tar'}: ends before byte \d+\."):
        shards[1003]
    np.testing.assert_array_equal(shards[0][0], TOKENS[0])


def test_no_more_files_are_held_open_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "OPEN_FILES", 3)
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


def test_a_token_beyond_the_vocabulary_is_refused_at_reading_and_named(tmp_path: Path) -> None:
    directory = make_shards(tmp_path / "shards", {"web": (5, 1)})
    entry = open_shards(directory).index.corpora["web"].train[0]
    with open(directory / entry.file, "r+b") as f:
        f.seek(entry.blocks[0][1] + 3 * 512 * 2 + 1)  # high byte of row 3's first token
        f.write(b"\xff")
    reader = open_shards(directory)
    assert len(reader[2][0]) == 512
    with pytest.raises(ShardError, match=r"web-00000\.tar: row 3 holds a token beyond the vocabulary"):
        reader[3]
