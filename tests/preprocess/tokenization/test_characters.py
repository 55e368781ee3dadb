"""Rows of characters: every character of the text is a token, and whole-word masks follow the segmenter's words."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from jadeberta.data.masking import IGNORED, Masker
from jadeberta.release.export import export
from jadeberta.release.origin import is_of_characters, read_origin
from jadeberta.shards import SEQUENCE_LENGTH, ConfigError, InputError, ShardError, open_shards, verify
from preprocess.executors.executor import Executor
from preprocess.stages.pack import pack
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.text import normalise, split_sentences
from preprocess.tokenization.characters import encode_characters, with_spaces
from preprocess.tokenization.sentencepiece_training import ModelOptions, train_sentencepiece, write_counts
from preprocess.workdir import list_parts, list_words, read_documents, read_words
from tests.helpers import make_recipe, read_metrics, run_ranks
from tests.preprocess.tiny_corpus import configure, run_stages, write_corpora

CLS, SEP, UNK = 1, 2, 3
PIECES = 88


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> sentencepiece.SentencePieceProcessor:
    words = tmp_path_factory.mktemp("characters") / "words.tsv"
    write_counts(words, [("京都大学", 9), ("は", 8), ("古い", 7), ("New", 5), ("York", 4), ("。", 3)])
    return sentencepiece.SentencePieceProcessor(model_proto=train_sentencepiece(words, None, ModelOptions(20, 1.0, "char")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of characters, made by the four stages."""
    folder = tmp_path_factory.mktemp("made")
    corpora = write_corpora(folder / "corpora")
    with open(corpora / "web.jsonl", "a", encoding="utf-8") as f:
        f.write('\n{"text": "大学はNew York にある。第２の New\\u3000World。"}')
    return run_stages(configure(corpora, vocab_size=PIECES, pieces="characters", character_coverage=1.0), folder / "out")


def encode(sentences: list[tuple[str, str]], processor: sentencepiece.SentencePieceProcessor) -> tuple[list[int], list[bool]]:
    """Ids and marks of one document, of [(sentence, words)]."""
    row = {"id": "a", "sentences": [words for _, words in sentences]}
    rows = with_spaces([row], [{"id": "a", "text": "\n".join(sentence for sentence, _ in sentences)}])
    (document,) = encode_characters(rows, processor)
    return (document.tokens & 0x7FFF).tolist(), (document.tokens >= 0x8000).tolist()


def test_tokens_are_those_of_the_plain_text_and_marks_those_of_its_words(processor) -> None:
    ids, marks = encode([("京都大学は New York。", "京都 大学 は New York 。")], processor)
    assert ids == [CLS, *processor.encode("京都大学は New York。"), SEP]
    #                 ▁ 京 都 大 学 は ▁ N e w ▁ Y o r k 。
    assert marks == [bool(int(mark)) for mark in "0" + "1101011100110001" + "0"]


def test_unknown_characters_in_a_row_are_one_token_and_join_the_words_that_they_cross(processor) -> None:
    ids, marks = encode([("京X大学", "京X 大学")], processor)
    assert ids == [CLS, *processor.encode("京X大学"), SEP] and marks == [False, True, True, False, True, False, False]
    ids, marks = encode([("京XZ学は", "京X Z学 は")], processor)
    assert ids == [CLS, *processor.encode("京XZ学は"), SEP] and ids.count(UNK) == 1
    #                      ▁     京     XZ     学     は
    assert marks == [False, True, True, False, False, True, False]


def test_a_quarantined_sentence_is_skipped_and_the_spaces_of_others_stay(processor) -> None:
    rows = [{"id": "a", "sentences": ["New York", "は"]}]
    found = with_spaces(rows, [{"id": "a", "text": "古い。New York\n京都\nは"}])
    assert [row["sentences"] for row in found] == [["New ▁York", "は"]]


def test_words_of_another_text_are_refused() -> None:
    with pytest.raises(InputError, match="document a: its words are not those of its text"):
        list(with_spaces([{"id": "a", "sentences": ["京都"]}], [{"id": "a", "text": "大学"}]))


@given(
    st.lists(
        st.tuples(st.sampled_from(["京都", "大学", "は", "New", "York", "X", "YZ", "𠮷"]), st.booleans()), min_size=1, max_size=12
    )
)
def test_any_sentence_has_the_tokens_of_its_plain_text_and_marks_at_its_words(processor, words) -> None:
    text = "".join(word + " " * space for word, space in words).strip()
    ids, marks = encode([(text, " ".join(word for word, _ in words))], processor)
    assert ids == [CLS, *processor.encode(text), SEP]
    borders, place = set(), 0
    for word, space in words:
        borders |= {place, place + len(word)}
        place += len(word) + space
    offsets = processor.encode(text, return_type="offset_mapping")["offsets"]
    assert marks == [False, *(start in borders for start, _ in offsets), False]


def test_a_row_holds_the_characters_of_the_documents_and_whole_word_masks_cut_no_word(made: Path) -> None:
    shards = open_shards(made)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made / "tokenizer" / "spm.model"))
    rows, numbers, starts = shards.rows_with_words(np.asarray(shards.corpora["web"]))
    assert verify(made) == [] and starts is not None and numbers.max() < 60 and shards[0][1].max() < 60
    expected, words = by_hand(made, "web", processor)
    live = numbers.ravel() > 0
    assert rows.ravel()[live].tolist() == expected
    masker = Masker(3, PIECES)
    chosen = np.concatenate(
        [masker(rows, np.full(len(rows), epoch), np.arange(len(rows)), starts)[1].ravel()[live] != IGNORED for epoch in range(20)]
    )
    # A word that is cut by the end of a row counts as two.
    in_row = np.flatnonzero(live) // SEQUENCE_LENGTH * 10**6 + words
    _, word = np.unique(np.concatenate([epoch * 10**9 + in_row for epoch in range(20)]), return_inverse=True)
    share = np.bincount(word, weights=chosen) / np.bincount(word)
    assert set(share) == {0.0, 1.0}
    assert chosen[np.isin(np.tile(expected, 20), (CLS, SEP), invert=True)].mean() == pytest.approx(0.15, abs=0.01)
    several = np.bincount(word) > 1
    assert 0.13 < share[several].mean() < 0.17 and several.sum() > 1000


def by_hand(made: Path, corpus: str, processor: sentencepiece.SentencePieceProcessor) -> tuple[list[int], np.ndarray]:
    """Tokens of a corpus's training documents one after the other, and for each the number of its word; no character is unknown."""
    tokens, words = list[int](), list[int]()
    held = {row["id"] for row in read_held(made, corpus)}
    documents = [d for part in list_parts(made, corpus) for d in read_documents(part)]
    segmented = [row for part in list_words(made, corpus) for row in read_words(part)]
    number = 0
    for document, row in zip(documents, segmented, strict=True):
        if row["id"] in held or not row["sentences"]:
            continue
        pieces = ["[CLS]"]
        numbers = [number := number + 1]
        for sentence, line in zip(split_sentences(document["text"]), row["sentences"], strict=True):
            letters = iter([(letter, n) for n, word in enumerate(line.split(" ")) for letter in word])
            pieces += ["▁"]
            numbers += [number := number + 1]
            last = -1
            for character in sentence:
                if character == " ":
                    pieces, numbers = [*pieces, "▁"], [*numbers, number := number + 1]
                    continue
                letter, word = next(letters)
                assert letter == character
                number += word != last
                last = word
                pieces.append(letter)
                numbers.append(number)
            number += 1
        tokens += [processor.piece_to_id(piece) for piece in [*pieces, "[SEP]"]]
        words += [*numbers, number := number + 1]
    return tokens, np.asarray(words)


def read_held(made: Path, corpus: str) -> list[dict[str, Any]]:
    return [row for aside in (made / "work" / "pack").glob(f"{corpus}-0*.heldout.jsonl.zst") for row in read_words(aside)]


def test_best_fit_keeps_the_marks_and_cuts_between_words(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    config = configure(
        made.parent / "corpora", vocab_size=PIECES, pieces="characters", character_coverage=1.0, packing="best_fit"
    )
    pack(config, out, Executor())
    assert verify(out) == []
    shards, before = open_shards(out), open_shards(made)
    marks = [int(r.rows_with_words(np.arange(len(r)))[2].sum()) for r in (shards, before)]
    assert marks[0] == marks[1] > 1000


def test_shards_of_characters_have_another_fingerprint_and_say_what_they_are(made: Path, tmp_path: Path) -> None:
    index = open_shards(made).index
    assert index.word_starts == "documents" and index.document()["word_starts"] == "documents"
    assert index.fingerprint != dataclasses.replace(index, word_starts="pieces").fingerprint
    (tmp_path / "index.json").write_bytes(dataclasses.replace(index, word_starts="tails").to_json())  # type: ignore[arg-type]
    with pytest.raises(ShardError, match=r"word_starts 'tails', this program knows pieces and documents\. Read it"):
        open_shards(tmp_path)


def test_raw_sentencepiece_and_the_tokenizer_files_agree_on_characters(made: Path) -> None:
    from transformers import AutoTokenizer

    processor = sentencepiece.SentencePieceProcessor(model_file=str(made / "tokenizer" / "spm.model"))
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    for text in ("大学はNew York にある。", "未知の字𠮷野と鱧鱸", "京都", "a b"):
        text = normalise(text)
        assert tokenizer(text)["input_ids"] == [CLS, *processor.encode(text), SEP]
    assert tokenizer.tokenize("大学の[MASK]を読む 本") == ["▁", "大", "学", "の", "[MASK]", "を", "読", "む", "▁", "本"]


def test_more_pieces_than_characters_are_refused_with_their_number(made: Path, tmp_path: Path) -> None:
    config = configure(made.parent / "corpora", vocab_size=3000, pieces="characters", character_coverage=1.0)
    out = tmp_path / "out"
    shutil.copytree(made, out)
    with pytest.raises(ConfigError, match=r"vocab_size 3000 is too large: the characters .* are (\d+)\. Set"):
        train_tokenizer(config, out, Executor())


def test_a_tokenizer_of_subwords_is_not_taken_for_one_of_characters(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    with pytest.raises(ConfigError, match=r"its pieces are characters but preprocess\.pieces is subwords"):
        pack(configure(made.parent / "corpora", vocab_size=PIECES), out, Executor())


def test_a_model_of_characters_trains_on_whole_words(made: Path, tmp_path: Path) -> None:
    training = {"max_steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "lr": 1e-3, "warmup_steps": 1, "precision": "fp32"}
    recipe = make_recipe(
        tmp_path / "recipe.yaml",
        made,
        tmp_path / "run",
        model={"vocab_size": PIECES},
        training=training | {"whole_word_mask": True},
    )
    run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert len(losses) == 3 and losses[0] == pytest.approx(np.log(PIECES), rel=0.1)
    export(tmp_path / "run/checkpoints/step-00000003", tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text(encoding="utf-8")
    assert "京都大学で自然言語処理を[MASK]する。" in card and "sentencepiece characters" in card
    assert is_of_characters(read_origin(tmp_path / "model") or {})
