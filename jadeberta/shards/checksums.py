"""Checksums of a shard's rows, kept in a file beside the tar: a reader finds one wrong bit in one row without reading the others.

`<shard>.sums` holds for each row, in order, the xxh3_64 of its tokens followed by its document numbers, both as they are stored
(little-endian, `row_format.py`), as a uint64 little-endian. `index.json` holds the sha256 of that file and so covers every row.
"""

import hashlib
from pathlib import Path

import numpy as np
import xxhash

from jadeberta.errors import ShardError
from jadeberta.shards.index import ShardEntry
from jadeberta.shards.open_files import retry_io
from jadeberta.shards.row_format import DOCUMENT_DTYPE, RowFormat
from jadeberta.utils.files import write_atomically
from jadeberta.utils.resources import map_file

CHECKSUM_BYTES = 8


def checksums_path(shard: Path) -> Path:
    """Path of the file that holds the row checksums of a tar file."""
    return shard.with_suffix(".sums")


def row_checksums(tokens: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Checksums of some rows, uint64 [rows]; tokens uint16 or uint32 [rows, length], documents uint16 [rows, length]."""
    parts = [part.astype(part.dtype.newbyteorder("<"), order="C", copy=False).view(np.uint8) for part in (tokens, documents)]
    rows = np.concatenate(parts, axis=1)  # uint8 [rows, bytes]
    return np.fromiter((xxhash.xxh3_64_intdigest(row.data) for row in rows), "<u8", len(rows))


def tar_checksums(shard: Path, entry: ShardEntry, rows_as: RowFormat) -> np.ndarray:
    """Checksums of the rows as they lie in a tar file now, uint64 [rows]; `rows_as` is their format."""
    blocks = [np.empty(0, "<u8")]
    for number in range(len(entry.blocks)):
        blocks.append(row_checksums(*read_block(shard, entry, number, rows_as)))
    return np.concatenate(blocks)


def read_block(shard: Path, entry: ShardEntry, number: int, rows_as: RowFormat) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and document numbers of a block as they lie in a tar file now, each [rows, length]."""
    rows, tokens_offset, documents_offset = entry.blocks[number]
    count, shape = rows * rows_as.length, (rows, rows_as.length)
    tokens = np.fromfile(shard, rows_as.dtype, count, offset=tokens_offset).reshape(shape)
    return tokens, np.fromfile(shard, DOCUMENT_DTYPE, count, offset=documents_offset).reshape(shape)


def write_checksums(shard: Path, checksums: np.ndarray) -> str:
    """Writes the row checksums of a tar file (uint64 [rows]) durably beside it, and returns the sha256 of the written file."""
    path, content = checksums_path(shard), checksums.astype("<u8").tobytes()
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_checksums(shard: Path, entry: ShardEntry) -> np.ndarray:
    """Checksums of a shard's rows, uint64 [rows].

    Raises:
        ShardError: the file cannot be read or is not the one of the index. The sentence names no remedy; callers add theirs.
        ResourceError: the process lacks something, or the file system does not answer.
    """
    return _open_checksums(shard, entry, is_mapped=False)


def map_checksums(shard: Path, entry: ShardEntry) -> np.ndarray:
    """The same as a map of the file, which takes memory once for all processes of a host and no descriptor; raises the same errors.

    Where the file system cannot map files, the checksums are read.
    """
    return _open_checksums(shard, entry, is_mapped=True)


def _open_checksums(shard: Path, entry: ShardEntry, is_mapped: bool) -> np.ndarray:
    path = checksums_path(shard)
    try:
        content, mapped = retry_io(lambda: _read_and_map(path, is_mapped), f"reading {path}")
    except OSError as e:
        raise ShardError(f"{path}: {e.strerror}; it holds the checksums of the rows of {entry.file}.") from e
    if (found := hashlib.sha256(content).hexdigest()) != entry.sums_sha256:
        if len(content) != entry.sequences * CHECKSUM_BYTES:
            expected = f"{entry.sequences} checksums of {CHECKSUM_BYTES} bytes expected"
            raise ShardError(f"{path}: {len(content)} bytes, {expected}.")
        raise ShardError(f"{path}: sha256 differs from index.json (expected {entry.sums_sha256[:12]}…, found {found[:12]}…).")
    return np.frombuffer(content if mapped is None else mapped, "<u8")


def _read_and_map(path: Path, is_mapped: bool) -> tuple[bytes, memoryview | None]:
    """Content of a file, and a map of it where it is asked for and can be had."""
    with open(path, "rb") as f:
        content = f.read()  # and not only mapped: a disk that fails gives an error to a read
        try:
            return content, map_file(f.fileno(), len(content)) if is_mapped and content else None
        except OSError:
            return content, None


def ensure_checksums(shard: Path, entry: ShardEntry, rows_as: RowFormat) -> bool:
    """Rewrites the checksums of a tar file where they are missing or wrong, and updates `entry`; False where they were right.

    Call it only for a tar whose own sha256 was compared with the entry: its rows are taken as right.
    """
    try:
        read_checksums(shard, entry)
    except ShardError:
        entry.sums_sha256 = write_checksums(shard, tar_checksums(shard, entry, rows_as))
        return True
    return False
