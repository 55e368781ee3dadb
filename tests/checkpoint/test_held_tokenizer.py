"""A run trains, saves and releases the tokenizer that its shards were made with, or it is refused with the file named."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jadeberta.checkpoint.held_tokenizer import read_tokenizer, refuse_mixed_tokenizer
from jadeberta.errors import CheckpointError, ShardError
from jadeberta.shards import INDEX_NAME, ShardIndex
from jadeberta.shards import open as open_shards
from jadeberta.shards.tokenizer_format import TOKENIZER_FILES
from jadeberta.shards.verify import verify
from tests.helpers import make_shards
from tests.test_end_to_end import make_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Shards with a real tokenizer, as an older version wrote them: the index knows spm.model alone."""
    shards = make_shards(tmp_path_factory.mktemp("made") / "shards", {"web": (4, 1)})
    change_index(shards, tokenizer_sha256=make_tokenizer(shards / "tokenizer"))
    return shards


@pytest.fixture
def shards(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "shards")


def change_index(shards: Path, **fields: object) -> None:
    index = ShardIndex.load(shards / INDEX_NAME)
    (shards / INDEX_NAME).write_bytes(replace(index, **fields).to_json())  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def swap_two_pieces(directory: Path) -> None:
    """What nobody sees in a file list: the same pieces, two of them with each other's numbers."""
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    pieces = content["model"]["vocab"]
    pieces[20], pieces[21] = pieces[21], pieces[20]
    path.write_text(json.dumps(content), encoding="utf-8")


def test_all_files_of_the_tokenizer_are_held_as_they_were_at_the_start(shards) -> None:
    held = read_tokenizer(open_shards(shards))
    assert held == {name: (shards / "tokenizer" / name).read_bytes() for name in TOKENIZER_FILES}


def test_two_swapped_pieces_are_found_with_an_older_index_too(shards) -> None:
    swap_two_pieces(shards / "tokenizer")
    with pytest.raises(ShardError, match=r"tokenizer\.json: piece '.*' has number 21 there and 20 in spm\.model"):
        read_tokenizer(open_shards(shards))


@pytest.mark.parametrize("name", TOKENIZER_FILES)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_every_file_that_the_index_names_must_be_the_one_it_names(shards, name, damage) -> None:
    files = {file: sha256(shards / "tokenizer" / file) for file in TOKENIZER_FILES[1:]}
    change_index(shards, tokenizer_files=files)
    assert read_tokenizer(open_shards(shards)) and verify(shards) == []
    path = shards / "tokenizer" / name
    path.write_bytes(path.read_bytes() + b" ") if damage == "changed" else path.unlink()
    with pytest.raises(ShardError, match=rf"{name}: (sha256 .* was made with|missing)"):
        read_tokenizer(open_shards(shards))
    (fault,) = verify(shards)
    assert name in fault


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1, 2]"])
def test_a_tokenizer_file_that_is_none_is_one_sentence(shards, content) -> None:
    (shards / "tokenizer/tokenizer.json").write_bytes(content)
    with pytest.raises(ShardError, match=r"tokenizer\.json: not a tokenizer of the spm\.model beside it"):
        read_tokenizer(open_shards(shards))


def test_a_model_without_its_other_files_can_be_trained_on(shards) -> None:
    for name in TOKENIZER_FILES[1:]:
        (shards / "tokenizer" / name).unlink()
    assert list(read_tokenizer(open_shards(shards))) == ["spm.model"]


def test_a_release_gives_the_numbers_of_sentencepiece_or_is_refused(shards) -> None:
    directory = shards / "tokenizer"
    model = sha256(directory / "spm.model")
    refuse_mixed_tokenizer(directory, model)
    with pytest.raises(CheckpointError, match=r"spm\.model: sha256 .* was trained with 000000000000…"):
        refuse_mixed_tokenizer(directory, "0" * 64)
    swap_two_pieces(directory)
    with pytest.raises(CheckpointError, match=r"piece '.*' has number"):
        refuse_mixed_tokenizer(directory, model)


def test_a_tokenizer_with_the_right_pieces_that_cuts_words_otherwise_is_not_released(shards) -> None:
    path = shards / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "た"}, "content": "だ"}
    content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": True}
    path.write_text(json.dumps(content), encoding="utf-8")
    config = shards / "tokenizer/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(CheckpointError, match=r"AutoTokenizer gives '.*' the numbers .* do not belong together"):
        refuse_mixed_tokenizer(shards / "tokenizer", sha256(shards / "tokenizer/spm.model"))
