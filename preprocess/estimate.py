"""What `--dry-run` says: pieces and bytes as they are, hours and disk as a try on the first MiB of each corpus lets expect.

Measured on the spot are the rates of extract and segment, and how much text and disk a byte of a corpus becomes; those of the tokenizer
and of pack are figures of another machine, named below.
"""

import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import zstandard

from preprocess import readers
from preprocess.config import PreprocessConfig
from preprocess.document_files import write_json
from preprocess.executors.progress import clock
from preprocess.readers.input_split import Document, Piece
from preprocess.readers.split_file import LEVEL, head_lines
from preprocess.segmenters import Rejected, Segmenter, open_segmenter
from preprocess.stages.extract import plan_pieces
from preprocess.text import split_sentences
from preprocess.workdir import documents_dir

HEAD_BYTES = 2**20
"""Of a corpus's first file, as it lies on the disk."""
TRIED_SENTENCES = 3000
COUNT_MB_S, PACK_MB_S = 22.0, 15.0
"""MB of text a second and core: counting words, and encode + pack + write (`bench/preprocess_speed.py`, docs/preprocess-at-scale.md)."""
TRAIN_SECONDS, TRAIN_SECONDS_A_MB = 300.0, 0.2
"""Seeds and sentencepiece by one rank: on two million words, which is the most, and a MB of a text that has fewer."""
BYTES_A_TOKEN = 4.9
"""Of text, with the 32,000 pieces of the large recipe."""
SHARD_BYTES_A_TOKEN = 4
"""A token id and a document number."""


@dataclass(frozen=True)
class Corpus:
    """What is expected of a corpus."""

    name: str
    pieces: int
    done: int
    """Pieces that are extracted already."""
    file_bytes: int
    text_bytes: float
    sentences: float
    seconds: dict[str, float]
    """Of one core, by stage."""
    disk: dict[str, float]
    """Bytes under --out: cuts (while extract runs), documents, words, shards."""


def describe_plan(config: PreprocessConfig, out: Path, stages: tuple[str, ...], ranks: int) -> list[str]:
    """What would be done, a line each; nothing is written under `out`."""
    settings = f"words by {config.segmenter.engine}, {config.vocab_size} pieces"
    lines = [f"would run {', '.join(stages)} on {ranks} ranks, {settings}, into {out}"]
    lines += [f"  {name}: {c.format} {c.path}, seen {c.repeats}x an epoch" for name, c in config.corpora.items()]
    with open_segmenter(config.segmenter) as segmenter:
        corpora = [expect(name, pieces, out, segmenter) for name, pieces in plan_pieces(config, out).items()]
    lines.append(
        f"{'corpus':16} {'pieces':>8} {'done':>8} {'MB of files':>14} {'MB of text':>14} {'sentences':>14} {'time of a core':>15}"
    )
    for corpus in corpora:
        core = clock(sum(corpus.seconds[stage] for stage in stages))
        lines.append(
            f"{corpus.name:16} {corpus.pieces:>8,} {corpus.done:>8,} {corpus.file_bytes / 1e6:>14,.1f} {corpus.text_bytes / 1e6:>14,.1f} "
            f"{corpus.sentences:>14,.0f} {core:>15}"
        )
    spent = {stage: sum(corpus.seconds[stage] for corpus in corpora) / ranks for stage in stages}
    if "tokenizer" in spent:
        spent["tokenizer"] += min(TRAIN_SECONDS, TRAIN_SECONDS_A_MB * sum(corpus.text_bytes for corpus in corpora) / 1e6)
    parts = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in spent.items())
    lines.append(
        f"about {sum(spent.values()) / 3600:,.2f} hours ({clock(sum(spent.values()))}) on {ranks} ranks like this one, "
        f"if all is still to do: {parts}"
    )
    kinds = ("cuts", "documents", "words", "shards")
    disk = {kind: sum(corpus.disk[kind] for corpus in corpora) for kind in kinds}
    free = shutil.disk_usage(next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())).free
    parts = ", ".join(f"{kind} {size / 1e9:,.2f}" for kind, size in disk.items())
    lines.append(f"about {sum(disk.values()) / 1e9:,.2f} GB of disk for all stages: {parts}; {free / 1e9:,.2f} GB are free")
    return lines


def expect(name: str, pieces: list[Piece], out: Path, segmenter: Segmenter) -> Corpus:
    """Tries the head of a corpus, and multiplies."""
    size = sum(piece.end - piece.start for piece in pieces)
    folder = documents_dir(out, name)
    done = sum((folder / f"{piece.name}.json").is_file() for piece in pieces)
    with TemporaryDirectory() as scratch:
        began = time.perf_counter()
        read, packed, documents = _try_extract(pieces[0], Path(scratch))
        extract = (time.perf_counter() - began) / read
    text = sum(len(document["text"].encode()) for document in documents)
    times = size / read
    began = time.perf_counter()
    tried, asked, rows = _try_segment(documents, segmenter)
    segment = (time.perf_counter() - began) / max(1, tried)
    all_text = text * times
    return Corpus(
        name,
        len(pieces),
        done,
        size,
        all_text,
        all_text * asked / max(1, tried),
        {"extract": extract * size, "segment": segment * all_text, "tokenizer": all_text / 1e6 / COUNT_MB_S}
        | {"pack": all_text / 1e6 / PACK_MB_S},
        {
            "cuts": packed * times if any(piece.cut for piece in pieces) else 0.0,
            "documents": _compressed(b"".join(map(orjson.dumps, documents)), 3) * times,
            "words": _compressed(b"\n".join(rows), 3) * all_text / max(1, tried),
            "shards": all_text / BYTES_A_TOKEN * SHARD_BYTES_A_TOKEN,
        },
    )


def _try_extract(piece: Piece, scratch: Path) -> tuple[int, int, list[Document]]:
    """Bytes read of a corpus's first file, what they are when they are cut, and their documents."""
    begins = readers.READERS[piece.format].begins
    read, lines = head_lines(piece.path, begins, HEAD_BYTES)
    content = b"\n".join([*lines, b""])
    head, note = scratch / f"head{'.xml' if piece.format == 'wikipedia' else ''}", scratch / "note"
    head.write_bytes(content)
    place = {"first_line": 1, "first_unit": 0, "ends_file": False, "text": None, "start": 0, "end": len(content)}
    write_json(note, place)
    dropped: Counter[str] = Counter()
    tried = replace(piece, path=head, start=0, end=max(1, len(content)), cut=note)
    return read, _compressed(content, LEVEL), list(readers.documents(tried, dropped))


def _try_segment(documents: list[Document], segmenter: Segmenter) -> tuple[int, int, list[bytes]]:
    """Bytes of text segmented, their sentences, and lines of words."""
    tried, sentences = 0, list[str]()
    for document in documents:
        if len(sentences) >= TRIED_SENTENCES:
            break
        sentences += split_sentences(document["text"])
        tried += len(document["text"].encode())
    answers = segmenter.segment(sentences)
    return tried, len(sentences), [" ".join(answer).encode() for answer in answers if not isinstance(answer, Rejected)]


def _compressed(content: bytes, level: int) -> int:
    return len(zstandard.ZstdCompressor(level=level).compress(content))
