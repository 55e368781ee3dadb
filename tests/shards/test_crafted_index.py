"""An index.json from anywhere is taken as it must be, or refused with one sentence that names the place; never a traceback."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jadeberta.errors import JadebertaError
from jadeberta.shards import INDEX_NAME, ShardError, open_shards, verify
from tests.shards.damage import change_index, random_rows, write

WHERE = r"corpora\.web\.train\[0\]\."


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("small") / "out", {"web-00000.tar": random_rows(3, 1)})


@pytest.fixture
def sound(small: Path) -> Any:
    """The document of the directory's index, which is put back."""
    content = (small / INDEX_NAME).read_bytes()
    yield orjson.loads(content)
    (small / INDEX_NAME).write_bytes(content)


ENTRY = [
    ("file", 7, "file is 7 and must be a string"),
    ("file", "../../etc/hostname", "must be the name of a file in this directory"),
    ("file", "/etc/hostname", "must be the name of a file in this directory"),
    ("file", "", "must be the name of a file in this directory"),
    ("file", "あ" * 100, "must be the name of a file in this directory"),
    ("file", "a\0b", "must be the name of a file in this directory"),
    ("sequences", -3, "sequences is -3 and must be a whole number from 0"),
    ("sequences", 3.0, "sequences is 3.0 and must be a whole number"),
    ("sequences", True, "sequences is True and must be a whole number"),
    ("sequences", None, "sequences is None and must be a whole number"),
    ("bytes", 2**60, "bytes is 1152921504606846976 and must be a whole number from 0"),
    ("bytes", "10", "bytes is '10' and must be a whole number"),
    ("tokens", 10**12, "tokens is 1000000000000, more than 3 rows of 512 hold"),
    ("documents", [1], r"documents is \[1\] and must be a whole number"),
    ("sha256", 3, "sha256 is 3 and must be a string"),
    ("sha256", "x" * 64, "must be 64 hexadecimal digits"),
    ("sums_sha256", {}, r"sums_sha256 is \{\} and must be a string"),
    ("blocks", "abc", "blocks is 'abc' and must be a list"),
    ("blocks", [["a", "b", "c"]], r"blocks\[0\] is .* must be three whole numbers"),
    ("blocks", [[1, 2]], r"blocks\[0\] is \[1, 2\] and must be three whole numbers"),
    ("blocks", [3], r"blocks\[0\] is 3 and must be three whole numbers"),
    ("blocks", [[-1, 0, 0]], r"blocks\[0\] is \[-1, 0, 0\] and must be three whole numbers"),
]


@pytest.mark.parametrize(("key", "value", "what"), ENTRY)
def test_a_wrong_value_of_a_shard_is_named(small: Path, sound: dict, key: str, value: object, what: str) -> None:
    change_index(small, lambda index: index["corpora"]["web"]["train"][0].update({key: value}))
    for use in (open_shards, verify):
        with pytest.raises(ShardError, match=rf"index\.json: {WHERE}.*{what}.*\. Run 'python -m preprocess pack' again"):
            use(small)


@pytest.mark.parametrize("blocks", [[[10**12, 0, 0]], [[3, 2**62, 0]], [[3, 0, 10**9]], [[2**63, 2**63, 2**63]]], ids=str)
def test_blocks_beyond_the_file_are_refused_before_they_are_read(small: Path, sound: dict, blocks: list) -> None:
    change_index(small, lambda index: index["corpora"]["web"]["train"][0].update(blocks=blocks))
    what = r"block 0 of index\.json ends beyond|3 sequences and blocks of|blocks\[0\] (is|has) "
    with pytest.raises(ShardError, match=what):
        open_shards(small)
    if max(blocks[0]) > 2**50 or blocks[0][0] > 2**31:
        return
    assert any("blocks" in fault for fault in verify(small))
    (small / "web-00000.tar").write_bytes(before := (small / "web-00000.tar").read_bytes()[:-1] + b"x")
    assert any("sha256 differs" in fault for fault in verify(small))
    (small / "web-00000.tar").write_bytes(before[:-1] + b"\0")


TOP = [
    ("sequence_length", -1), ("sequence_length", 0), ("sequence_length", 10**9), ("sequence_length", 1e9),
    ("sequence_length", "512"), ("vocab_size", 0), ("vocab_size", 10**6), ("vocab_size", None), ("tokenizer_sha256", 5),
    ("tokenizer_sha256", "short"), ("segmenter", []), ("segmenter", None), ("normaliser", 1), ("sentence_splitter", {}),
    ("corpora", []), ("corpora", 5), ("packing", ["concat"]), ("packing", 3), ("word_starts", {}), ("unknown", 1),
    ("tokenizer_files", {"../a": "0"}), ("tokenizer_files", {"tokenizer.json": "0"}), ("tokenizer_files", []),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), TOP)
def test_a_wrong_value_of_the_directory_is_named(small: Path, sound: dict, key: str, value: object) -> None:
    change_index(small, lambda index: index.update({key: value}))
    with pytest.raises(ShardError, match=rf"index\.json: .*{key}"):
        open_shards(small)


@pytest.mark.parametrize(
    ("corpus", "what"),
    [
        (5, "corpora.web is 5 and must be an object"),
        ({"repeats": -1, "train": [], "valid": []}, "repeats is -1 and must be a whole number from 0"),
        ({"repeats": 1e400, "train": [], "valid": []}, "repeats"),
        ({"repeats": 10**9, "train": [], "valid": []}, "repeats is 1000000000"),
        ({"repeats": 1, "train": {}, "valid": []}, r"train is \{\} and must be a list"),
        ({"repeats": 1, "train": [7], "valid": []}, r"train\[0\] is 7 and must be an object"),
        ({"repeats": 1, "train": [{}], "valid": []}, r"train\[0\]\.file is missing"),
        ({"repeats": 1, "train": []}, r"corpora\.web\.valid is missing"),
    ],
)
def test_a_wrong_corpus_is_named(small: Path, sound: dict, corpus: object, what: str) -> None:
    change_index(small, lambda index: index["corpora"].update(web=corpus))
    with pytest.raises(ShardError, match=what):
        open_shards(small)


def test_one_file_twice_is_refused(small: Path, sound: dict) -> None:
    change_index(small, lambda index: index["corpora"]["web"].update(train=2 * index["corpora"]["web"]["train"]))
    with pytest.raises(ShardError, match=r"train\[1\]\.file is web-00000\.tar, which another entry has already"):
        open_shards(small)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe", b"nul", b'{"format": "jadeberta-shards"', b"[]", b"3"])
def test_what_is_no_index_at_all_is_refused(small: Path, sound: dict, content: bytes) -> None:
    (small / INDEX_NAME).write_bytes(content)
    with pytest.raises(ShardError, match=r"index\.json: not "):
        open_shards(small)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.lists(st.integers(-5, 10**6), max_size=4), st.lists(st.lists(st.integers(-5, 10**6), min_size=3, max_size=3), max_size=3),
)  # fmt: skip


def paths(value: Any, here: tuple = ()) -> list[tuple]:
    """Ways to all values inside a JSON document."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in steps for found in [(*here, key), *paths(part, (*here, key))]]


def with_another_value(content: bytes, data: st.DataObject) -> bytes:
    """A JSON document in which any one value has become any other."""
    document = orjson.loads(content)
    *parents, last = data.draw(st.sampled_from(paths(document)))
    inner = document
    for key in parents:
        inner = inner[key]
    inner[last] = data.draw(VALUES)
    return orjson.dumps(document)


@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_with_a_sentence(small: Path, data: st.DataObject) -> None:
    content = (small / INDEX_NAME).read_bytes()
    try:
        (small / INDEX_NAME).write_bytes(with_another_value(content, data))
        for split in ("train", "valid"):
            try:
                shards = open_shards(small, split)  # type: ignore[arg-type]
                len(shards), shards.rows(shards._starts[:0]), shards.index.fingerprint
            except JadebertaError as e:
                assert str(e).endswith(".") and "\n" not in str(e)
    finally:
        (small / INDEX_NAME).write_bytes(content)
