"""A shard directory to read, check and damage, and the ways of damaging it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jadeberta.shards import INDEX_NAME, CorpusEntry, ShardIndex, file_sha256, write_shard

VOCAB = 64
Rows = tuple[np.ndarray, np.ndarray]


def random_rows(count: int, seed: int) -> Rows:
    """Rows of two documents each; the last one ends in padding."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, VOCAB, (count, 512), dtype=np.uint16)
    documents = np.ones((count, 512), np.uint16)
    documents[:, 300:] = 2
    tokens[-1, 400:], documents[-1, 400:] = 0, 0
    return tokens, documents


ROWS = {"web-00000.tar": random_rows(1003, 1), "web-00001.tar": random_rows(2, 2), "wiki-00000.tar": random_rows(30, 3)}
VALID = {"valid-wiki-00000.tar": random_rows(4, 4)}
TOKENS, DOCUMENTS = (np.concatenate([rows[i] for rows in ROWS.values()]) for i in (0, 1))


def write(directory: Path, rows: dict[str, Rows], valid: dict[str, Rows] = VALID, repeats: int = 1) -> Path:
    """A shard directory that `verify` has nothing against; corpora by what stands before the last hyphen."""
    model = directory / "tokenizer" / "spm.model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"not read by this package")
    index = ShardIndex(512, VOCAB, file_sha256(model), {"engine": "none"}, "none", "none", {})
    for split, shards in (("train", rows), ("valid", valid)):
        for name, (tokens, documents) in shards.items():
            corpus = name.removeprefix("valid-").rpartition("-")[0]
            entry = write_shard(directory / name, tokens, documents, 2 * len(tokens), {"corpus": corpus})
            getattr(index.corpora.setdefault(corpus, CorpusEntry(repeats)), split).append(entry)
    (directory / INDEX_NAME).write_bytes(index.to_json())
    return directory


def change_index(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = orjson.loads((directory / INDEX_NAME).read_bytes())
    change(document)
    (directory / INDEX_NAME).write_bytes(orjson.dumps(document))


def without_checksums(directory: Path) -> Path:
    """Makes a directory what it was before there were checksums."""

    def forget(index: dict[str, Any]) -> None:
        for corpus in index["corpora"].values():
            for entry in [*corpus["train"], *corpus["valid"]]:
                del entry["sums_sha256"]

    change_index(directory, forget)
    for path in directory.glob("*.sums"):
        path.unlink()
    return directory


def flip_bit(path: Path, offset: int = 5000, bit: int = 0) -> None:
    with open(path, "r+b") as f:
        byte = os.pread(f.fileno(), 1, offset)[0]
        os.pwrite(f.fileno(), bytes([byte ^ 1 << bit]), offset)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path) -> None:
    with open(path, "ab") as f:
        f.write(b"\0")
