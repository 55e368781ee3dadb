"""Stage 4: segmented documents -> rows of tokens (`packing.py`) -> shards and `index.json`.

Held-out documents are excluded first and become `valid-*` shards. Every shard is made from whole parts of words, independently of the
others, so that its bytes depend on the text alone, and after a kill only unfinished shards are made again. Each row length has shards of
its own, made from the same documents (`shard_set.py`). `index.json` is written last, and removed before any shard that it may list is
written again. `provenance.json` beside it says what the shards were made from (`made_from.py`).
"""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from jadeberta.shards import (
    INDEX_NAME,
    ConfigError,
    CorpusEntry,
    ShardEntry,
    ShardIndex,
    file_sha256,
    token_dtype_of,
)
from jadeberta.shards.provenance import SHARDS_PROVENANCE_NAME
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, CLS, MODEL_FILE, SEP
from jadeberta.utils.files import atomic_file
from preprocess.config import PreprocessConfig, WordSource
from preprocess.document_files import jsonl_zst_writer, read_json, read_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.stages.given_tokenizer import given_settings
from preprocess.stages.made_from import write_made_from
from preprocess.stages.shard_set import ShardSet, name_of_length
from preprocess.text import text_rules
from preprocess.tokenization.characters import MARKED, encode_characters, with_spaces
from preprocess.tokenization.encoders import Encoder, find_tokenizer, open_encoder, read_tokenizer
from preprocess.tokenization.marked_tokens import encode_marked
from preprocess.tokenization.packing import EncodedDocument
from preprocess.workdir import (
    list_parts,
    list_words,
    pack_dir,
    read_documents,
    read_segmenter,
    read_training,
    read_words,
    stream_markers,
    words_marker,
)
from preprocess.written_files import claim, remove_stale, shard_names

log = logging.getLogger(__name__)

DOCUMENTS_AT_ONCE = 64
"""Number of documents that are encoded together."""
HELDOUT_SHARE = 10
"""At most one document in HELDOUT_SHARE is held out of training."""


def pack(config: PreprocessConfig, out: Path, executor: Executor) -> ShardIndex:
    """Writes the shards and `index.json` into `out`.

    Raises:
        ConfigError: there are no words or no tokenizer yet, the tokenizer is not of this size, or a corpus gives no row at all.
    """
    # One rank reads all markers and the tokenizer; the others get the result.
    plan = executor.run_on_root(lambda: _plan(config, out))
    groups, heldout, work = plan.groups, plan.heldout, pack_dir(out)

    def rows_of(part: Path) -> Iterator[dict[str, Any]]:
        return with_spaces(read_words(part), read_documents(plan.texts[part])) if plan.texts else read_words(part)

    def pack_train(task: tuple[str, int]) -> list[ShardEntry]:
        corpus, number = task
        name, parts, ids = _train_name(corpus, number), groups[corpus][number], heldout[corpus]
        heldout_file = _heldout_file(work, name)
        shards = ShardSet(out, name, plan.index, plan.lengths, {"corpus": corpus, "split": "train"}, parts, ids)
        if heldout_file.exists() and shards.are_finished():
            return shards.entries

        def rest(put: Callable[[dict[str, Any]], object]) -> Iterator[dict[str, Any]]:
            for part in parts:
                for row in rows_of(part):
                    # Held-out documents are written to a file now, as only this task reads the part.
                    if row["id"] in ids:
                        put(row)
                    else:
                        yield row

        with jsonl_zst_writer(heldout_file) as put:
            _write(shards, rest(put), plan.model, plan.index)
        # The markers come last, when the held-out documents are on the disk too.
        shards.mark()
        executor.count(documents=shards.entries[0].documents, bytes=sum(map(text_bytes, parts)))
        return shards.entries

    def pack_valid(corpus: str) -> list[ShardEntry]:
        # Made from the files of held-out documents, so that it must wait for all shards of its corpus.
        heldout_files = [_heldout_file(work, _train_name(corpus, n)) for n, _ in enumerate(groups[corpus])]
        about = {"corpus": corpus, "split": "valid"}
        shards = ShardSet(out, _valid_name(corpus), plan.index, plan.lengths, about, heldout_files, heldout[corpus])
        if not shards.are_finished():
            rows = (row for file in heldout_files for row in read_jsonl_zst(file))
            _write(shards, rows, plan.model, plan.index)
            shards.mark()
        return shards.entries

    tasks = [(corpus, n) for corpus in config.corpora for n, _ in enumerate(groups[corpus])]
    train = executor.map(tasks, pack_train, lambda task: sum(map(text_bytes, groups[task[0]][task[1]])))
    # A second call of map: the first one ends only when every held-out document is on the disk.
    held = [corpus for corpus in config.corpora if heldout[corpus]]
    valid = dict(zip(held, executor.map(held, pack_valid), strict=True))
    index = plan.index
    for corpus, settings in config.corpora.items():
        of_corpus = [entries for (name, _), entries in zip(tasks, train, strict=True) if name == corpus]
        index.corpora[corpus] = CorpusEntry(
            repeats=settings.repeats,
            # All shards of a length, then those of the next.
            train=[entry for entries in zip(*of_corpus, strict=True) for entry in entries if entry.sequences],
            valid=[entry for entry in valid.get(corpus, []) if entry.sequences],
        )
        if not index.corpora[corpus].train:
            raise ConfigError(f"{out}: corpus '{corpus}' gives no row of tokens. Take it out of preprocess.corpora or add text.")
    executor.run_on_root(lambda: _write_index(out, index, {name: len(groups[name]) for name in config.corpora}))
    return index


@dataclass
class _Plan:
    """What every rank must know; rank 0 collects it."""

    model: Path
    index: ShardIndex
    """The index, without corpora yet."""
    lengths: tuple[int, ...]
    """The row lengths, the index's own first."""
    groups: dict[str, list[list[Path]]]
    """Parts of words of each shard, by corpus."""
    heldout: dict[str, frozenset[str]]
    """Ids of the held-out documents, by corpus."""
    texts: dict[Path, Path]
    """Part of documents of each part of words, if the tokenizer reads text with its own spaces and not the words'; else empty."""


def _plan(config: PreprocessConfig, out: Path) -> _Plan:
    groups = {corpus: group_parts(list_words(out, corpus), config.shard_bytes) for corpus in config.corpora}
    directory = out / "tokenizer"
    tokenizer = read_training(directory)
    model = directory / (tokenizer or {}).get("main", MODEL_FILE)
    remedy = "Run 'python -m preprocess tokenizer' with the same --config and --out first."
    if tokenizer is None:
        raise ConfigError(f"{model}: missing, or not the model of a finished tokenizer stage. {remedy}")
    if not config.trains:
        if tokenizer["settings"] != given_settings(find_tokenizer(Path(config.tokenizer))):
            raise ConfigError(f"{directory}: not the tokenizer of preprocess.tokenizer {config.tokenizer} as it is now. {remedy}")
    elif "given" in tokenizer["settings"]:
        raise ConfigError(f"{directory}: holds a given tokenizer but preprocess.tokenizer is train. {remedy}")
    elif ("text" in tokenizer["settings"]) == (config.reads_words or config.pieces == "characters"):
        raise ConfigError(f"{directory}: its tokenizer is not trained on what preprocess.tokenizer_input says. {remedy}")
    elif tokenizer["pieces"] != config.vocab_size:
        raise ConfigError(f"{model}: has {tokenizer['pieces']} pieces but preprocess.vocab_size is {config.vocab_size}. {remedy}")
    elif (found := tokenizer["settings"].get("pieces", "subwords")) != config.pieces:
        raise ConfigError(f"{model}: its pieces are {found} but preprocess.pieces is {config.pieces}. {remedy}")
    characters = config.pieces == "characters"
    lengths = config.sequence_lengths
    is_published = config.trains and (config.reads_words or characters) and config.word_starts in ("auto", "segmenter", "pieces")
    files = read_tokenizer(directory, model.name)
    encoder = open_encoder(files)
    source = "" if is_published else _word_source(config, files.is_fast)
    normaliser, splitter = text_rules(config.keeps_text)
    index = ShardIndex(
        sequence_length=lengths[0],
        vocab_size=encoder.vocab_size,
        tokenizer_sha256=tokenizer["sha256"],
        segmenter=read_segmenter(out),
        normaliser=normaliser,
        sentence_splitter=splitter,
        corpora={},
        packing=config.packing,
        word_starts="documents" if characters or source else "pieces",
        tokenizer_files=_tokenizer_files(directory, tokenizer),
        tokenizer_input=("words" if config.reads_words else "text") if source else "",
        word_source=source,
        token_dtype=token_dtype_of(encoder.vocab_size),
        special_tokens=encoder.special,
    )
    names = [_train_name(corpus, n) for corpus in config.corpora for n, _ in enumerate(groups[corpus])]
    names += map(_valid_name, config.corpora)
    claim(
        out,
        [
            INDEX_NAME,
            SHARDS_PROVENANCE_NAME,
            *shard_names(f"{name_of_length(name, length, lengths)}.tar" for name in names for length in lengths),
        ],
    )
    heldout = {corpus: heldout_ids(out, corpus, config.heldout_documents) for corpus in config.corpora}
    texts = {
        words: text
        for corpus in (config.corpora if characters or (config.segments and not config.reads_words) else ())
        for words, text in zip(list_words(out, corpus), list_parts(out, corpus), strict=True)
    }
    return _Plan(model, index, lengths, groups, heldout, texts)


def _word_source(config: PreprocessConfig, is_fast: bool) -> WordSource:
    """Returns what says where words start, for tokens that do not show it as those of the published recipe do."""
    if config.word_starts != "auto":
        if config.word_starts == "tokenizer" and not is_fast:
            raise ConfigError(
                f"preprocess.word_starts is tokenizer, and {config.tokenizer} is a sentencepiece model without rules for words. "
                "Say pieces, or name a directory with tokenizer.json."
            )
        return config.word_starts
    if config.segments:
        return "segmenter"
    return "tokenizer" if is_fast else "pieces"


def _train_name(corpus: str, number: int) -> str:
    return f"{corpus}-{number:05d}"


def _valid_name(corpus: str) -> str:
    return f"valid-{corpus}-00000"


def _heldout_file(work: Path, name: str) -> Path:
    """Returns the file of the held-out documents that the shard's task has met."""
    return work / f"{name}.heldout.jsonl.zst"


def _tokenizer_files(directory: Path, training: dict[str, Any]) -> dict[str, str]:
    """sha256 of the files beside the sentencepiece model; a tokenizer of an older version did not record them when it wrote them.

    Raises:
        ConfigError: a file is not the one that the tokenizer stage wrote.
    """
    # All files of a given tokenizer, but of one trained here not the model, whose hash the index has anyway.
    names = [name for name in ALL_TOKENIZER_FILES if ("main" in training or name != MODEL_FILE) and (directory / name).is_file()]
    found = {name: file_sha256(directory / name) for name in names}
    written = training.get("files", found)
    for name, sha in written.items():
        if found.get(name) != sha:
            raise ConfigError(
                f"{directory / name}: not the file that the tokenizer stage wrote (sha256 {found.get(name, 'none')[:12]}, written "
                f"{sha[:12]}). Put it back, or remove {directory / MODEL_FILE} and run 'python -m preprocess tokenizer' again."
            )
    return found


def _write_index(out: Path, index: ShardIndex, shards: dict[str, int]) -> None:
    """Writes the index and, before it, what its shards were made from; `shards`: number of training shards by corpus."""
    kept = shard_names(entry.file for corpus in index.corpora.values() for entry in [*corpus.train, *corpus.valid])
    for stale in remove_stale(out, [INDEX_NAME, *kept]):
        log.warning("%s: no corpus of this recipe has rows for it any more, removed", stale)
    words = {
        corpus: [
            (name, sha256)
            for number in range(count)
            for name, sha256 in read_json(pack_dir(out) / f"{_train_name(corpus, number)}.json")["settings"]["parts"]
        ]
        for corpus, count in shards.items()
    }
    write_made_from(out, index, words)
    with atomic_file(out / INDEX_NAME) as f:
        f.write(index.to_json())


def heldout_ids(out: Path, corpus: str, wanted: int) -> frozenset[str]:
    """Returns the ids of the documents kept out of training: those with the smallest hashes, at most a tenth of the corpus.

    All documents of an id are held out, or none: an id with more of them than may still be held out is passed over.

    Raises:
        ConfigError: the corpus was extracted for fewer held-out documents.
    """
    made, documents = wanted, 0

    def candidates() -> Iterator[tuple[int, str, int]]:
        nonlocal made, documents
        for marker in stream_markers(out, corpus):
            made = min(made, marker["settings"]["heldout_documents"])
            documents += marker["counts"]["documents"]
            yield from ((hash_, id_, *copies) if copies else (hash_, id_, 1) for hash_, id_, *copies in marker["heldout"])

    # Markers hold the smallest hashes of their split; the smallest of all are among them.
    smallest = heapq.nsmallest(wanted + 1, candidates())
    if made < wanted:
        raise ConfigError(
            f"{out}: '{corpus}' was extracted with heldout_documents={made} but this run has {wanted}. "
            f"Run all stages with another --out, or delete {out / 'work'} first."
        )
    limit = min(wanted, documents // HELDOUT_SHARE)
    if limit < wanted:
        log.warning("%s: %d of its %d documents are held out, not the %d asked for", corpus, limit, documents, wanted)
    copies: Counter[str] = Counter()
    for _, id_, number in smallest:
        copies[id_] += number
    if len(smallest) > wanted:
        # One place more was looked at: others of this id's documents may be behind it, and none of an id before it.
        del copies[smallest[-1][1]]
    held: list[str] = []
    for id_, number in copies.items():
        if number <= limit:
            held.append(id_)
            limit -= number
    if repeated := next((id_ for id_, number in copies.items() if number > 1), None):
        named = f"{copies[repeated]} documents have the id {repeated}"
        log.warning("%s: ids are not unique (%s, for one); all documents of an id are held out, or none", corpus, named)
    return frozenset(held)


def group_parts(parts: list[Path], shard_bytes: int) -> list[list[Path]]:
    """Groups consecutive parts that together hold about `shard_bytes` of segmented text; each group becomes a shard."""
    groups: list[list[Path]] = []
    size = 0
    for part in parts:
        text = text_bytes(part)
        # Whole parts only: a shard depends on its parts, and a changed part changes one shard.
        if not groups or (size > 0 and size + text > shard_bytes):
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += text
    return groups


def text_bytes(part: Path) -> int:
    """Returns the bytes of segmented text in a part of words, from its marker."""
    size: int = read_json(words_marker(part))["counts"]["bytes"]
    return size


def encode_documents(
    rows: Iterable[dict[str, Any]], processor: sentencepiece.SentencePieceProcessor
) -> Iterator[EncodedDocument]:
    """Encodes documents as token ids; documents without a sentence are skipped.

    Uses raw sentencepiece, because Hugging Face's tokenizer would turn a literal "[MASK]" in a web page into the mask token. Several
    documents are encoded together and without sentencepiece's threads, which takes 0.6 of the time; the ids of a sentence do not
    depend on the others.
    """
    texts = (row["sentences"] for row in rows if row["sentences"])
    dtype = np.dtype(token_dtype_of(len(processor)))
    while documents := list(islice(texts, DOCUMENTS_AT_ONCE)):
        # One call for many sentences: the overhead of a call is larger than encoding one.
        encoded = processor.encode(list(chain.from_iterable(documents)), num_threads=1)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype, int(lengths.sum()))
        sentence = start = 0
        for sentences in documents:
            borders = np.cumsum(lengths[sentence : sentence + len(sentences)])
            end = start + int(borders[-1])
            tokens = np.full(end - start + 2, CLS, dtype)
            tokens[1:-1], tokens[-1] = ids[start:end], SEP
            yield EncodedDocument(tokens, borders)
            sentence, start = sentence + len(sentences), end


def _write(shards: ShardSet, rows: Iterable[dict[str, Any]], model: Path, index: ShardIndex) -> None:
    if index.word_source:
        is_spaced = index.tokenizer_input == "text" and index.segmenter.get("engine") != "none"
        encoder = _open_encoder(model, index.tokenizer_sha256)
        shards.write(encode_marked(rows, encoder, index.word_source, is_spaced), None)
        return
    processor = _open_processor(model, index.tokenizer_sha256)
    characters, is_fitted = index.word_starts == "documents", index.packing == "best_fit"
    documents = encode_characters(rows, processor) if characters else encode_documents(rows, processor)
    word_starts = (MARKED if characters else _word_starts(processor)) if is_fitted else None
    shards.write(documents, word_starts)


@cache
def _open_processor(model: Path, sha256: str) -> sentencepiece.SentencePieceProcessor:
    """Opens the tokenizer with this hash, once, as that takes up to 30 ms."""
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


@cache
def _open_encoder(model: Path, sha256: str) -> Encoder:
    """Opens the tokenizer with this hash, once."""
    return open_encoder(read_tokenizer(model.parent, model.name))


def _word_starts(processor: sentencepiece.SentencePieceProcessor) -> np.ndarray:
    """Returns which pieces start a word, bool [pieces]."""
    return np.asarray([processor.id_to_piece(i).startswith("▁") for i in range(len(processor))])
