"""The tokenizer of a release gives text as people type it the ids that sentencepiece gives its normalised form."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer, DebertaV2Tokenizer

from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.release.typed_text import TYPED, refuse_other_forms, take_typed_text
from preprocess.text import normalise
from preprocess.tokenization.encoders import find_tokenizer, open_encoder
from preprocess.tokenization.encoders.auto_tokenizer import refuse_other_ids
from tests.helpers import ROOT
from tests.release.released_tokenizer import make_tokenizer

JAQUAD = ROOT.parent / "shared/data/jaquad/jaquad_dev_0000.json"
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("trained") / "tokenizer")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_tokenizer(tmp_path_factory.mktemp("released") / "tokenizer")
    take_typed_text(directory)
    return directory


def held_out() -> Iterator[str]:
    for article in json.loads(JAQUAD.read_text(encoding="utf-8"))["data"][:12]:
        for paragraph in article["paragraphs"]:
            yield paragraph["context"]


def test_the_files_change_but_no_piece_and_not_the_model(trained: Path, released: Path) -> None:
    assert (trained / "spm.model").read_bytes() == (released / "spm.model").read_bytes()
    before, after = (json.loads((folder / "tokenizer.json").read_bytes()) for folder in (trained, released))
    assert {key for key in before if before[key] != after[key]} == {"normalizer"}
    refuse_other_forms(released)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [("Ｗｅｂ", "Web"), ("１２３！", "123!"), ("ｶﾞｷﾞ", "ガギ"), ("京都\u3000大学", "京都 大学"), ("京都\u00a0大学", "京都 大学"),
     ("か\u3099", "が"), ("㋿", "令和"), ("\t京都\r\n", "京都"), ("▁", "")],
)  # fmt: skip
def test_typed_forms_have_the_ids_of_plain_ones_and_are_known(released: Path, typed: str, plain: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(released / "spm.model"))
    ids = tokenizer(typed, add_special_tokens=False)["input_ids"]
    assert ids == processor.encode(plain) and tokenizer.unk_token_id not in ids


def test_every_character_is_normalised_as_in_the_training_text(released: Path) -> None:
    normaliser = Tokenizer.from_file(str(released / "tokenizer.json")).normalizer
    for start in range(0, 0x20000, 0x1000):
        text = " ".join(f"x{chr(code)}y" for code in range(start, start + 0x1000) if not 0xD800 <= code < 0xE000)
        assert normaliser.normalize_str(text) == normalise(text)


@pytest.mark.skipif(not JAQUAD.is_file(), reason="../shared/data/jaquad is not there")
def test_held_out_text_in_several_forms_has_sentencepieces_ids(released: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(released / "spm.model"))
    texts = list(held_out())
    assert len(texts) > 40
    for text in texts:
        for form in (text, unicodedata.normalize("NFD", text), text.translate(FULL_WIDTH)):
            assert tokenizer(form, add_special_tokens=False)["input_ids"] == processor.encode(normalise(form))


def test_a_special_token_stays_one_and_what_is_decoded_keeps_its_spaces(released: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(released)
    encoding = tokenizer("京都　[MASK]　大学 、 で")
    assert encoding.keys() == {"input_ids", "attention_mask"}
    assert encoding["input_ids"].count(tokenizer.mask_token_id) == 1
    assert tokenizer.decode(tokenizer("京都 、 大学 !", add_special_tokens=False)["input_ids"]) == "京都 、 大学 !"


def test_the_class_of_deberta_still_loads_the_directory(released: Path) -> None:
    tokenizer = DebertaV2Tokenizer.from_pretrained(released)
    expected = AutoTokenizer.from_pretrained(released)("京都 大学 で")["input_ids"]
    assert tokenizer("京都 大学 で")["input_ids"] == expected


def test_characters_have_one_mark_at_the_beginning_whatever_stood_there(tmp_path: Path) -> None:
    directory = make_tokenizer(tmp_path / "characters", characters=True)
    take_typed_text(directory)
    refuse_other_forms(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.convert_ids_to_tokens(tokenizer("　京[MASK]都")["input_ids"][1:-1]) == ["▁", "京", "[MASK]", "都"]


def test_a_tokenizer_that_is_as_it_was_trained_is_not_released(trained: Path) -> None:
    with pytest.raises(CheckpointError, match=r"AutoTokenizer gives 'Ｗｅｂ ページ' the numbers .* nothing was exported"):
        refuse_other_forms(trained)


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"pre_tokenizer": null}'])
def test_a_file_that_is_no_tokenizer_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer's file"):
        take_typed_text(tmp_path)


def test_shards_can_be_made_with_the_tokenizer_of_a_release(released: Path) -> None:
    encoder = open_encoder(find_tokenizer(released))
    refuse_other_ids(released, encoder, "", ConfigError, TYPED)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(released / "spm.model"))
    assert encoder.encode(["京都 大学 で"]).ids.tolist() == processor.encode("京都 大学 で")
