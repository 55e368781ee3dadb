"""Shards of a tokenizer that is not trained here: its files unchanged, its ids, its special tokens, and whole words for each kind."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from transformers import AutoTokenizer

from jadeberta.shards import ConfigError, open_shards, verify
from preprocess.config import PreprocessConfig, SegmenterConfig
from preprocess.corpus_report import print_report, write_report
from preprocess.document_files import read_json
from preprocess.estimate import describe_plan
from preprocess.executors.executor import Executor
from preprocess.stages.extract import extract
from preprocess.stages.pack import pack
from preprocess.stages.segment import segment
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.text import split_sentences
from preprocess.workdir import list_parts, read_documents
from tests.preprocess import small_tokenizers as small
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made

STAGES = (extract, segment, train_tokenizer, pack)
MARKUP = "京都の[MASK]と<mask>と[SEP]</s>を見る。\n  二行目の 文。"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    texts = [MARKUP, *(f"{text}\n{text}  {number}" for number, text in enumerate(small.TEXTS[:39]))]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    for name in tiny.DOCUMENTS:
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def configure(corpora: Path, path: Path | str, engine: Any = "none", **settings: Any) -> PreprocessConfig:
    return tiny.configure(corpora, tokenizer=str(path), segmenter=SegmenterConfig(engine), **settings)


@pytest.fixture(scope="module")
def as_it_is(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two stages on text as it is."""
    out = tmp_path_factory.mktemp("plain")
    for stage in STAGES[:2]:
        stage(configure(corpora, "train"), out, Executor())
    return out


def documents_of(out: Path, split: Any) -> list[list[int]]:
    """Tokens of each packed document, without those for its borders."""
    shards = open_shards(out, split)
    rows, _ = shards.rows(np.arange(len(shards)))
    special = shards.index.special_tokens
    found: list[list[int]] = []
    for token in rows[rows != special.pad].tolist():
        if token == special.cls:
            found.append([])
        elif token != special.sep:
            found[-1].append(token)
    return found


def texts_of(out: Path) -> list[str]:
    return [row["text"] for name in tiny.DOCUMENTS for part in list_parts(out, name) for row in read_documents(part)]


@pytest.mark.parametrize("name", small.LAYOUTS)
def test_documents_have_the_ids_of_the_tokenizer_and_its_files_are_unchanged(
    corpora: Path, as_it_is: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "given").mkdir()
    path, out = small.LAYOUTS[name](tmp_path / "given"), shutil.copytree(as_it_is, tmp_path / "out")
    config = configure(corpora, path)
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    assert verify(out) == []
    index = open_shards(out).index
    assert (index.normaliser, index.sentence_splitter, index.segmenter) == ("none", "none", {"engine": "none"})
    given = list(path.glob("*")) if path.is_dir() else [path]
    for file in given:
        taken = out / "tokenizer" / (file.name if path.is_dir() else "spm.model")
        assert taken.read_bytes() == file.read_bytes() and index.tokenizer_files[taken.name]
    auto = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert auto.mask_token_id == index.special_tokens.mask
    packed = [ids for split in ("train", "valid") for ids in documents_of(out, split)]
    expected = [text for text in texts_of(out) if text != MARKUP]
    assert sorted(packed, key=str) == sorted(packed, key=str) and len(packed) == len(expected) + 2
    wanted = [auto(text, add_special_tokens=False)["input_ids"] for text in expected]
    model = next((f for f in given if f.suffix == ".model"), None)
    if model is not None:
        assert wanted == sentencepiece.SentencePieceProcessor(model_file=str(model)).encode(expected)
    assert all(ids in packed for ids in wanted)
    assert not any(index.special_tokens.mask in ids for ids in packed)


def test_a_report_counts_documents_where_none_is_cut(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for normaliser, unit in (("none", "documents"), ("nfkc-space-2", "sentences")):
        out, executor = tmp_path / normaliser, Executor()
        config = configure(corpora, "train", normaliser=normaliser)
        caplog.clear()
        results = {stage.__name__: stage(config, out, executor) for stage in STAGES[:2]}
        print_report(write_report(out, {name: {"result": r, "seconds": 1.0, "ranks": 1} for name, r in results.items()}))
        rows = {line.split("  ")[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "  " in line}
        number = results["segment"]["web"]["sentences"]
        assert rows[f"{unit} in"] == rows[f"{unit} out"] == str(number) and f"{unit}, bytes" in rows
        assert (number == 40) == (unit == "documents") and not {"words", "segmenter restarts"} & rows.keys()
        assert f"{number} {unit}, " in caplog.text and ("sentences" in caplog.text) == (unit == "sentences")
        assert unit in describe_plan(config, out, ("segment",), 1)[3].split()


def test_a_tokenizer_that_puts_no_borders_around_a_text_or_pads_with_one_is_taken_with_a_warning(
    corpora: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tokenizer(configure(corpora, small.tohoku(tmp_path)), tmp_path / "out", Executor())
    assert "around a text" not in caplog.text and "padding token" not in caplog.text
    for name, changes in (
        ("tokenizer", {"post_processor": None}),
        ("tokenizer_config", {"tokenizer_class": "TokenizersBackend", "pad_token": "[SEP]"}),
    ):
        document = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        (tmp_path / f"{name}.json").write_text(json.dumps(document | changes), encoding="utf-8")
    train_tokenizer(configure(corpora, tmp_path), tmp_path / "out", Executor())
    assert "AutoTokenizer puts the tokens [] around a text, and rows have [2, 3]" in caplog.text
    assert "has no padding token of its own (none, or one with another role, such as eos); the id 300" in caplog.text


def word_starts_of(out: Path) -> list[tuple[list[int], list[bool]]]:
    """Tokens of the first row with their marks."""
    shards = open_shards(out)
    tokens, _, starts = shards.rows_with_words(np.arange(len(shards)))
    assert starts is not None
    return [(row.tolist(), marks.tolist()) for row, marks in zip(tokens, starts, strict=True)]


def pieces_of_words(out: Path, count: int = 60) -> list[str]:
    """The first words of the shards as text, by the recorded marks."""
    auto, (tokens, starts) = AutoTokenizer.from_pretrained(out / "tokenizer"), word_starts_of(out)[0]
    special = set(open_shards(out).index.special_tokens.ids) - {open_shards(out).index.special_tokens.unk}
    words: list[list[int]] = []
    for token, starts_here in zip(tokens, starts, strict=True):
        if token in special:
            continue
        if starts_here or not words:
            words.append([])
        words[-1].append(token)
    return [auto.decode(word).strip() for word in words[:count]]


@pytest.mark.parametrize("name", ["sarashina", "tohoku", "xlm_r", "modernbert"])
def test_words_of_a_segmenter_are_matched_to_tokens_of_text_without_its_spaces(
    tiny_shards: Made, tmp_path: Path, name: str
) -> None:
    (tmp_path / "given").mkdir()
    out = shutil.copytree(tiny_shards.out, tmp_path / "out")
    config = configure(tiny_shards.corpora, small.LAYOUTS[name](tmp_path / "given"), "mecab", tokenizer_input="text")
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    index = open_shards(out).index
    assert (index.tokenizer_input, index.word_source, index.word_starts) == ("text", "segmenter", "documents")
    sentences = [s for text in texts_of(out) for s in split_sentences(text)]
    auto = AutoTokenizer.from_pretrained(out / "tokenizer")
    ids = [auto(sentence, add_special_tokens=False)["input_ids"] for sentence in sentences[:30]]
    flat = [token for document in documents_of(out, "train") for token in document]
    joined = ",".join(map(str, flat))
    assert sum(",".join(map(str, some)) in joined for some in ids) > 20
    words = pieces_of_words(out)
    # Pieces may join words, and never split them.
    assert {"の", "で", "。"} <= set(words)


def test_words_with_spaces_go_to_the_tokenizer_as_the_segmenter_made_them(tiny_shards: Made, tmp_path: Path) -> None:
    out = shutil.copytree(tiny_shards.out, tmp_path / "out")
    config = configure(tiny_shards.corpora, small.spm_words(tmp_path), "mecab")
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    index = open_shards(out).index
    assert (index.tokenizer_input, index.word_source) == ("words", "segmenter")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "words.model"))
    tokens, starts = word_starts_of(out)[0]
    text = [(processor.id_to_piece(t), s) for t, s in zip(tokens, starts, strict=True) if t not in (0, 1, 2, 3)]
    assert [(p, s) for p, s in text if s != p.startswith("▁")] == []


@pytest.mark.parametrize(("source", "layout"), [("tokens", "modernbert"), ("tokenizer", "modernbert"), ("pieces", "llm_jp")])
def test_each_source_of_words_gives_its_own_marks(
    corpora: Path, as_it_is: Path, tmp_path: Path, source: Any, layout: str
) -> None:
    (tmp_path / "given").mkdir()
    path, out = small.LAYOUTS[layout](tmp_path / "given"), shutil.copytree(as_it_is, tmp_path / "out")
    config = configure(corpora, path, word_starts=source, packing="best_fit", sequence_length=128)
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    index, special = open_shards(out).index, set(open_shards(out).index.special_tokens.ids)
    auto = AutoTokenizer.from_pretrained(out / "tokenizer")
    for tokens, starts in word_starts_of(out)[:3]:
        for n, (token, start) in enumerate(zip(tokens, starts, strict=True)):
            if token in special:
                assert not start
            elif source == "tokens":
                assert start
            elif source == "pieces" and tokens[n - 1] not in special:
                assert start == auto.convert_ids_to_tokens(token).startswith("▁")
    assert index.word_source == source and verify(out) == []
    if source == "tokenizer":
        assert any(not s for _, starts in word_starts_of(out) for s in starts)


def test_a_second_run_keeps_all_and_changed_files_make_all_anew(corpora: Path, as_it_is: Path, tmp_path: Path) -> None:
    path, out = small.tohoku(tmp_path), shutil.copytree(as_it_is, tmp_path / "out")
    config = configure(corpora, path)
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.glob("*.tar")}
    marker = (out / "tokenizer" / "training.json").stat().st_mtime_ns
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.glob("*.tar")} == before
    assert (out / "tokenizer" / "training.json").stat().st_mtime_ns == marker
    (out / "tokenizer" / "tokenizer_config.json").write_text("{}")
    train_tokenizer(config, out, Executor())
    assert (out / "tokenizer" / "tokenizer_config.json").read_bytes() == (path / "tokenizer_config.json").read_bytes()
    document = json.loads((path / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = True
    (path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"not the tokenizer of preprocess.tokenizer .* as it is now"):
        pack(config, out, Executor())
    train_tokenizer(config, out, Executor())
    pack(config, out, Executor())
    changed = {file: file.read_bytes() for file in out.glob("*.tar")}
    assert changed.keys() == before.keys() and all(changed[file] != before[file][0] for file in changed)
    with pytest.raises(ConfigError, match=r"holds a given tokenizer but preprocess.tokenizer is train"):
        pack(configure(corpora, "train"), out, Executor())


@pytest.mark.parametrize(
    "settings",
    [
        {"byte_fallback": True, "split_digits": True, "vocab_size": 400},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 420},
        {"normaliser": "nfkc-space-2", "normalization_rule_name": "nmt_nfkc", "vocab_size": 200},
    ],
)
def test_a_tokenizer_trained_on_text_gives_the_same_ids_from_both_libraries(
    corpora: Path, as_it_is: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = configure(corpora, "train", **settings)
    out = tmp_path / "out" if "normaliser" in settings else shutil.copytree(as_it_is, tmp_path / "out")
    for stage in STAGES if "normaliser" in settings else STAGES[2:]:
        stage(config, out, Executor())
    index = open_shards(out).index
    assert index.version == 1 and index.tokenizer_input == "text" and verify(out) == []
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer" / "spm.model"))
    auto = AutoTokenizer.from_pretrained(out / "tokenizer")
    texts = [*small.TEXTS, "𠮷野家で☃", "改行\nの文  です", "２０２４年ｶﾀｶﾅ"]
    assert [auto(text, add_special_tokens=False)["input_ids"] for text in texts] == processor.encode(texts)
    if settings.get("byte_fallback"):
        assert 3 not in processor.encode("未知の𠮷☃\n") and processor.decode(processor.encode("未知の𠮷☃")) == "未知の𠮷☃"
    if settings.get("split_digits"):
        assert all(sum(c.isdigit() for c in processor.id_to_piece(n)) <= 1 for n in range(261, len(processor)))
    assert len(processor) == settings["vocab_size"]
    found = train_tokenizer(config, out, Executor())
    assert found == read_json(out / "tokenizer" / "training.json") and not (out / "work" / "counts").exists()


def test_a_tokenizer_trained_on_words_may_be_bpe_with_bytes(tiny_shards: Made, tmp_path: Path) -> None:
    out = shutil.copytree(tiny_shards.out, tmp_path / "out")
    config = tiny.configure(tiny_shards.corpora, model_type="bpe", byte_fallback=True, vocab_size=400)
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer" / "spm.model"))
    auto = AutoTokenizer.from_pretrained(out / "tokenizer")
    lines = ["京都 の 大学 を 読む 。", "𠮷野 の 駅", "a b  c"]
    assert [auto(line, add_special_tokens=False)["input_ids"] for line in lines] == processor.encode(lines)
    assert open_shards(out).index.word_starts == "pieces"
    masked = auto("京都 の [MASK] を 読む 。")["input_ids"]
    assert masked.count(4) == 1 and masked[0] == 1 and masked[-1] == 2


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_ids_beyond_65535_are_stored_as_uint32_in_every_row_length(
    corpora: Path, as_it_is: Path, tmp_path: Path, packing: str
) -> None:
    (tmp_path / "given").mkdir()
    path, out = small.tohoku(tmp_path / "given"), shutil.copytree(as_it_is, tmp_path / "out")
    document = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    moved = {piece: number if number < 5 else number + 70_000 for piece, number in vocabulary.items()}
    document["model"]["vocab"] = moved | {f"filler{number}": number for number in range(5, 70_005)}
    (path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    config = configure(corpora, path, sequence_length=[128, 512], packing=packing)
    for stage in STAGES[2:]:
        stage(config, out, Executor())
    assert verify(out) == []
    auto = AutoTokenizer.from_pretrained(out / "tokenizer")
    expected = [auto(text, add_special_tokens=False)["input_ids"] for text in texts_of(out) if text != MARKUP]
    assert max(map(max, expected)) > 2**16
    for length in (128, 512):
        shards = open_shards(out, sequence_length=length)
        tokens, _, starts = shards.rows_with_words(np.arange(len(shards)))
        assert tokens.dtype == np.uint32 and shards.index.vocab_size == len(moved) + 70_000 and starts is not None
        held, _ = (valid := open_shards(out, "valid", sequence_length=length)).rows(np.arange(len(valid)))
        streams = [row[row != shards.index.special_tokens.pad].tolist() for row in (*tokens, *held)]
        if packing == "concat":
            special = set(shards.index.special_tokens.ids) - {shards.index.special_tokens.unk}
            found = sorted(token for stream in streams for token in stream if token not in special)
            wanted = sorted(token for ids in expected for token in ids)
            # The document of markup is there too, in both corpora.
            assert not Counter(wanted) - Counter(found)
        else:
            whole = [ids for ids in expected if len(ids) <= 126]
            framed = {str([2, *ids, 3])[1:-1] for ids in whole}
            joined = "; ".join(str(stream)[1:-1] for stream in streams)
            assert len(whole) > 20 and all(ids in joined for ids in framed)
