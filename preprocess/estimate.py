"""Estimate for `--dry-run`: counts input splits and bytes, and extrapolates hours and disk from the first MiB of each corpus.

The rates of extract and segment, and the text and disk that a byte of a corpus becomes, are measured on the spot. The rates of the
tokenizer stage and of pack were measured on another host and are constants below.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import zstandard

from jadeberta.shards import SEQUENCE_LENGTH, RowFormat, token_dtype_of
from jadeberta.utils.durations import format_duration
from jadeberta.utils.text_table import format_table
from preprocess import readers
from preprocess.config import PreprocessConfig
from preprocess.document_files import write_json
from preprocess.filters import document_filters
from preprocess.readers.archives.entries import is_archive
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit
from preprocess.readers.published_sets import gaps
from preprocess.readers.split_file import LEVEL, head_lines
from preprocess.segmenters import Rejected, Segmenter, open_segmenter
from preprocess.stages.extract import plan_splits
from preprocess.text import split_sentences, whole_text
from preprocess.tokenization.encoders import Encoder, find_tokenizer, open_encoder
from preprocess.workdir import documents_dir

log = logging.getLogger(__name__)
HEAD_BYTES = 2**20
"""Bytes read of a corpus's first file, before decompression."""
TRIED_SENTENCES = 3000
"""Sentences segmented to measure the segmenter's speed."""
COUNT_MB_S, PACK_MB_S = 22.0, 15.0
"""MB of text that a core counts words of, and packs, in a second (`bench/preprocess_speed.py`, docs/preprocess-at-scale.md)."""
FURTHER_LENGTH_MB_S = 165.0
"""MB of text of which a core packs and writes rows of a further length in a second: the tokens are there by then. Measured on 49 MB with
rows of 512 and of 8,192 tokens, best_fit, which is the slower way."""
TRAIN_SECONDS, TRAIN_SECONDS_A_MB = 300.0, 0.2
"""Time that one rank takes for seeds and sentencepiece: on two million words, which is the maximum; and for a MB of a smaller text."""
BYTES_A_TOKEN = 4.9
"""UTF-8 bytes of text in a token, with the 32,000 pieces of the large recipe; of a given tokenizer it is measured."""
TRIED_BYTES = 2**18
"""Bytes of text that a given tokenizer encodes to measure them."""


@dataclass(frozen=True)
class CorpusEstimate:
    """Estimate for one corpus."""

    name: str
    splits: int
    """Number of input splits."""
    done: int
    """Number of input splits that are extracted already."""
    file_bytes: int
    text_bytes: float
    sentences: float
    """Documents where they are not cut."""
    seconds: dict[str, float]
    """Time that one core takes, by stage."""
    disk: dict[str, float]
    """Bytes under --out: cuts (only while extract runs), documents, words, shards."""


def describe_plan(config: PreprocessConfig, out: Path, stages: tuple[str, ...], ranks: int) -> list[str]:
    """Returns the lines to print; writes nothing under `out`.

    Args:
        config: section of the recipe.
        out: output directory.
        stages: names of the stages that would run.
        ranks: number of ranks that would share the work.
    """
    document_filters.describe(config)  # what cannot be used is said now
    encoder = None if config.trains else open_encoder(find_tokenizer(Path(config.tokenizer)))
    tokenizer = f"{encoder.description}, from {config.tokenizer}" if encoder else f"{config.vocab_size} pieces"
    settings = f"words by {config.segmenter.engine}, {tokenizer}"
    if config.sequence_lengths != (SEQUENCE_LENGTH,):
        settings += f", rows of {' and '.join(f'{length:,}' for length in config.sequence_lengths)} tokens"
    lines = [f"would run {', '.join(stages)} on {ranks} ranks, {settings}, into {out}"]
    for name, c in config.corpora.items():
        chosen = f", where {c.where}" if c.where else ""
        lines.append(f"  {name}: {c.format} {c.path}, seen {c.repeats}x an epoch{chosen}")
    planned = plan_splits(config, out)
    for name, splits in planned.items():
        lines += [f"  {name}: {gap}" for gap in gaps(str(path) for split in splits for path in split.files)]
    with open_segmenter(config.segmenter) as segmenter:
        corpora = [estimate_corpus(name, splits, out, segmenter, config, encoder) for name, splits in planned.items()]
    unit = "documents" if config.keeps_text else "sentences"
    headers = ["corpus", "splits", "done", "MB of files", "MB of text", unit, "core time"]
    lines += format_table(headers, (_cells(corpus, stages) for corpus in corpora)).splitlines()
    spent = {stage: sum(corpus.seconds[stage] for corpus in corpora) / ranks for stage in stages}
    if "tokenizer" in spent and config.trains:
        spent["tokenizer"] += min(TRAIN_SECONDS, TRAIN_SECONDS_A_MB * sum(corpus.text_bytes for corpus in corpora) / 1e6)
    parts = ", ".join(f"{stage} {format_duration(seconds)}" for stage, seconds in spent.items())
    lines.append(
        f"about {sum(spent.values()) / 3600:,.2f} hours ({format_duration(sum(spent.values()))}) on {ranks} ranks like this one, "
        f"if all is still to do: {parts}"
    )
    kinds = ("cuts", "documents", "words", "shards")
    disk = {kind: sum(corpus.disk[kind] for corpus in corpora) for kind in kinds}
    # The output directory may not exist yet; its nearest existing parent is on the same file system.
    free = shutil.disk_usage(next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())).free
    parts = ", ".join(f"{kind} {size / 1e9:,.2f}" for kind, size in disk.items())
    lines.append(f"about {sum(disk.values()) / 1e9:,.2f} GB of disk for all stages: {parts}; {free / 1e9:,.2f} GB are free")
    return lines


def _cells(corpus: CorpusEstimate, stages: tuple[str, ...]) -> list[str]:
    """Returns the row of a corpus in the table."""
    megabytes = [f"{size / 1e6:,.1f}" for size in (corpus.file_bytes, corpus.text_bytes)]
    core = format_duration(sum(corpus.seconds[stage] for stage in stages))
    return [corpus.name, f"{corpus.splits:,}", f"{corpus.done:,}", *megabytes, f"{corpus.sentences:,.0f}", core]


def estimate_corpus(
    name: str,
    splits: list[InputSplit],
    out: Path,
    segmenter: Segmenter,
    config: PreprocessConfig,
    encoder: Encoder | None = None,
) -> CorpusEstimate:
    """Extracts and segments the head of a corpus and extrapolates.

    Args:
        name: of the corpus.
        splits: all input splits of the corpus.
        out: output directory.
        segmenter: an open one.
        config: section of the recipe; its filters drop documents.
        encoder: of the tokenizer that is given; None where one is trained.
    """
    size = sum(split.end - split.start for split in splits)
    folder = documents_dir(out, name)
    done = sum((folder / f"{split.name}.json").is_file() for split in splits)
    with TemporaryDirectory() as scratch:
        began = time.perf_counter()
        read, packed, documents = _try_extract(splits[0], Path(scratch), config)
        # Seconds for a byte of the input file: the work of extract is proportional to it.
        extract = (time.perf_counter() - began) / read
    text = sum(len(document["text"].encode()) for document in documents)
    times = size / read
    began = time.perf_counter()
    tried, asked, rows = _try_segment(documents, segmenter, whole_text if config.keeps_text else split_sentences)
    # Seconds for a byte of text: the tried sentences are only some of the documents.
    segment = (time.perf_counter() - began) / max(1, tried)
    all_text = text * times
    # Each length has all tokens again; they are made of the text once.
    lengths = len(config.sequence_lengths)
    token = RowFormat(1, token_dtype_of(encoder.vocab_size if encoder else config.vocab_size))
    tokens, pack_mb_s = _try_encode(documents, rows, encoder, config) if encoder else (1 / BYTES_A_TOKEN, PACK_MB_S)
    pack = 1 / pack_mb_s + (lengths - 1) / FURTHER_LENGTH_MB_S
    return CorpusEstimate(
        name,
        len(splits),
        done,
        size,
        all_text,
        all_text * asked / max(1, tried),
        {"extract": extract * size, "segment": segment * all_text, "tokenizer": all_text / 1e6 / COUNT_MB_S}
        | {"pack": all_text / 1e6 * pack},
        {
            "cuts": packed * times if any(split.note for split in splits) else 0.0,
            "documents": _compressed(b"".join(map(orjson.dumps, documents)), 3) * times,
            "words": _compressed(b"\n".join(rows), 3) * all_text / max(1, tried),
            "shards": all_text * tokens * (token.token_bytes + token.document_bytes) * lengths,
        },
    )


def _try_extract(split: InputSplit, scratch: Path, config: PreprocessConfig) -> tuple[int, int, list[Document]]:
    """Returns the bytes read of a corpus's first file, their size when they are stored for extraction, and their documents."""
    dropped: Counter[str] = Counter()
    read, packed, found = _read_head(split, scratch, dropped)
    kept = list(document_filters.keep(iter(found), config, dropped, []))
    if dropped and not kept:
        said = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items())
        log.warning("%s: no document is left of what was read of %s (%s)", split.corpus, split.path.name, said)
    return max(1, read), packed, kept


def _read_head(split: InputSplit, scratch: Path, dropped: Counter[str]) -> tuple[int, int, list[Document]]:
    """Returns what `_try_extract` does, before the filters."""
    reader, bad = readers.READERS[split.format], BadRecords("exclude")
    if is_archive(split.path) and not split.group:
        size, found = readers.head_of_archive(split, HEAD_BYTES, dropped)
        return size, 0, found
    tried = split if split.group else reader.head(split, HEAD_BYTES) if hasattr(reader, "head") else None
    if tried is not None:
        return tried.end, 0, list(readers.documents(tried, dropped, bad))
    if not hasattr(reader, "begins"):
        return _try_records(split, dropped, bad)
    read, lines = head_lines(split.path, reader.begins, HEAD_BYTES)
    # The head becomes a file of its own with a note, as a split of a large file would be.
    content = b"\n".join([*lines, b""])
    head, note = scratch / f"head{'.xml' if split.format == 'wikipedia' else ''}", scratch / "note"
    head.write_bytes(content)
    place = {"first_line": 1, "first_unit": 0, "ends_file": False, "text": None, "start": 0, "end": len(content)}
    write_json(note, place)
    tried = replace(split, path=head, start=0, end=max(1, len(content)), note=note)
    return read, _compressed(content, LEVEL), list(readers.documents(tried, dropped, bad))


def _try_records(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> tuple[int, int, list[Document]]:
    """Returns what `_read_head` does, for a format that is no lines of text."""
    found, size = list[Document](), 0
    for document in readers.documents(split, dropped, bad):
        found.append(document)
        size += len(document["text"].encode())
        # Not in the middle of what the reader has counted at once.
        if size >= HEAD_BYTES and len(found) == bad.documents:
            break
    tried = bad.documents + sum(dropped.values())
    return (split.end - split.start) * tried // readers.READERS[split.format].records(split), 0, found


def _try_segment(
    documents: list[Document], segmenter: Segmenter, cut_text: Callable[[str], list[str]]
) -> tuple[int, int, list[bytes]]:
    """Returns the bytes of text segmented, the number of their sentences, and lines of words."""
    tried, sentences = 0, list[str]()
    for document in documents:
        # Juman++ is slow: some thousand sentences take a few seconds.
        if len(sentences) >= TRIED_SENTENCES:
            break
        sentences += cut_text(document["text"])
        tried += len(document["text"].encode())
    answers = segmenter.segment(sentences)
    return tried, len(sentences), [" ".join(answer).encode() for answer in answers if not isinstance(answer, Rejected)]


def _try_encode(documents: list[Document], lines: list[bytes], encoder: Encoder, config: PreprocessConfig) -> tuple[float, float]:
    """Returns the tokens of a byte of text by a given tokenizer, and the MB of text that it encodes in a second."""
    texts = [line.decode() for line in lines] if config.reads_words else [document["text"] for document in documents]
    used, tried = 0, list[str]()
    for text in texts:
        tried.append(text[: TRIED_BYTES // 3])
        # Spaces between words are none of the text's bytes.
        used += len((tried[-1].replace(" ", "") if config.reads_words else tried[-1]).encode())
        if used >= TRIED_BYTES:
            break
    began = time.perf_counter()
    tokens = len(encoder.encode(tried).ids) + (0 if config.reads_words else 2 * len(tried))  # those of a document's borders
    seconds = time.perf_counter() - began
    return (tokens / used, used / 1e6 / max(seconds, 1e-9)) if used else (1 / BYTES_A_TOKEN, PACK_MB_S)


def _compressed(content: bytes, level: int) -> int:
    return len(zstandard.ZstdCompressor(level=level).compress(content))
