"""`verify` finds whatever is not as it was written, in one sentence that names the file, the place and the remedy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jadeberta.shards import INDEX_NAME, ShardIndex, file_sha256, verify
from tests.shards.damage import VOCAB, append, change_index, cut, flip_bit, random_rows, without_checksums, write


def test_sound_directory_has_no_fault_and_every_file_is_looked_at(written: Path) -> None:
    lines: list[str] = []
    assert verify(written, lines.append) == []
    assert [line.split(":")[0] for line in lines] == [
        *("web web-00000.tar", "web web-00001.tar"),
        *("wiki wiki-00000.tar", "wiki valid-wiki-00000.tar"),
    ]


@pytest.mark.parametrize("name", ["web-00001.tar", "valid-wiki-00000.tar"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip_bit, r"sha256 differs from index\.json"),
        (cut, r"\d+ bytes, index\.json says"),
        (append, r"\d+ bytes, index\.json says"),
        (Path.unlink, "missing"),
    ],
)
def test_damaged_file_is_the_one_fault_and_named_with_a_remedy(copied: Path, damage: Callable, what: str, name: str) -> None:
    damage(copied / name)
    (fault,) = verify(copied)
    assert re.match(rf"{copied / name}: {what}.*Delete it and run 'python -m preprocess pack' again", fault)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: flip_bit(path, 9), r"sha256 differs from index\.json"),
        (cut, "15 bytes, 2 checksums of 8 bytes expected"),
        (append, "17 bytes, 2 checksums of 8 bytes expected"),
        (Path.unlink, r"No such file or directory; it holds the checksums of the rows of web-00001\.tar"),
    ],
)
def test_damaged_sums_are_the_one_fault_and_named_with_a_remedy(copied: Path, damage: Callable, what: str) -> None:
    damage(copied / "web-00001.sums")
    lines: list[str] = []
    (fault,) = verify(copied, lines.append)
    assert re.match(rf"{copied / 'web-00001.sums'}: {what}.*Run 'python -m preprocess pack' again to make it anew", fault)
    assert "web web-00001.tar: 2 sequences, bad" in lines


def test_changed_rows_are_named_with_their_block_and_bytes(copied: Path) -> None:
    (_, tokens, _), (_, later, documents) = ShardIndex.load(copied / INDEX_NAME).corpora["web"].train[0].blocks
    for offset in (tokens + 17 * 1024 + 3, later + 1, documents + 2 * 1024 + 1023):
        flip_bit(copied / "web-00000.tar", offset)
    (fault,) = verify(copied)
    assert (
        f"; not what was written: row 17 (block 0 at byte {tokens}, its tokens at byte {tokens + 17 * 1024}), "
        f"row 1000 (block 1 at byte {later}, its tokens at byte {later}), "
        f"row 1002 (block 1 at byte {later}, its tokens at byte {later + 2048}). Delete it"
    ) in fault
    for row in range(100, 200):
        flip_bit(copied / "web-00000.tar", tokens + row * 1024)
    assert "row 103 (" in verify(copied)[0] and " and 98 more. Delete it" in verify(copied)[0]


def test_change_between_the_rows_is_distinguished_from_one_in_them(copied: Path) -> None:
    flip_bit(copied / "web-00001.tar", 700)
    assert "; every row is as written, the change lies between them. Delete it" in verify(copied)[0]


def test_sums_of_other_rows_are_a_fault_although_their_hash_is_right(copied: Path) -> None:
    checksums = copied / "wiki-00000.sums"
    flip_bit(checksums, 80)
    change_index(copied, lambda index: index["corpora"]["wiki"]["train"][0].update(sums_sha256=file_sha256(checksums)))
    assert verify(copied) == [
        f"{copied / 'wiki-00000.tar'}: block 0: rows are as index.json says but wiki-00000.sums holds the checksums of others."
    ]


def test_directory_without_checksums_is_checked_without_them(copied: Path) -> None:
    assert verify(without_checksums(copied)) == []
    flip_bit(copied / "web-00001.tar")
    (fault,) = verify(copied)
    assert re.search(r"sha256 differs from index\.json \(expected \S+, found \S+\)\. Delete it", fault)


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
