"""Optional filter: finds duplicate documents among all corpora, with sorted files instead of an index in memory.

Each document has one key of its whole text and, for near duplicates, one key for each band of its MinHash signature (Broder 1997; banding:
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4). Of the documents that share a key only the first is kept, in the
order of the corpora in the recipe; ranks and restarts do not matter. A rank holds the keys of one part, or one range of keys of all parts.

The result is a list of dropped rows for each part of documents, under `work/duplicates/`; the parts do not change.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from jadeberta.shards import ConfigError
from jadeberta.utils.files import atomic_path
from preprocess.config import DuplicatesConfig
from preprocess.document_files import read_jsonl_zst, write_json
from preprocess.executors.executor import Executor
from preprocess.text import normalise
from preprocess.workdir import SUFFIX, duplicates_dir, duplicates_list, read_duplicates

PERMUTATIONS = 128
"""Largest number of hashes in a signature. 128 tell similarities apart to 0.04 (one standard deviation)."""
SHINGLE = 5
"""Number of characters in each of the overlapping strings whose sets are compared."""
SEED = 42
PARTITION_BYTES = 64 * 2**20
"""Bytes of keys that a rank sorts at once; sorting takes some six times as much memory."""
_EXACT = np.uint64(1)
"""Lowest bit of a key, set in keys of whole texts."""


def bands_for(similarity: float) -> tuple[int, int]:
    """Returns (bands, rows) of a signature: the pair whose threshold (1/bands)^(1/rows) is nearest to a similarity, with the most
    hashes."""
    pairs = [(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS + 1)]
    return min(pairs, key=lambda pair: (round(abs((1 / pair[0]) ** (1 / pair[1]) - similarity), 3), -pair[0] * pair[1]))


def describe(config: DuplicatesConfig) -> list[Any]:
    """Returns all that decides which texts are duplicates.

    Raises:
        ConfigError: near duplicates are wanted and rensa is not installed.
    """
    if config.remove != "near":
        return [config.remove]
    try:
        return [config.remove, config.similarity, PERMUTATIONS, SHINGLE, SEED, version("rensa")]
    except PackageNotFoundError:
        raise ConfigError(
            "preprocess.duplicates.remove is near, which needs rensa, and that is not installed. "
            "Install it with: pip install 'jadeberta[quality]'."
        ) from None


@dataclass(frozen=True)
class _Work:
    """Inputs of the computation, the same on every rank."""

    config: DuplicatesConfig
    parts: list[Path]
    folder: Path
    """Folder for temporary files."""
    digest: str
    """Hash of all that the result depends on."""

    def keys(self, part: Path) -> Path:
        return self.folder / "keys" / f"{part.parent.name}--{_stem(part)}.npy"

    def found(self, partition: int) -> Path:
        return self.folder / f"found-{partition:05d}.npy"


def find(config: DuplicatesConfig, parts: list[Path], executor: Executor) -> None:
    """Writes the list of duplicate rows of each part; finished lists of the same parts and settings are kept.

    Args:
        config: says which documents are duplicates.
        parts: parts of documents of all corpora; of some duplicates the first in this order is kept. The same on every rank.
        executor: the ranks that share the work.
    """
    if not parts:
        return
    digest = _digest(config, parts)
    work = _Work(config, parts, duplicates_dir(parts[0]) / digest, digest)
    if executor.run_on_root(lambda: all(_is_done(part, digest) for part in parts)):
        return
    # Three calls of map, each of which ends on all ranks before the next begins: every step reads all files of the last.
    executor.map(parts, partial(_write_keys, work), lambda part: part.stat().st_size)
    count = executor.run_on_root(lambda: 1 + sum(work.keys(part).stat().st_size for part in parts) // PARTITION_BYTES)
    executor.map(range(count), partial(_find_in_partition, work, count))
    executor.map(range(len(parts)), partial(_write_list, work, count), lambda number: parts[number].stat().st_size)
    executor.run_on_root(lambda: shutil.rmtree(work.folder, ignore_errors=True))


def forget(parts: list[Path]) -> None:
    """Removes the lists of an earlier run, so that all documents are kept."""
    for part in parts:
        duplicates_list(part).unlink(missing_ok=True)


def _digest(config: DuplicatesConfig, parts: list[Path]) -> str:
    return xxhash.xxh64_hexdigest(
        orjson.dumps([describe(config), [[part.parent.name, part.name, part.stat().st_size] for part in parts]])
    )


def _write_keys(work: _Work, part: Path) -> None:
    if work.keys(part).is_file():
        return
    found: list[tuple[int, int]] = []
    for row, document in enumerate(read_jsonl_zst(part)):
        text = normalise(document["text"])
        # The lowest bit separates keys of whole texts from keys of bands, so that they never collide.
        found.append((xxhash.xxh3_64_intdigest(text.encode()) | 1, row))
        if work.config.remove == "near":
            found += [(key, row) for key in _band_keys(text, work.config.similarity)]
    keys = np.array(found, "<u8").reshape(-1, 2)
    _save(work.keys(part), np.ascontiguousarray(keys[np.argsort(keys[:, 0], kind="stable")].T))


def _band_keys(text: str, similarity: float) -> list[int]:
    """Returns a key for each band of a text's signature; none for a text too short to have a shingle."""
    from rensa import RMinHash

    # Short texts are compared as wholes only.
    if len(text) < SHINGLE:
        return []
    bands, rows = bands_for(similarity)
    signature = RMinHash(num_perm=bands * rows, seed=SEED)
    signature.update([text[start : start + SHINGLE] for start in range(len(text) - SHINGLE + 1)])
    words = np.asarray(signature.digest(), "<u4").reshape(bands, rows)
    return [xxhash.xxh3_64_intdigest(band.tobytes(), seed=number) & ~1 for number, band in enumerate(words)]


def _find_in_partition(work: _Work, count: int, partition: int) -> None:
    """Writes the documents that share a key of one range with an earlier one, as sorted numbers: part << 33 | row << 1 | same text."""
    if work.found(partition).is_file():
        return
    # The last value of a range and not the first of the next: 2**64 does not fit into uint64.
    bounds = np.array([2**64 * partition // count, 2**64 * (partition + 1) // count - 1], "<u8")
    spans = []
    for number, part in enumerate(work.parts):
        # Mapped: only the pages of this range of keys are read.
        found = np.load(work.keys(part), mmap_mode="r")  # uint64 [2, keys]: keys in order, and of each its row
        first, last = np.searchsorted(found[0], bounds[:1])[0], np.searchsorted(found[0], bounds[1:], side="right")[0]
        span = np.array(found[:, first:last])
        span[1] = (number << 33) + (span[1] << np.uint64(1))
        spans.append(span)
    key, document = np.concatenate(spans, axis=1)
    order = np.argsort(key, kind="stable")  # of equals the first document first
    key, document = key[order], document[order]
    # Every document after the first with its key is a duplicate, even if that first one is dropped itself.
    again = np.flatnonzero(key[1:] == key[:-1]) + 1
    _save(work.found(partition), np.unique(document[again] | (key[again] & _EXACT)))


def _write_list(work: _Work, count: int, number: int) -> None:
    part = work.parts[number]
    if _is_done(part, work.digest):
        return
    found = [np.load(work.found(partition), mmap_mode="r") for partition in range(count)]
    spans = [np.searchsorted(numbers, np.array([number << 33, (number + 1) << 33], "<u8")) for numbers in found]
    mine = np.concatenate([numbers[first:last] for numbers, (first, last) in zip(found, spans, strict=True)])
    rows = np.unique(mine >> np.uint64(1) & np.uint64(2**32 - 1)).tolist()
    same = len(np.unique(mine[(mine & _EXACT) > 0]))
    documents = dict(enumerate(read_jsonl_zst(part))) if rows else {}
    write_json(
        duplicates_list(part),
        {
            "digest": work.digest,
            "rows": rows,
            "ids": [documents[row]["id"] for row in rows],
            "bytes": sum(len(documents[row]["text"].encode()) for row in rows),
            "dropped": {name: n for name, n in (("duplicate", same), ("near duplicate", len(rows) - same)) if n},
        },
    )


def _is_done(part: Path, digest: str) -> bool:
    listed = read_duplicates(part)
    return listed is not None and listed["digest"] == digest


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        np.save(f, array)


def _stem(part: Path) -> str:
    return part.name.removesuffix(SUFFIX)
