"""The sums of a shard's rows, kept beside its tar: with them a reader sees one wrong bit in one row without reading the rest.

`<shard>.sums` holds for each row, in order, the xxh3_64 of its tokens followed by its document numbers, both as they are stored
(uint16 little-endian), as a uint64 little-endian. `index.json` holds the sha256 of that file, and so vouches for every row.
"""

import hashlib
from pathlib import Path

import numpy as np
import xxhash

from jadeberta.errors import ShardError
from jadeberta.shards.index import ShardEntry
from jadeberta.utils.files import write_atomically

SUM_BYTES = 8


def sums_path(shard: Path) -> Path:
    """Where the sums of a tar file are."""
    return shard.with_suffix(".sums")


def row_sums(tokens: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Sums of some rows, uint64 [rows]; both arguments uint16 [rows, length]."""
    rows = np.stack([tokens, documents], axis=1).astype("<u2", copy=False).view(np.uint8)  # [rows, 2, 2 * length]
    return np.fromiter((xxhash.xxh3_64_intdigest(row.data) for row in rows), "<u8", len(rows))


def sums_of_tar(shard: Path, entry: ShardEntry, length: int) -> np.ndarray:
    """Sums of the rows as they lie in a tar file now, uint64 [rows]."""
    blocks = [np.empty(0, "<u8")]
    for rows, tokens_offset, documents_offset in entry.blocks:
        tokens = np.fromfile(shard, "<u2", rows * length, offset=tokens_offset).reshape(rows, length)
        documents = np.fromfile(shard, "<u2", rows * length, offset=documents_offset).reshape(rows, length)
        blocks.append(row_sums(tokens, documents))
    return np.concatenate(blocks)


def write_sums(shard: Path, sums: np.ndarray) -> str:
    """Writes the sums of a tar file beside it, on the disk under their name when this returns; gives the file's sha256."""
    path, content = sums_path(shard), sums.astype("<u8").tobytes()
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_sums(shard: Path, entry: ShardEntry) -> np.ndarray:
    """The sums of a shard's rows, uint64 [rows]. Raises ShardError, without a remedy, where they are not those of the index."""
    path = sums_path(shard)
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ShardError(f"{path}: {e.strerror}; it holds the sums of the rows of {entry.file}.") from e
    if (found := hashlib.sha256(content).hexdigest()) != entry.sums_sha256:
        if len(content) != entry.sequences * SUM_BYTES:
            raise ShardError(f"{path}: {len(content)} bytes, {entry.sequences} sums of {SUM_BYTES} bytes expected.")
        raise ShardError(f"{path}: sha256 differs from index.json (expected {entry.sums_sha256[:12]}…, found {found[:12]}…).")
    return np.frombuffer(content, "<u8")


def ensure_sums(shard: Path, entry: ShardEntry, length: int) -> bool:
    """Makes the sums of a tar file anew where they are missing or wrong, and enters them in `entry`; false where they were right.

    For a tar that is known to be the one of the entry: its rows are believed.
    """
    try:
        read_sums(shard, entry)
    except ShardError:
        entry.sums_sha256 = write_sums(shard, sums_of_tar(shard, entry, length))
        return True
    return False
