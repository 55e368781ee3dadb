"""Writes one shard: a WebDataset tar of blocks of token rows, and the checksums of the rows beside it.

Promises the same bytes for the same rows. Once the tar has its final name, it and its checksums are complete and on the disk.
Each block is a sample of three members, `<shard>/<first sequence, 10 digits>` with `.bin` (tokens, uint16 or uint32 little-endian, C
order), `.doc` (document numbers, uint16) and `.json` (how the shard was made). Shards of earlier versions have names without `<shard>/`,
and one `meta.json`.
"""

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jadeberta.shards.checksums import row_checksums, write_checksums
from jadeberta.shards.index import ShardEntry
from jadeberta.shards.row_format import DOCUMENT_DTYPE, RowFormat
from jadeberta.utils.files import file_sha256, naming, sync_directory

SEQUENCE_LENGTH = 512
BLOCK_SEQUENCES = 1000


def write_shard(
    path: Path,
    tokens: np.ndarray,
    documents: np.ndarray,
    document_count: int,
    meta: dict[str, Any],
    sequence_length: int = SEQUENCE_LENGTH,
) -> ShardEntry:
    """Writes rows as one tar file with its checksums and returns its index entry.

    Args:
        path: final name; the tar appears there by rename, after its checksums.
        tokens: token ids, [sequences, sequence_length] uint16 or uint32; they are stored as they come.
        documents: number of the document within its row, uint16 of the same shape, 0 = padding, from 1.
        document_count: number of documents that the rows were cut from.
        meta: content of `.json` in every sample.
        sequence_length: tokens in a row.

    Raises:
        ValueError: shapes or dtypes differ from these.
    """
    if tokens.ndim != 2 or tokens.shape[1] != sequence_length or tokens.shape != documents.shape:
        raise ValueError(f"rows of {sequence_length} expected, got tokens {tokens.shape} and documents {documents.shape}")
    if tokens.dtype not in (np.uint16, np.uint32) or documents.dtype != np.uint16:
        raise ValueError(f"uint16 or uint32 and uint16 expected, got tokens {tokens.dtype} and documents {documents.dtype}")
    rows_as = RowFormat(sequence_length, "uint16" if tokens.dtype == np.uint16 else "uint32")
    from webdataset.writer import TarWriter  # imports torch, which those who only read or hash shards need not wait for

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    checksums = [np.empty(0, "<u8")]
    # Sorted keys: the order in which `meta` was built must not change the bytes.
    described = orjson.dumps(meta, option=orjson.OPT_SORT_KEYS)
    try:
        with naming(path), open(temporary, "wb") as f:
            # A fixed time and owner: the same rows must give the same bytes.
            with TarWriter(f, user="", group="", mode=0o644, mtime=0.0) as tar:
                for first in range(0, len(tokens), BLOCK_SEQUENCES):
                    rows = slice(first, first + BLOCK_SEQUENCES)
                    # WebDataset joins members into one sample where their names are equal up to the dot. A program that asks for some
                    # parts of each sample must find them in all, so the metadata is no sample of its own; keys are unique in all tars.
                    tar.write(
                        {
                            "__key__": f"{path.stem}/{first:010d}",
                            "bin": tokens[rows].astype(rows_as.dtype).tobytes(),
                            "doc": documents[rows].astype(DOCUMENT_DTYPE).tobytes(),
                            "json": described,
                        }
                    )
                    checksums.append(row_checksums(tokens[rows], documents[rows]))
            f.flush()
            os.fsync(f.fileno())
        entry = ShardEntry(
            file=path.name,
            sequences=len(tokens),
            documents=document_count,
            tokens=int(np.count_nonzero(documents)),
            bytes=temporary.stat().st_size,
            sha256=file_sha256(temporary),
            blocks=list_blocks(temporary, rows_as),
        )
        # Before the tar: a tar under its final name always has its checksums, wherever a kill falls.
        entry.sums_sha256 = write_checksums(path, np.concatenate(checksums))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return entry


def list_blocks(path: Path, rows_as: RowFormat) -> list[list[int]]:
    """Lists the blocks of a tar file: sequences, offset of the tokens, offset of the document numbers (bytes from the file's start)."""
    blocks: dict[str, list[int]] = {}
    # "r:" refuses a compressed tar, whose offsets would not be those of the file on the disk.
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.rpartition(".")
            if extension == "bin":
                blocks[key] = [member.size // rows_as.token_bytes, member.offset_data, -1]
            elif extension == "doc" and key in blocks:
                blocks[key][2] = member.offset_data
    return [blocks[key] for key in sorted(blocks)]
