"""Rows of several lengths, ids beyond 65,535 and special tokens anywhere: format version 2, and version 1 wherever it suffices."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import webdataset
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from jadeberta.errors import JadebertaError
from jadeberta.shards import (
    INDEX_NAME,
    CorpusEntry,
    ShardEntry,
    ShardError,
    ShardIndex,
    SpecialTokens,
    ensure_checksums,
    file_sha256,
    open_shards,
    verify,
    write_shard,
)
from jadeberta.shards.index_checks import VOCAB_LIMIT
from jadeberta.shards.row_format import token_dtype_of
from jadeberta.shards.scrub import Scrubber
from tests.shards.damage import change_index, flip_bit, without_checksums
from tests.shards.test_crafted_index import with_another_value
from tests.shards.test_scrub import all_faults

VOCAB = 100_000
SPECIAL = SpecialTokens(pad=7, cls=99_998, sep=2, unk=None, mask=99_999, others=(66_000, 3))
LENGTHS = (128, 8192, 512)
Rows = tuple[np.ndarray, np.ndarray]


def rows_of(count: int, length: int) -> Rows:
    """Rows of as many documents as fit, each [CLS] and [SEP] alone but for the first; the last row ends in padding."""
    tokens = np.random.default_rng(length).integers(70_000, 90_000, (count, length), dtype=np.uint32)
    documents = np.maximum(1, np.arange(length) // 2).astype(np.uint16) * np.ones((count, 1), np.uint16)
    tokens[-1, length - 20 :], documents[-1, length - 20 :] = SPECIAL.pad, 0
    return tokens, documents


ROWS = {length: rows_of(5, length) for length in LENGTHS}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three lengths of uint32 rows; `valid` has rows of two of them."""
    out = tmp_path_factory.mktemp("wide") / "out"
    (out / "tokenizer").mkdir(parents=True)
    (out / "tokenizer" / "spm.model").write_bytes(b"not read by this package")
    index = ShardIndex(LENGTHS[0], VOCAB, file_sha256(out / "tokenizer" / "spm.model"), {"engine": "none"}, "none", "none", {})
    index.token_dtype, index.special_tokens = token_dtype_of(VOCAB), SPECIAL
    index.corpora["web"] = CorpusEntry(1)
    for length, rows in ROWS.items():
        for split, name in (("train", f"web-00000-s{length}.tar"), ("valid", f"valid-web-00000-s{length}.tar")):
            if split == "train" or length != 512:
                entry = write_shard(out / name, *rows, 7, {"token_dtype": "uint32"}, length)
                entry.sequence_length = None if length == LENGTHS[0] else length
                getattr(index.corpora["web"], split).append(entry)
    (out / INDEX_NAME).write_bytes(index.to_json())
    return out


@pytest.fixture
def restored(wide: Path) -> Any:
    """The directory, whose files are put back."""
    before = {path: path.read_bytes() for path in wide.iterdir() if path.is_file()}
    yield wide
    for path, content in before.items():
        path.write_bytes(content)


def test_each_length_is_read_back_by_itself(wide: Path) -> None:
    for length, (tokens, documents) in ROWS.items():
        shards = open_shards(wide, sequence_length=length)
        assert (shards.sequence_length, shards.index.sequence_length, len(shards)) == (length, length, 5)
        found = shards.rows(np.asarray([4, 0, 2]))
        assert (found[0].dtype, found[1].dtype) == (np.uint32, np.uint16)
        np.testing.assert_array_equal(found[0], tokens[[4, 0, 2]])
        np.testing.assert_array_equal(found[1], documents[[4, 0, 2]])
        np.testing.assert_array_equal(shards[-1][0], tokens[4])
        np.testing.assert_array_equal(shards[-1][1], documents[4])
    assert open_shards(wide).sequence_length == LENGTHS[0]
    assert len(open_shards(wide, "valid", sequence_length=512)) == 0
    assert verify(wide) == []


def test_a_length_that_is_not_there_is_an_error_that_names_those_that_are(wide: Path) -> None:
    with pytest.raises(
        ShardError, match=rf"{re.escape(str(wide))}.*no rows of 1024 tokens, but of 128 and 8192 and 512\. Choose"
    ):
        open_shards(wide, sequence_length=1024)


def test_a_checksum_is_of_the_bytes_of_the_tokens_and_then_of_the_document_numbers(wide: Path) -> None:
    for length, rows in ROWS.items():
        wanted = [xxhash.xxh3_64_intdigest(t.tobytes() + d.tobytes()) for t, d in zip(*rows, strict=True)]
        assert np.fromfile(wide / f"web-00000-s{length}.sums", "<u8").tolist() == wanted


def test_plain_webdataset_reads_wide_rows(wide: Path) -> None:
    for length, (tokens, documents) in ROWS.items():
        (sample,) = webdataset.WebDataset(str(wide / f"web-00000-s{length}.tar"), shardshuffle=False)
        np.testing.assert_array_equal(np.frombuffer(sample["bin"], "<u4").reshape(-1, length), tokens)
        np.testing.assert_array_equal(np.frombuffer(sample["doc"], "<u2").reshape(-1, length), documents)


def test_a_changed_bit_is_named_and_its_row_becomes_padding_of_the_pad_id(restored: Path) -> None:
    path = restored / "web-00000-s8192.tar"
    start = ShardIndex.load(restored / INDEX_NAME).corpora["web"].train[1].blocks[0][1]
    flip_bit(path, start + 3 * 8192 * 4 + 11, 0)
    with pytest.raises(ShardError, match=rf"row 3, its tokens at byte {start + 3 * 8192 * 4}: it was changed"):
        open_shards(restored, sequence_length=8192).rows(np.arange(5))
    shards = open_shards(restored, damaged="exclude", sequence_length=8192)
    tokens, documents = shards.rows(np.arange(5))
    assert [record.row for record in shards.take_excluded()] == [3]
    assert (tokens[3] == SPECIAL.pad).all() and not documents[3].any()
    np.testing.assert_array_equal(tokens[4], ROWS[8192][0][4])
    assert len(open_shards(restored, sequence_length=128).rows(np.arange(5))[0]) == 5
    (fault,) = verify(restored)
    assert f"row 3 (block 0 at byte {start}, its tokens at byte {start + 3 * 8192 * 4})" in fault


def test_an_id_beyond_the_vocabulary_of_a_row_without_checksum_becomes_padding(restored: Path) -> None:
    without_checksums(restored)
    start = ShardIndex.load(restored / INDEX_NAME).corpora["web"].train[0].blocks[0][1]
    flip_bit(restored / "web-00000-s128.tar", start + 128 * 4 + 2, 7)  # + 2**23
    shards = open_shards(restored, damaged="exclude")
    tokens, documents = shards.rows(np.arange(5))
    assert shards.take_excluded()[0].reason == f"a token is beyond the vocabulary of {VOCAB}"
    assert (tokens[1] == SPECIAL.pad).all() and not documents[1].any()


def test_a_scrub_reads_the_shards_of_its_readers_length_alone(restored: Path) -> None:
    without_checksums(restored)
    for length in (128, 512):
        flip_bit(restored / f"web-00000-s{length}.tar", 3000)
    scrubber = Scrubber(open_shards(restored, damaged="exclude", sequence_length=512), 0, 1)
    (fault,) = all_faults(scrubber)
    assert (fault.file, fault.sequences, scrubber.state) == ("web-00000-s512.tar", 5, "done")
    scrubber.close()


def test_padding_is_known_by_the_pad_id_when_rows_are_verified(restored: Path) -> None:
    change_index(restored, lambda index: index["special_tokens"].update(pad=8))
    assert any("padding of tokens and of document numbers disagree" in fault for fault in verify(restored))


def test_the_version_is_the_oldest_that_can_say_it() -> None:
    entry = ShardEntry("a.tar", 0, 0, 0, 0, "0" * 64, [], "0" * 64)
    plain = ShardIndex(1024, 2**16, "0" * 64, {}, "", "", {"a": CorpusEntry(1, [entry])})
    assert plain.version == 1 and plain.sequence_lengths == (1024,)
    assert not {"token_dtype", "special_tokens"} & orjson.loads(plain.to_json()).keys()
    assert "sequence_length" not in orjson.loads(plain.to_json())["corpora"]["a"]["train"][0]
    other = ShardEntry("b.tar", 0, 0, 0, 0, "0" * 64, [], "0" * 64, 2048)
    for change in (
        {"token_dtype": "uint32"},
        {"special_tokens": SpecialTokens(unk=None)},
        {"corpora": {"a": CorpusEntry(1, [entry, other])}},
    ):
        wide = ShardIndex(**vars(plain) | change)
        assert wide.version == 2 and wide.fingerprint != plain.fingerprint
    # The shards of one length are what a directory of that length alone has.
    assert wide.of_length(1024).to_json() == plain.to_json() and wide.of_length(1024).fingerprint == plain.fingerprint


def test_an_index_is_read_back_as_it_was_written(wide: Path) -> None:
    content = (wide / INDEX_NAME).read_bytes()
    assert orjson.loads(content)["version"] == 2
    index = ShardIndex.load(wide / INDEX_NAME)
    assert index.to_json() == content and index.special_tokens == SPECIAL and index.sequence_lengths == LENGTHS


TOP = [
    ("token_dtype", "uint64", "token_dtype is 'uint64' and must be uint16 or uint32"),
    ("token_dtype", None, "token_dtype is None"),
    ("token_dtype", "uint16", f"vocab_size is {VOCAB} and must be a whole number from 1 to 65536"),
    ("vocab_size", 2 * VOCAB_LIMIT, f"vocab_size is {2 * VOCAB_LIMIT}"),
    ("vocab_size", 70_000, "special_tokens.cls is 99998 and must be a whole number from 0 to 69999"),
    ("special_tokens", [], r"special_tokens is \[\] and must be an object"),
    ("special_tokens", {}, "special_tokens.pad is missing"),
    ("special_tokens", SPECIAL.document() | {"pad": 7.0}, "special_tokens.pad is 7.0 and must be a whole number"),
    ("special_tokens", SPECIAL.document() | {"pad": None}, "special_tokens.pad is None"),
    ("special_tokens", SPECIAL.document() | {"mask": 7}, "special_tokens: pad and mask are both the token 7"),
    ("special_tokens", SPECIAL.document() | {"others": [2]}, "special_tokens: sep and others are both the token 2"),
    ("special_tokens", SPECIAL.document() | {"others": [9, 9]}, "others and others are both the token 9"),
    ("special_tokens", SPECIAL.document() | {"others": [True]}, r"others\[0\] is True and must be a whole number"),
    ("special_tokens", SPECIAL.document() | {"others": [[]]}, r"others\[0\] is \[\] and must be a whole number"),
    ("special_tokens", SPECIAL.document() | {"others": None}, "others is None and must be a list"),
    ("special_tokens", SPECIAL.document() | {"bos": 1}, "special_tokens.bos is no role"),
    ("word_source", [], r"word_source is \[\] and must be a string"),
    ("tokenizer_input", {}, r"tokenizer_input is \{\} and must be a string"),
    ("version", 1, "token_dtype is there, which format version 1 does not have"),
    ("version", 3, "format version 3, this program reads 1 and 2"),
    ("version", True, "format version True"),
]


@pytest.mark.parametrize(("key", "value", "what"), TOP)
def test_a_wrong_value_of_the_directory_is_one_sentence(restored: Path, key: str, value: object, what: str) -> None:
    change_index(restored, lambda index: index.update({key: value}))
    for use in (open_shards, verify):
        with pytest.raises(ShardError, match=rf"index\.json: .*{what}.*\."):
            use(restored)


@pytest.mark.parametrize("value", [0, -1, None, "128", 1.5, True, 2**40, []])
def test_a_wrong_length_of_a_shard_is_one_sentence(restored: Path, value: object) -> None:
    change_index(restored, lambda index: index["corpora"]["web"]["train"][1].update(sequence_length=value))
    with pytest.raises(ShardError, match=r"corpora\.web\.train\[1\]\.sequence_length is .* and must be a whole number"):
        open_shards(restored)


def test_a_length_that_is_not_that_of_the_rows_is_found(restored: Path) -> None:
    change_index(restored, lambda index: index["corpora"]["web"]["train"][1].update(sequence_length=16384))
    with pytest.raises(ShardError, match=r"tokens is 40940|ends beyond"):
        open_shards(restored, sequence_length=16384)
    assert any("blocks lie elsewhere" in fault for fault in verify(restored))


def test_version_one_with_a_length_of_a_shard_is_refused(restored: Path) -> None:
    def older(index: dict[str, Any]) -> None:
        del index["token_dtype"], index["special_tokens"]
        index.update(version=1, vocab_size=65_536)

    change_index(restored, older)
    with pytest.raises(ShardError, match=r"train\[1\]\.sequence_length is there, which format version 1 does not have"):
        open_shards(restored)


IDS = st.lists(st.integers(0, 30), min_size=5, max_size=9)


@given(ids=IDS, has_unknown=st.booleans())
def test_special_tokens_have_one_role_each_or_are_refused(ids: list[int], has_unknown: bool) -> None:
    pad, cls, sep, unk, mask, *others = ids
    roles: list[int | None] = [pad, cls, sep, unk if has_unknown else None, mask]
    allowed = [number for number in [*roles, *others] if number is not None]
    is_sound = len({*allowed}) == len(allowed) or (cls == sep and len({*allowed}) == len(allowed) - 1)
    try:
        special = SpecialTokens(*roles, tuple(others))  # type: ignore[arg-type]
    except ValueError:
        assert not is_sound
    else:
        assert is_sound and special.ids == tuple(sorted({*allowed}))
        assert SpecialTokens(**orjson.loads(orjson.dumps(special.document()))) == special


@given(count=st.integers(1, 4), length=st.integers(1, 9000), is_wide=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_rows_of_any_length_and_type_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, count: int, length: int, is_wide: bool, seed: int
) -> None:
    out, generator = tmp_path_factory.mktemp("any"), np.random.default_rng(seed)
    size = 2**20 if is_wide else 2**16
    tokens = generator.integers(0, size, (count, length), dtype=np.uint32 if is_wide else np.uint16)
    documents = generator.integers(1, 2**15, (count, length), dtype=np.uint16)
    entry = write_shard(out / "a.tar", tokens, documents, 1, {}, length)
    index = ShardIndex(length, size, "0" * 64, {}, "", "", {"a": CorpusEntry(1, [entry])}, token_dtype=token_dtype_of(size))
    (out / INDEX_NAME).write_bytes(index.to_json())
    shards, order = open_shards(out), generator.permutation(count)
    for found, written in zip(shards.rows(order), (tokens, documents), strict=True):
        assert found.dtype == written.dtype
        np.testing.assert_array_equal(found, written[order])
    np.testing.assert_array_equal(shards[count - 1][0], tokens[-1])
    (out / "a.sums").write_bytes(b"")
    assert ensure_checksums(out / "a.tar", entry, index.row_format(entry)) and len(open_shards(out)) == count


@given(data=st.data())
def test_any_value_in_any_place_of_version_two_is_read_or_refused_with_a_sentence(wide: Path, data: st.DataObject) -> None:
    content = (wide / INDEX_NAME).read_bytes()
    try:
        (wide / INDEX_NAME).write_bytes(with_another_value(content, data))
        for length in (None, *LENGTHS):
            try:
                shards = open_shards(wide, sequence_length=length)
                len(shards), shards.rows(shards._starts[:0]), shards.index.fingerprint, shards.index.to_json()
            except JadebertaError as e:
                assert str(e).endswith(".") and "\n" not in str(e)
    finally:
        (wide / INDEX_NAME).write_bytes(content)
