"""The shards that one task of the pack stage makes of the same documents: one of each row length, each with its marker.

Promises that the shards of a length are those of a recipe of this length alone, except for the names of further lengths: adding a length
to a recipe leaves the finished shards as they are.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from jadeberta.shards import INDEX_NAME, InputError, RowFormat, ShardEntry, ShardIndex, ensure_checksums, file_sha256, write_shard
from preprocess.document_files import read_json, write_json
from preprocess.tokenization.characters import take_marks as take_character_marks
from preprocess.tokenization.marked_tokens import take_marks
from preprocess.tokenization.packing import EncodedDocument, Rows, best_fit, concatenate
from preprocess.workdir import pack_dir

log = logging.getLogger(__name__)


def name_of_length(name: str, length: int, lengths: tuple[int, ...]) -> str:
    """Returns the name of the shard of one row length.

    Args:
        name: of the shard of the first length; it ends in five digits or more, so that no other shard has a name made here.
        length: the row length.
        lengths: all of them.
    """
    return name if length == lengths[0] else f"{name}-s{length}"


class ShardSet:
    """The shards of one task, by row length."""

    def __init__(
        self,
        out: Path,
        name: str,
        index: ShardIndex,
        lengths: tuple[int, ...],
        about: dict[str, str],
        parts: list[Path],
        heldout: frozenset[str],
    ) -> None:
        """Args:
        out: output directory.
        name: of the shard of the first length, without its suffix.
        index: of the directory; its corpora are not looked at.
        lengths: the row lengths, the index's own first.
        about: further keys of the metadata in the samples.
        parts: files that the documents come from.
        heldout: ids of the corpus's held-out documents.
        """
        self._out, self._index, self._lengths = out, index, lengths
        self._names = {length: name_of_length(name, length, lengths) for length in lengths}
        ids = xxhash.xxh64_hexdigest(orjson.dumps(sorted(heldout)))
        sources: dict[str, Any] = {"parts": [[p.name, file_sha256(p)] for p in parts], "heldout": ids}
        self._settings = {length: {"meta": self._meta(length) | about} | sources for length in lengths}
        """All that a shard depends on; one made under the same settings is kept."""
        self._made: dict[int, ShardEntry] = {}

    @property
    def entries(self) -> list[ShardEntry]:
        """Entries of all lengths, in their order."""
        return [self._made[length] for length in self._lengths]

    def are_finished(self) -> bool:
        """Whether every shard was made under the same settings and is still whole; `write` leaves those that are as they are."""
        for length in self._lengths:
            if (entry := self._finished(length)) is not None:
                self._made[length] = entry
        return len(self._made) == len(self._lengths)

    def write(self, documents: Iterable[EncodedDocument], word_starts: np.ndarray | None) -> None:
        """Writes the shards that are not finished.

        Args:
            documents: read once.
            word_starts: bool [vocabulary], true for tokens that start a word; None where the tokens have marks, or where documents are
                packed one after the other.
        """
        # If the new shard had the size of the old one, an index that still listed the old one would seem valid.
        (self._out / INDEX_NAME).unlink(missing_ok=True)
        missing = [length for length in self._lengths if length not in self._made]
        if len(missing) > 1:
            documents = list(documents)  # encoding takes far longer than packing, so it is done once
        for length in missing:
            pad = self._index.special_tokens.pad
            if self._index.packing == "concat":
                packed = concatenate(documents, length, pad)
            else:
                packed = best_fit(documents, word_starts, length, pad)
            packed = self._store(packed)
            meta = self._settings[length]["meta"] | {"sequences": len(packed.tokens), "documents": packed.documents}
            path = self._out / f"{self._names[length]}.tar"
            entry = write_shard(path, packed.tokens, packed.numbers, packed.documents, meta, length)
            entry.sequence_length = None if length == self._index.sequence_length else length
            self._made[length] = entry
            log.info("%s: %d documents, %d sequences", path.name, entry.documents, entry.sequences)

    def _store(self, rows: Rows) -> Rows:
        """Moves marks of word starts to where shards have them."""
        if self._index.word_starts != "documents":
            return rows
        return take_marks(rows, self._index.token_dtype) if rows.tokens.dtype == np.uint32 else take_character_marks(rows)

    def mark(self) -> None:
        """Writes the markers, by which a later run knows the shards."""
        for length in self._lengths:
            self._mark(length)

    def _meta(self, length: int) -> dict[str, Any]:
        """Keys that the index and the samples of every shard of a length share: those of a directory of this length alone."""
        # Without the hashes of the tokenizer's other files: a shard's bytes do not hang on them.
        fields = replace(self._index, sequence_length=length, corpora={}, tokenizer_files={}).document()
        return {key: value for key, value in fields.items() if key != "corpora"}

    def _marker(self, length: int) -> Path:
        return pack_dir(self._out) / f"{self._names[length]}.json"

    def _mark(self, length: int) -> None:
        write_json(self._marker(length), {"settings": self._settings[length], "shard": self._made[length].document()})

    def _finished(self, length: int) -> ShardEntry | None:
        """Returns the entry of a shard that was made under the same settings and is still whole, else None."""
        marker = self._marker(length)
        if not marker.exists():
            return None
        try:
            found = read_json(marker)
        except InputError:
            return None
        if found["settings"] != self._settings[length]:
            return None
        entry = ShardEntry(**found["shard"])
        # The shard may have been that of a first length, or of a further one, in an earlier recipe.
        entry.sequence_length = None if length == self._index.sequence_length else length
        path = self._out / entry.file
        # The hash is read last, as it takes the time of reading the whole shard.
        if not path.is_file() or path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
            return None
        if ensure_checksums(path, entry, RowFormat(length, self._index.token_dtype)):
            log.info("%s: its sums were missing or damaged, made anew from the tar", path.name)
            self._made[length] = entry
            self._mark(length)
        return entry
