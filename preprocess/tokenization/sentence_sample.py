"""A sample of the corpora's sentences for training a tokenizer on text that has no words.

Promises a sample that depends on the text alone, not on the number of ranks or on kills: each sentence is drawn by a hash of its place.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from preprocess.document_files import read_jsonl_zst, write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.workdir import read_documents

SAMPLE_BYTES = 256 * 2**20
"""UTF-8 bytes of text that a tokenizer is trained on, about; sentencepiece takes some ten times as much memory."""
LONGEST_SENTENCE = 16_384
"""Bytes of a sentence; longer ones are left out."""

WeightedDocuments = tuple[Path, int, int]
"""A part of documents, how often its corpus counts, and its bytes of text."""


def sample_sentences(
    parts: list[WeightedDocuments], cut_text: Callable[[str], list[str]], folder: Path, executor: Executor
) -> list[Path]:
    """Writes the sampled sentences of each part. Collective: every rank calls it.

    Args:
        parts: parts of documents; the same on every rank.
        cut_text: gives the sentences of a document.
        folder: for the files; the caller removes it after using them.
        executor: the ranks that share the work.

    Returns:
        The files, for `read_sentences`, in the order of the parts.
    """
    total = sum(weight * size for _, weight, size in parts)
    files = [folder / f"sample-{number:06d}.jsonl.zst" for number in range(len(parts))]
    tasks = [
        (part, min(1.0, weight * SAMPLE_BYTES / max(1, total)), file)
        for (part, weight, _), file in zip(parts, files, strict=True)
    ]
    sizes = {file: size for (_, _, size), file in zip(parts, files, strict=True)}

    def draw(task: tuple[Path, float, Path]) -> None:
        part, share, file = task
        if file.is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl_zst(file, ([sentence] for sentence in _drawn(part, share, cut_text)))

    executor.map(tasks, draw, lambda task: sizes[task[2]])
    return files


def read_sentences(files: list[Path]) -> Iterator[str]:
    """Yields the sentences of a sample."""
    for file in files:
        for (sentence,) in read_jsonl_zst(file):
            yield sentence


def _drawn(part: Path, share: float, cut_text: Callable[[str], list[str]]) -> Iterator[str]:
    limit = int(share * 2**64)
    for row in read_documents(part):
        for number, sentence in enumerate(cut_text(row["text"])):
            place = xxhash.xxh64_intdigest(f"{row['id']} {number}".encode())
            if place < limit and sentence.strip() and len(sentence.encode()) <= LONGEST_SENTENCE:
                yield sentence
