"""A start with another tokenizer: embeddings of shared pieces stay bit by bit, new ones are the mean of their parts."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
from safetensors.torch import load_file
from tokenizers import decoders, models, pre_tokenizers

from jadeberta.config import Recipe
from jadeberta.config.init_from import complete_model
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.model.published import BIAS, EMBEDDINGS
from jadeberta.shards.tokenizer_format import DEFAULT_SPECIAL_TOKENS, SpecialTokens
from jadeberta.start.embeddings import first_difference, match_vocabularies
from jadeberta.start.source import read_source
from jadeberta.start.source_vocabulary import Vocabulary, read_tokenizer_files, read_vocabulary
from preprocess.tokenization.encoders import find_tokenizer, open_encoder
from tests.preprocess import small_tokenizers as small
from tests.start.sources import publish

TEXT = ["京都 大学 で 自然 言語 処理", "東京 都 は 日本 の 首都", "大学 の 研究 言語"]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def sentencepiece_model(vocab_size: int, text: list[str] = TEXT, **options: Any) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 20), model_writer=out, vocab_size=vocab_size, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
        **{"user_defined_symbols": ["[MASK]"]} | options,
    )  # fmt: skip
    return out.getvalue()


def byte_level(pieces: list[str], special: list[str]) -> bytes:
    """A byte-level BPE tokenizer whose merges spell some texts, as tokenizer.json."""
    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {token: n for n, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = []
    for piece in pieces:
        ((letters, _),) = spelt.pre_tokenize_str(piece)
        for end in range(2, len(letters) + 1):
            if letters[:end] not in vocabulary:
                vocabulary[letters[:end]] = len(vocabulary)
                merges.append((letters[: end - 1], letters[end - 1]))
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = spelt, decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer.to_str().encode()


def word_piece(pieces: list[str]) -> bytes:
    tokenizer = tokenizers.Tokenizer(models.WordPiece({p: n for n, p in enumerate([*SPECIAL, *pieces])}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer.to_str().encode()


@pytest.fixture(scope="module")
def source() -> Vocabulary:
    return read_vocabulary({"spm.model": sentencepiece_model(40)}, "source")


def parts_of(source: Vocabulary, new: Vocabulary, key: bytes) -> list[bytes | None]:
    match = match_vocabularies(source, new, len(source.keys))
    return [source.keys[number] for number in match.parts[new.numbers[key]]]


def test_pieces_of_all_three_alphabets_are_compared_as_text(source) -> None:
    new = read_vocabulary({"tokenizer.json": byte_level([" 言語", " 京都", "学"], ["<pad>", "<s>", "</s>", "<mask>"])}, "new")
    assert new.roles == {"pad": 0, "cls": 1, "sep": 2, "mask": 3}
    assert parts_of(source, new, " 言語".encode()) == [" 言語".encode()]  # shared: ▁言語 there
    assert parts_of(source, new, "学".encode()) == ["学".encode()]
    assert parts_of(source, new, " 京都".encode()) == [b" ", "京".encode(), "都".encode()]
    spaces = read_vocabulary({"tokenizer.json": byte_level(["  "], ["<mask>"])}, "spaces")
    assert parts_of(source, spaces, b"  ") == [b" ", b" "]  # it says nothing of other text, and all of this piece
    assert parts_of(source, new, "学".encode()[:2]) == []  # a part of a letter, and the source has no byte pieces
    match = match_vocabularies(source, new, len(source.keys))
    assert [match.parts[n] for n in range(4)] == [[0], [1], [2], [4]]  # by role, wherever they stand
    assert match.special == 4 and match.shared + match.from_parts + match.from_all == len(new.keys) - 4
    words = read_vocabulary({"tokenizer.json": word_piece(["言語", "##学", "学"])}, "words")
    assert parts_of(source, words, " 言語".encode()) == [" 言語".encode()]
    assert parts_of(source, words, "学".encode()) == ["学".encode()]
    assert parts_of(source, words, " 学".encode()) == [b" ", "学".encode()]
    # And the other way: a byte-level source has every text in its parts.
    back = match_vocabularies(new, source, len(new.keys))
    assert back.from_all == 1 and [source.keys[n] for n, p in enumerate(back.parts) if not p] == [b"\xff[UNK]"]
    assert [new.keys[n] for n in back.parts[source.numbers["言".encode()]]] == [b"\xfe\xe8", b"\xfe\xa8", b"\xfe\x80"]


def test_byte_pieces_of_sentencepiece_are_the_bytes_of_byte_level_tokenizers() -> None:
    fallback = read_vocabulary({"spm.model": sentencepiece_model(300, byte_fallback=True)}, "fallback")
    new = read_vocabulary({"tokenizer.json": byte_level([], ["<pad>"])}, "new")
    assert parts_of(fallback, new, b"\xfe\xe3") == [b"\xfe\xe3"]
    assert [fallback.keys[n] for n in fallback.encode("鱧".encode())] == [b"\xfe" + bytes([b]) for b in "鱧".encode()]


def test_a_mask_token_behind_the_pieces_of_the_model_is_found() -> None:
    model = sentencepiece_model(40, user_defined_symbols=[])
    count = len(sentencepiece.SentencePieceProcessor(model_proto=model))
    decoder = {"added_tokens_decoder": {str(count + 2): {"content": "<mask>"}}, "mask_token": "<mask>"}
    for files, place in (
        ({}, count),  # DeBERTa V3, whose tokenizer has it in no file
        ({"added_tokens.json": json.dumps({"[MASK]": count + 1}).encode()}, count + 1),
        ({"tokenizer_config.json": json.dumps(decoder).encode()}, count + 2),
    ):
        found = read_vocabulary({"spm.model": model, **files}, "source")
        assert (found.roles["mask"], len(found.keys)) == (place, place + 1)
    with pytest.raises(CheckpointError, match=r"its added tokens go up to 99,999,999,999"):
        read_vocabulary({"spm.model": model, "added_tokens.json": b'{"x": 99999999999}'}, "source")


@pytest.mark.parametrize("name", small.LAYOUTS)
def test_special_tokens_of_a_source_are_those_that_shards_of_its_tokenizer_have(name: str, tmp_path) -> None:
    files = find_tokenizer(small.LAYOUTS[name](tmp_path))
    special = open_encoder(files).special
    for content in (files.content, {"sentencepiece.bpe.model" if k == files.main != "tokenizer.json" else k: v
                                    for k, v in files.content.items()}):  # fmt: skip
        source = read_vocabulary(content, name)
        found = {role: getattr(special, role) for role in ("pad", "cls", "sep", "unk", "mask")}
        # A padding id that no file names is the shards' alone.
        assert source.roles == {role: n for role, n in found.items() if n is not None and n < len(source.keys)}


def test_files_that_contradict_each_other_give_a_source_the_roles_of_the_shards(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(byte_level(["学"], ["<a>", "<bos>", "<eos>", "<|mask|>", "<pad>", "<b>"]))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<a>"}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<b>"}')
    source = read_vocabulary(read_tokenizer_files(tmp_path), "source")
    assert source.roles == {"pad": 0, "cls": 1, "sep": 2, "mask": 3}
    special = open_encoder(find_tokenizer(tmp_path)).special
    assert (special.pad, special.cls, special.sep, special.mask) == (0, 1, 2, 3)


@pytest.fixture(scope="module")
def published(tmp_path_factory, source) -> Path:
    directory = publish(tmp_path_factory.mktemp("published"), vocab_size=len(source.keys) + 3)  # padded, as many are
    (directory / "spm.model").write_bytes(sentencepiece_model(40))
    return directory


def shards_with(tmp_path: Path, special: SpecialTokens = DEFAULT_SPECIAL_TOKENS, vocab_size: int = 0) -> Any:
    index = SimpleNamespace(special_tokens=special, vocab_size=vocab_size)
    return SimpleNamespace(directory=tmp_path, index_path=tmp_path / "index.json", index=index)


def recipe_for(published: Path, tmp_path: Path, **model: Any) -> Recipe:
    recipe = Recipe()
    recipe.run.dir = str(tmp_path / "run")
    recipe.model.init_from = str(published)
    for key, value in model.items():
        setattr(recipe.model, key, value)
    recipe.model = complete_model(recipe.model, set(model), Path(recipe.run.dir))
    return recipe


def test_shared_rows_keep_their_bits_and_new_ones_are_means_in_embeddings_and_bias(published, source, tmp_path) -> None:
    files = {"tokenizer.json": byte_level([" 京都", "学"], ["<mask>", "<pad>", "<s>", "</s>"])}
    new = read_vocabulary(files, "new")
    recipe = recipe_for(published, tmp_path, init_tokenizer="match", vocab_size=len(new.keys))
    weights, (entry,) = read_source(recipe, published, shards_with(tmp_path, SpecialTokens(1, 2, 3, None, 0)), files)
    old = load_file(published / "model.safetensors")
    for name in (EMBEDDINGS, BIAS):
        rows = {text: old[name][source.numbers[text.encode()]] for text in ("学", " ", "京", "都")}
        assert torch.equal(weights[name][new.numbers["学".encode()]], rows["学"])
        assert torch.equal(weights[name][0], old[name][source.roles["mask"]])
        mean = (rows[" "].double() + rows["京"] + rows["都"]) / 3
        torch.testing.assert_close(weights[name][new.numbers[" 京都".encode()]], mean.float(), rtol=0, atol=1e-7)
        assert len(weights[name]) == len(new.keys)
    others = [name for name in old if name not in (EMBEDDINGS, BIAS)]
    assert all(torch.equal(weights[name], old[name]) for name in others)
    match = match_vocabularies(source, new, len(old[EMBEDDINGS]))
    assert entry["tokenizer"] == match.counts() and sum(match.counts().values()) == len(new.keys)
    assert json.dumps(entry)


def test_a_padding_id_that_the_new_tokenizer_does_not_name_has_the_embedding_of_the_sources(published, source, tmp_path) -> None:
    files = {"tokenizer.json": byte_level([" 京都", "学"], ["<mask>", "<s>", "</s>"])}
    pad = len(read_vocabulary(files, "new").keys)
    recipe = recipe_for(published, tmp_path, init_tokenizer="match", vocab_size=pad + 1)
    weights, _ = read_source(recipe, published, shards_with(tmp_path, SpecialTokens(pad, 1, 2, None, 0), pad + 1), files)
    old = load_file(published / "model.safetensors")
    assert torch.equal(weights[EMBEDDINGS][pad], old[EMBEDDINGS][source.roles["pad"]]) and len(weights[EMBEDDINGS]) == pad + 1


def test_the_added_tokens_of_a_published_model_are_read_from_its_directory(published, source, tmp_path) -> None:
    directory = publish(tmp_path / "v3", vocab_size=len(source.keys) + 3)
    (directory / "spm.model").write_bytes(sentencepiece_model(40, user_defined_symbols=[]))
    (directory / "added_tokens.json").write_text(json.dumps({"[MASK]": len(source.keys) + 1}))
    assert read_vocabulary(read_tokenizer_files(directory), "v3").roles["mask"] == len(source.keys) + 1


def test_another_tokenizer_is_refused_unless_it_is_asked_for(published, source, tmp_path) -> None:
    recipe, shards = recipe_for(published, tmp_path), shards_with(tmp_path)
    assert recipe.model.vocab_size == len(source.keys) + 3
    same = {"spm.model": sentencepiece_model(40)}
    assert read_source(recipe, published, shards, same)[1][0]["tokenizer"] == "same"
    other = {"spm.model": sentencepiece_model(40, [text.replace("大学", "学校") for text in TEXT])}
    with pytest.raises(ConfigError, match=r"piece \d+ is '.*' in the shards' and .*\)\. Set model\.init_tokenizer: match"):
        read_source(recipe, published, shards, other)
    with pytest.raises(CheckpointError, match=r"its tokenizer cannot be read \(.*\)\. Put it back"):
        read_source(recipe, published, shards, {"spm.model": b"no model"})
    with pytest.raises(CheckpointError, match=r"its tokenizer cannot be read \(its vocabulary is empty\)"):
        read_source(recipe, published, shards, {"tokenizer.json": tokenizers.Tokenizer(models.BPE()).to_str().encode()})
    with pytest.raises(CheckpointError, match=r"no tokenizer there \(tokenizer\.json or spm\.model\), so nobody knows"):
        read_source(recipe, publish(tmp_path / "bare", vocab_size=len(source.keys) + 3), shards, other)
    # The same pieces in another file are the same tokenizer.
    moved = read_vocabulary({"tokenizer.json": word_piece(["言", "語"])}, "a")
    assert first_difference(moved, read_vocabulary({"tokenizer.json": word_piece(["言", "語"])}, "b")) is None
    assert first_difference(moved, read_vocabulary({"tokenizer.json": word_piece(["語", "言"])}, "b")) == (
        "piece 5 is ' 語' in the shards' and ' 言' in the source's"
    )


def test_a_tokenizer_without_a_common_piece_and_a_wrong_vocab_size_are_refused(published, tmp_path) -> None:
    foreign = {"tokenizer.json": word_piece(["Ω", "ψ"])}
    shards = shards_with(tmp_path)
    with pytest.raises(
        ConfigError, match=r"model\.vocab_size is 9, but the tokenizer of .* has 7 pieces\. Set model\.vocab_size to 7"
    ):
        read_source(recipe_for(published, tmp_path, init_tokenizer="match", vocab_size=9), published, shards, foreign)
    with pytest.raises(ConfigError, match=r"no piece in common with the source's, not even in parts"):
        read_source(recipe_for(published, tmp_path, init_tokenizer="match", vocab_size=7), published, shards, foreign)
