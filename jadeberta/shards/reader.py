"""Random access to the rows of a shard directory by index, through the block offsets in `index.json`.

Promises that no row is served from a file whose size differs from the index, and that a read that fails names the file.
Reads with pread: a shard on a failing network disk gives an error here, where a memory map would kill the process.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import numpy as np

from jadeberta.errors import ShardError
from jadeberta.shards.index import ShardEntry, ShardIndex, find_index

OPEN_FILES = 128


class ShardReader:
    """Rows of one split of a shard directory, every corpus once, in the order of the index.

    `len(reader)` rows; `reader[i] -> (tokens, documents)`, both uint16 [512].
    """

    def __init__(self, directory: str | Path, split: Literal["train", "valid"] = "train") -> None:
        """Raises ShardError where the index is unusable, or a file is missing or of another size than the index says."""
        self.index_path = find_index(directory)
        self.directory = self.index_path.parent
        self.index = ShardIndex.load(self.index_path)
        self.split = split
        self.corpora: dict[str, range] = {}
        """Rows of each corpus."""
        self._files: list[Path] = []
        starts, block_file, block_tokens, block_documents = [0], [], [], []
        for name, corpus in self.index.corpora.items():
            entries: list[ShardEntry] = getattr(corpus, split)
            first = starts[-1]
            for entry in entries:
                path = self.directory / entry.file
                _check_size(path, entry)
                self._files.append(path)
                for sequences, tokens_offset, documents_offset in entry.blocks:
                    starts.append(starts[-1] + sequences)
                    block_file.append(len(self._files) - 1)
                    block_tokens.append(tokens_offset)
                    block_documents.append(documents_offset)
            self.corpora[name] = range(first, starts[-1])
        self._starts = np.asarray(starts, dtype=np.int64)
        self._block_file, self._block_tokens, self._block_documents = block_file, block_tokens, block_documents
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def sequence_length(self) -> int:
        return self.index.sequence_length

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        tokens, documents = self.rows(np.asarray([row + len(self) if row < 0 else row]))
        return tokens[0], documents[0]

    def rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and document numbers of some rows, each uint16 [len(rows), 512].

        Raises:
            IndexError: a row is out of range.
            ShardError: a file cannot be read in full, or holds what no tokenizer wrote; names the file and the place.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.min()}..{rows.max()} of {len(self)}")
        out = np.empty((2, len(rows), self.sequence_length), dtype="<u2")
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        size = self.sequence_length * 2
        for i, (row, block) in enumerate(zip(rows.tolist(), blocks.tolist(), strict=True)):
            within = (row - int(self._starts[block])) * size
            self._read_into(out[0, i], self._block_file[block], self._block_tokens[block] + within)
            self._read_into(out[1, i], self._block_file[block], self._block_documents[block] + within)
        if out[0].max(initial=0) >= self.index.vocab_size:
            first = int(np.flatnonzero((out[0] >= self.index.vocab_size).any(axis=1))[0])
            path = self._files[self._block_file[int(blocks[first])]]
            raise ShardError(
                f"{path}: row {int(rows[first])} holds a token beyond the vocabulary of {self.index.vocab_size}; the file was changed. "
                "Run 'python -m preprocess verify', then restore it."
            )
        return out[0], out[1]

    def _read_into(self, row: np.ndarray, file: int, offset: int) -> None:
        try:
            read = os.preadv(self._descriptor(file), [row.view(np.uint8).data], offset)
        except OSError as e:
            problem = f"reading at byte {offset} failed ({e.strerror})"
            raise ShardError(f"{self._files[file]}: {problem}. Check the disk, then verify.") from e
        if read != row.nbytes:
            raise ShardError(f"{self._files[file]}: ends before byte {offset + row.nbytes}. Restore it, then verify.")

    def _descriptor(self, file: int) -> int:
        if file in self._descriptors:
            self._descriptors.move_to_end(file)
            return self._descriptors[file]
        while len(self._descriptors) >= OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[file] = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[file]

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()


def open_shards(directory: str | Path, split: Literal["train", "valid"] = "train") -> ShardReader:
    """Opens a shard directory for reading by row index. Raises ShardError."""
    return ShardReader(directory, split)


def _check_size(path: Path, entry: ShardEntry) -> None:
    try:
        size = path.stat().st_size
    except OSError as e:
        raise ShardError(f"{path}: {e.strerror}. It is listed in index.json; run 'python -m preprocess pack' again.") from e
    if size != entry.bytes:
        remedy = "Restore it or run 'python -m preprocess pack' again."
        raise ShardError(f"{path}: {size} bytes, index.json says {entry.bytes}. {remedy}")
