"""Random access to the rows of a shard directory by index, through the block offsets in `index.json`.

Promises that a row is served as it was written or not at all: files are checked by size, their sums by sha256 when the directory is
opened, every row by its sum when it is read. What fails is an error that names file, row and byte, or is left out and recorded.
Reads with pread: a shard on a failing network disk gives an error here, where a memory map would kill the process.
"""

import mmap
import os
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from jadeberta.errors import ShardError
from jadeberta.shards.checksums import SUM_BYTES, read_sums, sums_path
from jadeberta.shards.index import WORD_START, ShardEntry, ShardIndex, find_index

OPEN_FILES = 256
SUMS_IN_MEMORY = 2**30
"""Bytes of sums that a reader keeps, 134 million rows; those of further shards are read with each row, which costs an open file too."""
REMEDY = "Restore it or run 'python -m preprocess pack' again; data.damaged: set_aside trains without what is damaged."

Damaged = Literal["stop", "set_aside"]


@dataclass(frozen=True)
class SetAside:
    """Rows that are left out because they are damaged: one that was asked for, or all of a shard."""

    file: str
    """The tar's name in the directory."""
    row: int
    """In the file, from 0; the first one."""
    offset: int
    """Byte of that row's tokens in the file; 0 for a whole shard."""
    reason: str
    sequences: int = 1
    whole_shard: bool = False
    """All of the shard is left out. Of a row: it was asked for, and its shard's own record says the same."""


class _DamagedRow(Exception):
    """A row is not what was written; the message says how that was seen."""


class ShardReader:
    """Rows of one split of a shard directory, every corpus once, in the order of the index.

    `len(reader)` rows; `reader[i] -> (tokens, documents)`, both uint16 [512]. With damaged="set_aside" a damaged row is one of
    padding (zeros), and no other row has another number for it.
    """

    def __init__(self, directory: str | Path, split: Literal["train", "valid"] = "train", damaged: Damaged = "stop") -> None:
        """Raises ShardError.

        The index is unusable; or a tar is missing or of another size, or its sums are missing or others than the index says: one
        such shard with damaged="stop", all of them with "set_aside".
        """
        self.index_path = find_index(directory)
        self.directory = self.index_path.parent
        self.index = ShardIndex.load(self.index_path)
        self.split, self.damaged = split, damaged
        self.corpora: dict[str, range] = {}
        """Rows of each corpus."""
        self.set_aside: list[SetAside] = []
        """Rows left out since `take_set_aside` was called last, in the order in which they were asked for."""
        self.set_aside_shards: list[SetAside] = []
        """Shards left out as a whole, by this process."""
        self._entries: list[ShardEntry] = []
        starts, block_file, block_first, block_tokens, block_documents = [0], [], [], [], []
        for name, corpus in self.index.corpora.items():
            first = starts[-1]
            for entry in getattr(corpus, split):
                self._entries.append(entry)
                shard_start = starts[-1]
                for sequences, tokens_offset, documents_offset in entry.blocks:
                    block_file.append(len(self._entries) - 1)
                    block_first.append(starts[-1] - shard_start)
                    block_tokens.append(tokens_offset)
                    block_documents.append(documents_offset)
                    starts.append(starts[-1] + sequences)
            self.corpora[name] = range(first, starts[-1])
        self._starts = np.asarray(starts, dtype=np.int64)
        self._block_file, self._block_first = block_file, block_first
        self._block_tokens, self._block_documents = block_tokens, block_documents
        # The same once more: lists are fast for one row, arrays for many.
        self._start_list = starts
        self._block_files, self._block_firsts = np.asarray(block_file, np.int64), np.asarray(block_first, np.int64)
        self._token_offsets, self._document_offsets = np.asarray(block_tokens, np.int64), np.asarray(block_documents, np.int64)
        tars = [self.directory / entry.file for entry in self._entries]
        self._files = [*tars, *map(sums_path, tars)]
        self._sums: list[np.ndarray | None] = [None] * len(tars)
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        # One byte a shard, true where it is left out, in memory that processes forked from here share: they see what is added later.
        self._left_out = mmap.mmap(-1, max(1, len(tars)))
        self._check_files()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def sequence_length(self) -> int:
        return self.index.sequence_length

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        row = int(row) + len(self) * (row < 0)
        if 0 <= row < len(self) and (found := self._read_sound_row(row)) is not None:
            return found[0], self._without_marks(found[1])
        tokens, documents = self.rows(np.asarray([row]))
        return tokens[0], documents[0]

    def rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and document numbers of some rows, each uint16 [len(rows), 512]; raises what `rows_with_words` does."""
        tokens, documents, _ = self.rows_with_words(rows)
        return tokens, documents

    def rows_with_words(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Tokens and document numbers of some rows, each uint16 [len(rows), 512], and where words start.

        The last is bool of the same shape where the shards tell it (`ShardIndex.word_starts`), None where the pieces do.

        Raises:
            IndexError: a row is out of range.
            ShardError: with damaged="stop": a file cannot be read in full, or a row is not what was written; names file and byte.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.min()}..{rows.max()} of {len(self)}")
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - self._starts[blocks]
        out = self._read_sound(blocks, within)
        if out is None:
            out = self._read_with_care(list(zip(blocks.tolist(), within.tolist(), strict=True)))
        tokens, documents = out[:, 0], out[:, 1]
        starts = (documents & WORD_START) != 0 if self.index.word_starts == "documents" else None
        return tokens, self._without_marks(documents), starts

    def _without_marks(self, documents: np.ndarray) -> np.ndarray:
        return documents & (WORD_START - 1) if self.index.word_starts == "documents" else documents

    def _read_sound(self, blocks: np.ndarray, within: np.ndarray) -> np.ndarray | None:
        """Rows [len(blocks), 2, 512] where every one of them is in order and has a sum in memory; None where one needs a closer look."""
        half, parts = 2 * self.sequence_length, [b""] * (2 * len(blocks))
        files, place = self._block_files[blocks], self._block_firsts[blocks] + within
        first, second = (offsets[blocks] + within * half for offsets in (self._token_offsets, self._document_offsets))
        wanted = np.empty(len(blocks), "<u8")
        for file in np.unique(files).tolist():
            mine, sums = np.flatnonzero(files == file), self._sums[file]
            if sums is None or self._left_out[file]:
                return None
            wanted[mine] = sums[place[mine]]
            try:
                descriptor = self._descriptor(file)
                for i, tokens, documents in zip(mine.tolist(), first[mine].tolist(), second[mine].tolist(), strict=True):
                    parts[2 * i] = os.pread(descriptor, half, tokens)
                    parts[2 * i + 1] = os.pread(descriptor, half, documents)
            except OSError:
                return None
        raw = bytearray().join(parts)
        view = memoryview(raw)
        found = [xxhash.xxh3_64_intdigest(view[start : start + 2 * half]) for start in range(0, len(raw), 2 * half)]
        if len(raw) != 2 * half * len(blocks) or found != wanted.tolist():
            return None
        out = np.frombuffer(raw, "<u2").reshape(len(blocks), 2, self.sequence_length)
        return None if out[:, 0].max(initial=0) >= self.index.vocab_size else out

    def _read_sound_row(self, row: int) -> np.ndarray | None:
        """One row [2, 512] as `_read_sound` gives it, in a third of the time that numpy takes for one."""
        block = bisect_right(self._start_list, row) - 1
        file, within, half = self._block_file[block], row - self._start_list[block], 2 * self.sequence_length
        if (sums := self._sums[file]) is None or self._left_out[file]:
            return None
        try:
            descriptor = self._descriptor(file)
            raw = bytearray(os.pread(descriptor, half, self._block_tokens[block] + within * half))
            raw += os.pread(descriptor, half, self._block_documents[block] + within * half)
        except OSError:
            return None
        if len(raw) != 2 * half or xxhash.xxh3_64_intdigest(raw) != sums.item(self._block_first[block] + within):
            return None
        out = np.frombuffer(raw, "<u2").reshape(2, self.sequence_length)
        return None if out[0].max() >= self.index.vocab_size else out

    def _read_with_care(self, places: list[tuple[int, int]]) -> np.ndarray:
        """Rows [len(places), 2, 512] by (block, row in it), one by one: what is damaged is an error or a row of padding."""
        out = np.empty((len(places), 2, self.sequence_length), dtype="<u2")  # tokens, documents: as a row's sum takes them
        raw = out.view(np.uint8).reshape(len(places), 4 * self.sequence_length)
        for i, (block, within) in enumerate(places):
            try:
                self._read_row(raw[i].data, block, within)
            except _DamagedRow as e:
                self._leave_out(out[i], block, within, str(e))
        if out[:, 0].max(initial=0) >= self.index.vocab_size:
            for i in np.flatnonzero((out[:, 0] >= self.index.vocab_size).any(axis=1)).tolist():
                self._leave_out(out[i], *places[i], f"a token is beyond the vocabulary of {self.index.vocab_size}")
        return out

    def take_set_aside(self) -> list[SetAside]:
        """The records in `set_aside`, which is empty afterwards."""
        taken, self.set_aside = self.set_aside, []
        return taken

    def set_shard_aside(self, file: str, reason: str) -> bool:
        """Leaves a shard of this split out from now on, also in processes forked from this one; false where it was left out before.

        Args:
            file: the tar's name in the directory.
            reason: what is wrong with it.
        """
        number = [entry.file for entry in self._entries].index(file)
        if self._left_out[number]:
            return False
        self.set_aside_shards.append(SetAside(file, 0, 0, reason, self._entries[number].sequences, whole_shard=True))
        self._left_out[number] = 1
        return True

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def _check_files(self) -> None:
        """Looks at what can be seen without reading the tars, and takes the sums in."""
        room = SUMS_IN_MEMORY
        for number, entry in enumerate(self._entries):
            try:
                _check_file(self._files[number], entry)
                if entry.sums_sha256:
                    sums = read_sums(self._files[number], entry)
                    if len(sums) != entry.sequences:
                        raise ShardError(
                            f"{self._files[number]}: {entry.sequences} sequences and {len(sums)} sums in index.json."
                        )
                    room -= sums.nbytes
                    self._sums[number] = sums if room >= 0 else None
            except ShardError as e:
                if self.damaged == "stop":
                    raise ShardError(f"{e} {REMEDY}") from e
                self.set_shard_aside(entry.file, str(e))
        if self._entries and len(self.set_aside_shards) == len(self._entries):
            first = self.set_aside_shards[0].reason
            raise ShardError(
                f"{self.directory}: none of its {len(self._entries)} {self.split} shards can be used. {first} Restore them."
            )

    def _read_row(self, into: memoryview, block: int, within: int) -> None:
        """Reads a row and checks it against its sum; a row is 512 tokens and then their document numbers."""
        file = self._block_file[block]
        if self._left_out[file]:
            raise _DamagedRow(next((s.reason for s in self.set_aside_shards if s.file == self._entries[file].file), "left out"))
        half = len(into) // 2
        self._read(file, into[:half], self._block_tokens[block] + within * half)
        self._read(file, into[half:], self._block_documents[block] + within * half)
        if self._entries[file].sums_sha256:
            found, wanted = xxhash.xxh3_64_intdigest(into), self._sum(file, self._block_first[block] + within)
            if found != wanted:
                name = sums_path(self._files[file]).name
                raise _DamagedRow(f"it was changed: its sum is {found:016x}, {name} says {wanted:016x}")

    def _sum(self, file: int, row: int) -> int:
        if (sums := self._sums[file]) is not None:
            return sums[row].item()
        content = bytearray(SUM_BYTES)
        self._read(len(self._entries) + file, content, row * SUM_BYTES)
        return int.from_bytes(content, "little")

    def _read(self, file: int, into: memoryview | bytearray, offset: int) -> None:
        try:
            read = os.preadv(self._descriptor(file), [into], offset)
        except OSError as e:
            raise _DamagedRow(f"reading {self._files[file].name} at byte {offset} failed ({e.strerror})") from e
        if read != len(into):
            raise _DamagedRow(f"{self._files[file].name} ends before byte {offset + len(into)}")

    def _leave_out(self, row: np.ndarray, block: int, within: int, reason: str) -> None:
        """Makes a row [2, 512] one of padding and records that. Raises ShardError where damage shall stop the run."""
        file = self._block_file[block]
        record = SetAside(
            self._entries[file].file,
            self._block_first[block] + within,
            self._block_tokens[block] + within * self.sequence_length * 2,
            reason,
            whole_shard=bool(self._left_out[file]),
        )
        if self.damaged == "stop":
            raise ShardError(f"{self._files[file]}: row {record.row}, its tokens at byte {record.offset}: {reason}. {REMEDY}")
        row[:] = 0
        self.set_aside.append(record)

    def _descriptor(self, file: int) -> int:
        if file in self._descriptors:
            self._descriptors.move_to_end(file)
            return self._descriptors[file]
        while len(self._descriptors) >= OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[file] = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[file]


def open_shards(directory: str | Path, split: Literal["train", "valid"] = "train", damaged: Damaged = "stop") -> ShardReader:
    """Opens a shard directory for reading by row index. Raises ShardError."""
    return ShardReader(directory, split, damaged)


def _check_file(path: Path, entry: ShardEntry) -> None:
    """Raises ShardError, without a remedy."""
    try:
        size = path.stat().st_size
    except OSError as e:
        raise ShardError(f"{path}: {e.strerror}; it is listed in index.json.") from e
    if size != entry.bytes:
        raise ShardError(f"{path}: {size} bytes, index.json says {entry.bytes}.")
    if (rows := sum(rows for rows, *_ in entry.blocks)) != entry.sequences:
        raise ShardError(f"{path}: {entry.sequences} sequences and blocks of {rows} in index.json.")
