"""Random access to the rows of a shard directory by index, through the block offsets in `index.json`.

Promises that a row is served as it was written or not at all: opening a directory checks every file's size and the sha256 of its
checksums, and reading checks every row by its checksum. Damage is an error that names file, row and byte, or is excluded and recorded.
Trouble of the process or of a file system that does not answer is never taken for damage: it is waited for, then a ResourceError.
Reads rows with pread: a shard on a failing network disk gives an error here. The checksums alone are memory maps, so that the processes of
a host share them; where the system cannot read such a file back any more, SIGBUS ends the process.
"""

import mmap
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from jadeberta.errors import ShardError
from jadeberta.shards.checksums import CHECKSUM_BYTES, checksums_path, map_checksums
from jadeberta.shards.index import WORD_START, ShardEntry, ShardIndex, find_index
from jadeberta.shards.index_checks import outer_block
from jadeberta.shards.open_files import OpenFiles, retry_io
from jadeberta.shards.row_format import DOCUMENT_DTYPE, RowFormat

MAPPED_FILES = 16384
"""Files of checksums that are mapped; those of further shards are read with each row. Linux lets a process have 65,530 maps."""
REMEDY = "Restore it or run 'python -m preprocess pack' again; data.damaged: exclude trains without what is damaged."

Damaged = Literal["stop", "exclude", "set_aside"]
"""What a reader does about damage: stop raises, exclude serves padding and records it. set_aside is the old spelling of exclude."""


@dataclass(frozen=True)
class ExcludedRows:
    """Record of rows that are excluded because they are damaged: one row that was requested, or all rows of a shard.

    The field names are keys of the ledger event `set_aside`.
    """

    file: str
    """Name of the tar in its directory."""
    row: int
    """Number of the first excluded row in the file, from 0."""
    offset: int
    """Byte at which that row's tokens start in the file; 0 for a whole shard."""
    reason: str
    """Sentence that says how the damage was seen."""
    sequences: int = 1
    """Number of excluded rows."""
    whole_shard: bool = False
    """All rows of the shard are excluded. True in the record of a single row too, where it was requested from an excluded shard."""


class _DamagedRow(Exception):
    """A row is not what was written; the message says how that was seen."""


class ShardReader:
    """Rows of one split of a shard directory, every corpus once, in the order of the index.

    `len(reader)` is the number of rows; `reader[i]` gives `(tokens, documents)`, each [length]: tokens of the index's `token_dtype`,
    documents uint16. With damaged="exclude" a damaged row is served as padding (the pad id, document number 0), and every other row
    keeps its number.
    """

    def __init__(
        self,
        directory: str | Path,
        split: Literal["train", "valid"] = "train",
        damaged: Damaged = "stop",
        sequence_length: int | None = None,
    ) -> None:
        """Opens the directory and checks the size of every tar and the sha256 of its checksums.

        Args:
            directory: holds `index.json`, itself or in `shards/`.
            split: train, or the held-out rows.
            damaged: stop raises at damage; exclude serves damaged rows as padding and records them.
            sequence_length: shows the rows of this length alone; None: the directory's only or first length.

        Raises:
            ShardError: the index cannot be used; no rows have this length; a tar is missing or has another size; or its checksums are
                missing or not those of the index. One such shard is enough with damaged="stop"; with "exclude" only when no shard can
                be used.
            ResourceError: the process lacks descriptors or memory, or the file system does not answer.
        """
        self.index_path = find_index(directory)
        self.directory = self.index_path.parent
        self._whole = index = ShardIndex.load(self.index_path)
        try:
            self.index = index.of_length(index.sequence_length if sequence_length is None else sequence_length)
            """Index of the rows of the chosen length."""
        except ValueError as e:
            raise ShardError(f"{self.index_path}: {e}. Choose one of these, or add it to preprocess.sequence_length.") from e
        self._rows_as = self.index.row_format()
        # Kept here too: looking them up would take 7% of the time of reading one row.
        self._row_bytes = (self._rows_as.token_bytes, self._rows_as.document_bytes)
        self._token_dtype, self._length = self._rows_as.dtype, self._rows_as.length
        self.split: Literal["train", "valid"] = split
        self.damaged: Literal["stop", "exclude"] = "stop" if damaged == "stop" else "exclude"
        self.corpora: dict[str, range] = {}
        """Row numbers of each corpus."""
        self.excluded: list[ExcludedRows] = []
        """Rows excluded since the last `take_excluded`, in the order of the requests."""
        self.excluded_shards: list[ExcludedRows] = []
        """Shards that this process excluded as a whole."""
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
        # Kept twice: lists are fast for one row, arrays for many.
        self._start_list = starts
        self._block_files, self._block_firsts = np.asarray(block_file, np.int64), np.asarray(block_first, np.int64)
        self._token_offsets, self._document_offsets = np.asarray(block_tokens, np.int64), np.asarray(block_documents, np.int64)
        tars = [self.directory / entry.file for entry in self._entries]
        self._files = [*tars, *map(checksums_path, tars)]
        self._checksums: list[np.ndarray | None] = [None] * len(tars)
        self._open_files = OpenFiles(self._files)
        # One byte a shard, 1 where it is excluded, in memory shared with loader processes forked from here: they see later additions.
        self._is_excluded = mmap.mmap(-1, max(1, len(tars)))
        self._check_files()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def sequence_length(self) -> int:
        """Tokens in a row."""
        return self.index.sequence_length

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        row = int(row) + len(self) * (row < 0)
        if 0 <= row < len(self) and (found := self._read_sound_row(row)) is not None:
            return found[0], self._without_word_starts(found[1])
        tokens, documents = self.rows(np.asarray([row]))
        return tokens[0], documents[0]

    def rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and document numbers of some rows, each [len(rows), length]; raises the errors of `rows_with_words`."""
        tokens, documents, _ = self.rows_with_words(rows)
        return tokens, documents

    def rows_with_words(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Tokens (of `token_dtype`) and document numbers (uint16) of some rows, each [len(rows), length], and where words start.

        The last is bool of the same shape where the shards record word starts (`ShardIndex.word_starts` is documents), and None
        where the pieces show them.

        Raises:
            IndexError: a row is out of range.
            ShardError: with damaged="stop", a file cannot be read in full or a row is not as written; names file, row and byte.
            ResourceError: the process lacks descriptors or memory, or the file system does not answer.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.min()}..{rows.max()} of {len(self)}")
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - self._starts[blocks]
        found = self._read_sound(blocks, within)
        if found is None:
            found = self._read_with_care(list(zip(blocks.tolist(), within.tolist(), strict=True)))
        tokens, documents = found
        starts = (documents & WORD_START) != 0 if self.index.word_starts == "documents" else None
        return tokens, self._without_word_starts(documents), starts

    def _without_word_starts(self, documents: np.ndarray) -> np.ndarray:
        return documents & (WORD_START - 1) if self.index.word_starts == "documents" else documents

    def _read_sound(self, blocks: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Tokens and document numbers where all rows are sound and have a checksum in memory; None where one needs a closer look.

        The fast path: one hash per row and one comparison for all. It does not find out what is wrong; `_read_with_care` does.
        """
        token_bytes, document_bytes = self._row_bytes
        parts = [b""] * (2 * len(blocks))
        files, place = self._block_files[blocks], self._block_firsts[blocks] + within
        first, second = (
            self._token_offsets[blocks] + within * token_bytes,
            self._document_offsets[blocks] + within * document_bytes,
        )
        wanted = np.empty(len(blocks), "<u8")
        for file in np.unique(files).tolist():
            mine, checksums = np.flatnonzero(files == file), self._checksums[file]
            if checksums is None or self._is_excluded[file]:
                return None
            wanted[mine] = checksums[place[mine]]
            try:
                descriptor = self._open_files.descriptor(file)
                for i, tokens, documents in zip(mine.tolist(), first[mine].tolist(), second[mine].tolist(), strict=True):
                    parts[2 * i] = os.pread(descriptor, token_bytes, tokens)
                    parts[2 * i + 1] = os.pread(descriptor, document_bytes, documents)
            except OSError:
                return None
        raw, size = bytearray().join(parts), token_bytes + document_bytes
        view = memoryview(raw)
        found = [xxhash.xxh3_64_intdigest(view[start : start + size]) for start in range(0, len(raw), size)]
        # A truncated file gives short reads, and each of them moves all rows after it to a wrong place.
        if len(raw) != size * len(blocks) or found != wanted.tolist():
            return None
        ids, numbers = self._rows_as.split(np.frombuffer(raw, np.uint8).reshape(len(blocks), size))
        return None if ids.max(initial=0) >= self.index.vocab_size else (ids, numbers)

    def _read_sound_row(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """One row as `_read_sound` gives it, in a third of the time that numpy takes for one."""
        token_bytes, document_bytes = self._row_bytes
        block = bisect_right(self._start_list, row) - 1
        file, within = self._block_file[block], row - self._start_list[block]
        if (checksums := self._checksums[file]) is None or self._is_excluded[file]:
            return None
        try:
            descriptor = self._open_files.descriptor(file)
            raw = bytearray(os.pread(descriptor, token_bytes, self._block_tokens[block] + within * token_bytes))
            raw += os.pread(descriptor, document_bytes, self._block_documents[block] + within * document_bytes)
        except OSError:
            return None
        if len(raw) != token_bytes + document_bytes or xxhash.xxh3_64_intdigest(raw) != checksums.item(
            self._block_first[block] + within
        ):
            return None
        ids, numbers = np.frombuffer(raw, self._token_dtype, self._length), np.frombuffer(raw, DOCUMENT_DTYPE, -1, token_bytes)
        return None if ids.max() >= self.index.vocab_size else (ids, numbers)

    def _read_with_care(self, places: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Rows as `_read_sound` gives them, by (block, row in it), one by one: a damaged row is an error or becomes padding."""
        raw = np.empty((len(places), self._rows_as.token_bytes + self._rows_as.document_bytes), np.uint8)
        ids, numbers = self._rows_as.split(raw)
        for i, (block, within) in enumerate(places):
            try:
                self._read_row(raw[i].data, block, within)
            except _DamagedRow as e:
                ids[i], numbers[i] = self.index.special_tokens.pad, 0
                self._exclude(block, within, str(e))
        if ids.max(initial=0) >= self.index.vocab_size:
            # A row without a checksum can still be wrong; an id beyond the vocabulary would index the embedding out of bounds.
            for i in np.flatnonzero((ids >= self.index.vocab_size).any(axis=1)).tolist():
                ids[i], numbers[i] = self.index.special_tokens.pad, 0
                self._exclude(*places[i], f"a token is beyond the vocabulary of {self.index.vocab_size}")
        return ids, numbers

    def take_excluded(self) -> list[ExcludedRows]:
        """Returns the records in `excluded` and empties it."""
        taken, self.excluded = self.excluded, []
        return taken

    def fingerprint_of(self, sequence_length: int) -> str:
        """Returns the fingerprint of the rows of a length that the directory has: what `index.fingerprint` is for the chosen one."""
        return self._whole.of_length(sequence_length).fingerprint

    def holds(self, file: str) -> bool:
        """Whether a tar is one of this split with rows of the chosen length."""
        return any(entry.file == file for entry in self._entries)

    def exclude_shard(self, file: str, reason: str) -> bool:
        """Excludes a shard of this split from now on, also in processes forked from this one; False where it was excluded before.

        Args:
            file: name of the tar in the directory.
            reason: sentence that says what is wrong with it.
        """
        number = [entry.file for entry in self._entries].index(file)
        if self._is_excluded[number]:
            return False
        self.excluded_shards.append(ExcludedRows(file, 0, 0, reason, self._entries[number].sequences, whole_shard=True))
        self._is_excluded[number] = 1
        return True

    def close(self) -> None:
        """Closes the open tar files; a later read opens them again."""
        self._open_files.close()

    def __del__(self) -> None:
        if hasattr(self, "_open_files"):  # absent where __init__ raised early
            self.close()

    def _check_files(self) -> None:
        """Checks what can be seen without reading the tars, and maps the checksums."""
        for number, entry in enumerate(self._entries):
            try:
                _check_file(self._files[number], entry, self._rows_as)
                if entry.sums_sha256:
                    checksums = map_checksums(self._files[number], entry)
                    if len(checksums) != entry.sequences:
                        raise ShardError(
                            f"{self._files[number]}: {entry.sequences} sequences and {len(checksums)} checksums in index.json."
                        )
                    self._checksums[number] = checksums if number < MAPPED_FILES else None
            except ShardError as e:
                if self.damaged == "stop":
                    raise ShardError(f"{e} {REMEDY}") from e
                self.exclude_shard(entry.file, str(e))
        if self._entries and len(self.excluded_shards) == len(self._entries):
            first = self.excluded_shards[0].reason
            raise ShardError(
                f"{self.directory}: none of its {len(self._entries)} {self.split} shards can be used. {first} Restore them."
            )

    def _read_row(self, into: memoryview, block: int, within: int) -> None:
        """Reads a row (its tokens, then their document numbers) into memory and compares its checksum."""
        file = self._block_file[block]
        if self._is_excluded[file]:
            # The record lies in the process that excluded the shard; a loader process sees only the shared flag.
            raise _DamagedRow(next((s.reason for s in self.excluded_shards if s.file == self._entries[file].file), "excluded"))
        token_bytes, document_bytes = self._row_bytes
        self._read(file, into[:token_bytes], self._block_tokens[block] + within * token_bytes)
        self._read(file, into[token_bytes:], self._block_documents[block] + within * document_bytes)
        if self._entries[file].sums_sha256:
            found, wanted = xxhash.xxh3_64_intdigest(into), self._checksum(file, self._block_first[block] + within)
            if found != wanted:
                name = checksums_path(self._files[file]).name
                raise _DamagedRow(f"it was changed: its checksum is {found:016x}, {name} says {wanted:016x}")

    def _checksum(self, file: int, row: int) -> int:
        if (checksums := self._checksums[file]) is not None:
            return checksums[row].item()
        content = bytearray(CHECKSUM_BYTES)
        self._read(len(self._entries) + file, memoryview(content), row * CHECKSUM_BYTES)
        return int.from_bytes(content, "little")

    def _read(self, file: int, into: memoryview, offset: int) -> None:
        try:
            read = self._open_files.read(file, into, offset)
        except OSError as e:
            raise _DamagedRow(f"reading {self._files[file].name} at byte {offset} failed ({e.strerror})") from e
        if read != len(into):
            raise _DamagedRow(f"{self._files[file].name} ends before byte {offset + len(into)}")

    def _exclude(self, block: int, within: int, reason: str) -> None:
        """Records a row that is served as padding; raises ShardError where damage stops the run."""
        file = self._block_file[block]
        record = ExcludedRows(
            self._entries[file].file,
            self._block_first[block] + within,
            self._block_tokens[block] + within * self._rows_as.token_bytes,
            reason,
            whole_shard=bool(self._is_excluded[file]),
        )
        if self.damaged == "stop":
            raise ShardError(f"{self._files[file]}: row {record.row}, its tokens at byte {record.offset}: {reason}. {REMEDY}")
        self.excluded.append(record)


def open_shards(
    directory: str | Path,
    split: Literal["train", "valid"] = "train",
    damaged: Damaged = "stop",
    sequence_length: int | None = None,
) -> ShardReader:
    """Opens a shard directory for reading by row number.

    Args:
        directory: holds `index.json`, itself or in `shards/`.
        split: train, or the held-out rows.
        damaged: stop raises at damage; exclude serves damaged rows as padding and records them.
        sequence_length: shows the rows of this length alone; None: the directory's only or first length.

    Raises:
        ShardError, ResourceError: the index or the shards cannot be used; see `ShardReader`.
    """
    return ShardReader(directory, split, damaged, sequence_length)


def _check_file(path: Path, entry: ShardEntry, rows_as: RowFormat) -> None:
    """Raises ShardError, without a remedy, where a tar file has not the size and rows of its index entry."""
    try:
        size = retry_io(lambda: path.stat().st_size, f"looking at {path}")
    except OSError as e:
        raise ShardError(f"{path}: {e.strerror}; it is listed in index.json.") from e
    if size != entry.bytes:
        raise ShardError(f"{path}: {size} bytes, index.json says {entry.bytes}.")
    if (rows := sum(rows for rows, *_ in entry.blocks)) != entry.sequences:
        raise ShardError(f"{path}: {entry.sequences} sequences and blocks of {rows} in index.json.")
    if (block := outer_block(entry.blocks, rows_as, size)) is not None:
        raise ShardError(f"{path}: block {block} of index.json ends beyond its {size} bytes.")
