"""Packing: rows hold the documents and nothing else, held-out ones stay out, and what is done is kept unless something changed."""

import hashlib
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import xxhash

from jadeberta.shards import INDEX_NAME, ConfigError, open_shards, verify
from preprocess.document_files import read_json, write_json
from preprocess.executors.executor import Executor
from preprocess.stages import shard_set as stage
from preprocess.stages.extract import extract
from preprocess.stages.pack import group_parts, pack
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.workdir import list_words, read_words
from tests.preprocess import tiny_corpus as tiny
from tests.preprocess.conftest import Made
from tests.preprocess.tokenization.test_packing import by_hand

CLS, SEP = 1, 2


def encoded(made: Made, corpus: str) -> dict[str, list[int]]:
    """Ids of every document that has a sentence, by document id, in order."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(made.out / "tokenizer" / "spm.model"))
    rows = [row for part in list_words(made.out, corpus) for row in read_words(part)]
    return {r["id"]: [CLS, *(i for s in r["sentences"] for i in processor.encode(s)), SEP] for r in rows if r["sentences"]}


def heldout_of(made: Made, corpus: str) -> set[str]:
    """The four smallest hashes of the ids, but no more than a tenth of the documents."""
    ids = [row["id"] for part in list_words(made.out, corpus) for row in read_words(part)]
    return set(sorted(ids, key=lambda id_: xxhash.xxh64(id_.encode()).intdigest())[: min(4, len(ids) // 10)])


def rows_of(made: Made, corpus: str, split: Any) -> tuple[np.ndarray, np.ndarray]:
    shards = open_shards(made.out, split)
    return shards.rows(np.asarray(shards.corpora[corpus]))


BYTES = {
    "spm.model": "b160f9fe465683c0",
    "valid-web-00000.tar": "6667daf197f5ee52", "valid-web-00000.sums": "8edc4f364349b928",
    "valid-web-ja-00000.tar": "424c86a0a2187ce0", "valid-web-ja-00000.sums": "4b344df0d7a404d1",
    "web-00000.tar": "88f5d756ff09945e", "web-00000.sums": "afe8683b1e8234d4",
    "web-00001.tar": "442653632f026456", "web-00001.sums": "7eb1c07a67d1e02e",
    "web-00002.tar": "7adb2d5da2efe05a", "web-00002.sums": "192bdb08c0c4341e",
    "web-ja-00000.tar": "9fbc4fe689a311a4", "web-ja-00000.sums": "aef4aa7351b38c95",
    "web-ja-00001.tar": "012999015ff0cce5", "web-ja-00001.sums": "eeae617b7ee48097",
}  # fmt: skip
"""Beginnings of SHA-256 of what was written before there was format version 2 (the version before it, on the same corpus)."""


def test_shards_of_format_version_1_keep_every_byte(tiny_shards: Made) -> None:
    index = open_shards(tiny_shards.out).index
    assert index.version == 1
    found = {}
    for path in [*tiny_shards.out.glob("*.tar"), *tiny_shards.out.glob("*.sums"), tiny_shards.out / "tokenizer" / "spm.model"]:
        # Each sample names the segmenter's library, which may be a newer one.
        content = path.read_bytes().replace(str(index.segmenter["version"]).encode(), b"fugashi 1.5.2")
        found[path.name] = hashlib.sha256(content).hexdigest()[:16]
    assert found == BYTES


def test_parts_are_grouped_in_order_up_to_the_size_of_a_shard(tmp_path: Path) -> None:
    parts = []
    for number, size in enumerate([0, 60, 40, 0, 1, 250, 30, 30]):
        write_json(tmp_path / f"{number}.json", {"counts": {"bytes": size}})
        parts.append(tmp_path / f"{number}.jsonl.zst")
    groups = group_parts(parts, 100)
    assert [[int(part.name[0]) for part in group] for group in groups] == [[0, 1, 2, 3], [4], [5], [6, 7]]


@pytest.mark.parametrize(("corpus", "held"), [("web", 4), ("web-ja", 3)])
def test_every_document_is_packed_once_in_order_and_held_out_ones_apart(tiny_shards: Made, corpus: str, held: int) -> None:
    documents, heldout = encoded(tiny_shards, corpus), heldout_of(tiny_shards, corpus)
    assert len(heldout) == held
    for split, expected in (
        ("train", [ids for id_, ids in documents.items() if id_ not in heldout]),
        ("valid", [ids for id_, ids in documents.items() if id_ in heldout]),
    ):
        tokens, _ = rows_of(tiny_shards, corpus, split)
        assert tokens[tokens != 0].tolist() == [token for document in expected for token in document]
        entries = getattr(open_shards(tiny_shards.out).index.corpora[corpus], split)
        assert sum(entry.documents for entry in entries) == len(expected)


def test_document_without_a_sentence_is_in_no_row(tiny_shards: Made) -> None:
    empty = [row["id"] for part in list_words(tiny_shards.out, "web") for row in read_words(part) if not row["sentences"]]
    assert empty == ["web-1-60"]
    tokens, _ = rows_of(tiny_shards, "web", "train")
    assert not any(pair == (CLS, SEP) for pair in pairwise(tokens[tokens != 0].tolist()))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_document_numbers_and_padding_are_those_of_each_shard_by_itself(tiny_shards: Made, split: Any) -> None:
    shards = open_shards(tiny_shards.out, split)
    files = [entry for corpus in shards.index.corpora.values() for entry in getattr(corpus, split)]
    assert len(files) == (5 if split == "train" else 2)
    first = 0
    for entry in files:
        tokens, numbers = shards.rows(np.arange(first, first + entry.sequences))
        first += entry.sequences
        live = tokens[tokens != 0].tolist()
        starts = [place for place, token in enumerate(live) if token == CLS]
        documents = [live[a:b] for a, b in pairwise([*starts, len(live)])]
        assert entry.documents == len(documents) and entry.tokens == len(live)
        assert (tokens.tolist(), numbers.tolist()) == by_hand(documents)
    assert first == len(shards)


def test_no_held_out_text_is_in_the_training_rows(tiny_shards: Made) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_shards.out / "tokenizer" / "spm.model"))

    def texts(split: Any) -> list[str]:
        tokens, _ = rows_of(tiny_shards, "web", split)
        live = tokens[tokens != 0].tolist()
        ends = [place + 1 for place, token in enumerate(live) if token == SEP]
        return [processor.decode(live[a + 1 : b - 1]) for a, b in pairwise([0, *ends])]

    train, valid = texts("train"), texts("valid")
    assert (len(train), len(valid)) == (60 - 1 - 4, 4)
    heldout = heldout_of(tiny_shards, "web")
    rows = [row for part in list_words(tiny_shards.out, "web") for row in read_words(part)]
    assert valid == [" ".join(row["sentences"]) for row in rows if row["id"] in heldout]
    assert not set(train) & set(valid)


def test_index_says_how_the_shards_were_made(tiny_shards: Made) -> None:
    index = open_shards(tiny_shards.out).index
    assert (index.vocab_size, index.sequence_length, index.segmenter["engine"]) == (150, 512, "mecab")
    assert {name: corpus.repeats for name, corpus in index.corpora.items()} == {"web": 1, "web-ja": 3}
    assert verify(tiny_shards.out) == []


@pytest.fixture
def copied(tiny_shards: Made, tmp_path: Path) -> Made:
    return Made(tiny_shards.corpora, tiny_shards.config, shutil.copytree(tiny_shards.out, tmp_path / "copy"))


def states(out: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("*.tar")}


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*out.glob("*.tar"), *out.glob("*.sums"), out / INDEX_NAME]}


def remade(made: Made, then: dict[str, tuple[int, int]]) -> set[str]:
    return {name for name, state in states(made.out).items() if then.get(name) != state}


def test_finished_shards_are_not_written_again(copied: Made) -> None:
    then, before = states(copied.out), contents(copied.out)
    pack(copied.config, copied.out, Executor())
    assert states(copied.out) == then and contents(copied.out) == before


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["web-00001.tar", "valid-web-ja-00000.tar"])
@pytest.mark.parametrize("damage", [flip_byte, Path.unlink])
def test_damaged_shard_alone_is_made_again_to_the_same_bytes(copied: Made, name: str, damage: Callable[[Path], None]) -> None:
    then, before = states(copied.out), contents(copied.out)
    damage(copied.out / name)
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == before and verify(copied.out) == []
    assert remade(copied, then) == {name}


def test_lost_list_of_held_out_documents_is_made_again(copied: Made) -> None:
    before = contents(copied.out)
    (copied.out / "work/pack/web-00000.heldout.jsonl.zst").unlink()
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == before


def test_other_number_of_held_out_documents_moves_them(copied: Made) -> None:
    config = tiny.configure(copied.corpora, heldout_documents=1)
    pack(config, copied.out, Executor())
    index = open_shards(copied.out).index
    assert [corpus.valid[0].documents for corpus in index.corpora.values()] == [1, 1]
    assert sum(entry.documents for entry in index.corpora["web"].train) == 60 - 1 - 1
    pack(tiny.configure(copied.corpora, heldout_documents=0), copied.out, Executor())
    assert all(corpus.valid == [] for corpus in open_shards(copied.out).index.corpora.values())
    assert not list(copied.out.glob("valid-*"))


def test_other_tokenizer_makes_every_shard_anew(copied: Made) -> None:
    then = states(copied.out)
    config = tiny.configure(copied.corpora, vocab_size=140)
    train_tokenizer(config, copied.out, Executor())
    pack(config, copied.out, Executor())
    assert remade(copied, then) == set(then)
    assert verify(copied.out) == [] and open_shards(copied.out).index.vocab_size == 140


def test_shards_that_are_wanted_no_more_are_removed(copied: Made) -> None:
    config = tiny.configure(copied.corpora, shard_bytes=10**9)
    del config.corpora["web-ja"]
    pack(config, copied.out, Executor())
    assert {path.name for path in copied.out.glob("*.tar")} == {"web-00000.tar", "valid-web-00000.tar"}
    assert list(open_shards(copied.out).index.corpora) == ["web"]


def test_repeats_change_the_index_and_no_shard(copied: Made) -> None:
    then, fingerprint = states(copied.out), open_shards(copied.out).index.fingerprint
    copied.config.corpora["web"].repeats = 10
    try:
        pack(copied.config, copied.out, Executor())
    finally:
        copied.config.corpora["web"].repeats = 1
    index = open_shards(copied.out).index
    assert states(copied.out) == then and index.fingerprint == fingerprint and index.corpora["web"].repeats == 10


def test_broken_off_packing_leaves_no_index_and_is_continued(copied: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copied.out)
    for name in ("web-00001.tar", "web-00002.tar"):
        flip_byte(copied.out / name)
    write = stage.write_shard

    def fails_late(path: Path, *rows: Any) -> Any:
        if path.name == "web-00002.tar":
            raise OSError("no space left")
        return write(path, *rows)

    monkeypatch.setattr(stage, "write_shard", fails_late)
    with pytest.raises(RuntimeError, match="no space left"):
        pack(copied.config, copied.out, Executor())
    assert not (copied.out / INDEX_NAME).exists()
    monkeypatch.setattr(stage, "write_shard", write)
    then = states(copied.out)
    pack(copied.config, copied.out, Executor())
    assert contents(copied.out) == before
    assert remade(copied, then) == {"web-00002.tar"}


def test_missing_or_unfinished_tokenizer_is_refused(copied: Made) -> None:
    (copied.out / "tokenizer" / "training.json").unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"spm\.model: missing, or not .* Run 'python -m preprocess tokenizer' with"):
            pack(copied.config, copied.out, Executor())
        shutil.rmtree(copied.out / "tokenizer", ignore_errors=True)


def test_a_tokenizer_file_that_the_tokenizer_stage_did_not_write_is_refused_and_the_index_names_the_right_ones(
    copied: Made,
) -> None:
    path = copied.out / "tokenizer" / "tokenizer.json"
    index = open_shards(copied.out).index
    assert index.tokenizer_files["tokenizer.json"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(index.tokenizer_files) == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    path.write_bytes(path.read_bytes().replace(b"\xe3", b"\xe4", 1))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not the file that the tokenizer stage wrote"):
        pack(copied.config, copied.out, Executor())


def test_other_vocabulary_than_the_tokenizers_is_refused_with_both_sizes(copied: Made) -> None:
    with pytest.raises(ConfigError, match=r"spm\.model: has 150 pieces but preprocess\.vocab_size is 140\. Run 'python -m"):
        pack(tiny.configure(copied.corpora, vocab_size=140), copied.out, Executor())


def test_more_held_out_documents_than_were_marked_are_refused(copied: Made) -> None:
    with pytest.raises(ConfigError, match=r"'web' was extracted with heldout_documents=4 but this run has 5\. Run all stages"):
        pack(tiny.configure(copied.corpora, heldout_documents=5), copied.out, Executor())


def test_words_that_are_missing_are_refused(copied: Made) -> None:
    list_words(copied.out, "web-ja")[0].unlink()
    for use in (pack, train_tokenizer):
        with pytest.raises(
            ConfigError, match=r"web-ja-00000\.jsonl\.zst: not segmented yet\. Run 'python -m preprocess segment'"
        ):
            use(copied.config, copied.out, Executor())


def test_documents_of_an_extraction_that_goes_on_are_refused(copied: Made) -> None:
    marker = copied.out / "work/documents/web/web.json"
    content = read_json(marker)
    marker.unlink()
    for use in (pack, train_tokenizer):
        with pytest.raises(
            ConfigError, match=r"the documents of 'web' are not all extracted\. Run 'python -m preprocess extract'"
        ):
            use(copied.config, copied.out, Executor())
    extract(copied.config, copied.out, Executor())
    assert read_json(marker)["parts"] == content["parts"]
    pack(copied.config, copied.out, Executor())


def test_corpus_without_a_row_is_refused(tmp_path: Path) -> None:
    corpora = tiny.write_corpora(tmp_path / "corpora")
    (corpora / "web-ja.jsonl").write_text('{"text": "\\u200b"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"corpus 'web-ja' gives no row of tokens\. Take it out of preprocess\.corpora or add"):
        tiny.run_stages(tiny.configure(corpora, vocab_size=100), tmp_path / "out")
    assert not (tmp_path / "out" / INDEX_NAME).exists()
