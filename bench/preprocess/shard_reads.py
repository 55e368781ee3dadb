"""Training samples at random by index: rows a second that one process reads from shards, with the files in memory and without."""

import os
import time
from pathlib import Path

import numpy as np

from bench.preprocess.measure import Row, median_of
from jadeberta.shards import INDEX_NAME, CorpusEntry, ShardIndex, file_sha256, open_shards, write_shard

ROWS, SHARDS, BATCH = 100_000, 5, 2304
COLD_ROWS = 4608


def measure(work: Path, rounds: int, quick: bool) -> list[Row]:
    """Rows of random tokens in shards as pack writes them, read in batches of 2,304 as a rank of training asks for them."""
    _write(work, ROWS // 10 if quick else ROWS)
    shards, draw = open_shards(work), np.random.default_rng(0)
    orders = [draw.integers(0, len(shards), 40 * BATCH) for _ in range(rounds + 1)]
    batched, single, cold = [], [], []
    for number, order in enumerate(orders):
        began = time.perf_counter()
        for start in range(0, len(order), BATCH):
            shards.rows(order[start : start + BATCH])
        spent = time.perf_counter() - began
        few = order[:20_000].tolist()
        began = time.perf_counter()
        for row in few:
            shards[row]
        if number:  # the first time brings the files into memory
            batched.append(len(order) / spent)
            single.append(len(few) / (time.perf_counter() - began))
    for _ in range(rounds):
        _forget(work)
        order = draw.integers(0, len(shards), COLD_ROWS)
        began = time.perf_counter()
        for start in range(0, len(order), BATCH):
            shards.rows(order[start : start + BATCH])
        cold.append(len(order) / (time.perf_counter() - began))
    size = {"rows": len(shards), "bytes": sum(path.stat().st_size for path in work.glob("*.tar"))}
    return [
        Row("random rows by index, files in memory", median_of(batched), "sequences/s", 300_000, size | {"rounds": batched}),
        Row("the same one by one, shards[i]", median_of(single), "sequences/s", None, size | {"rounds": single}),
        Row("the same by index, files not in memory", median_of(cold), "sequences/s", None, size | {"rounds": cold}),
    ]


def _write(folder: Path, rows: int) -> None:
    draw = np.random.default_rng(1)
    model = folder / "tokenizer" / "spm.model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"stands for a tokenizer")
    entries = []
    for number in range(SHARDS):
        tokens = draw.integers(5, 32_000, (rows // SHARDS, 512), dtype=np.uint16)
        entries.append(write_shard(folder / f"web-{number:05d}.tar", tokens, np.ones_like(tokens), len(tokens), {}))
    index = ShardIndex(512, 32_000, file_sha256(model), {"engine": "none"}, "none", "none", {"web": CorpusEntry(1, entries, [])})
    (folder / INDEX_NAME).write_bytes(index.to_json())


def _forget(folder: Path) -> None:
    """Has the kernel drop what it keeps of the shards in memory."""
    for path in folder.glob("*.tar"):
        # Flushed first: the kernel does not drop pages that are not on the disk yet.
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
