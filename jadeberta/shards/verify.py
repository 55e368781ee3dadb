"""Checks a shard directory against its index: sizes, hashes, row checksums, layout, and that every row holds possible tokens."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jadeberta.errors import ShardError
from jadeberta.shards.checksums import checksums_path, read_block, read_checksums, row_checksums, tar_checksums
from jadeberta.shards.index import WORD_START, ShardEntry, ShardIndex, find_index
from jadeberta.shards.index_checks import outer_block
from jadeberta.shards.open_files import retry_io
from jadeberta.shards.row_format import RowFormat
from jadeberta.shards.tokenizer_format import SpecialTokens, main_file
from jadeberta.shards.writer import list_blocks
from jadeberta.utils.files import file_sha256

ROWS_NAMED = 5
"""Changed rows that a fault names; of the others it gives the number."""


def verify(directory: str | Path, progress: Callable[[str], None] = lambda line: None) -> list[str]:
    """Returns every fault of a shard directory, one sentence each, naming the file; empty where all is well.

    Args:
        directory: holds `index.json`.
        progress: called with one line for each shard that was checked.

    Raises:
        ShardError: the index itself cannot be used.
        ResourceError: the process lacks something, or the file system does not answer.
    """
    index_path = find_index(directory)
    index = ShardIndex.load(index_path)
    faults: list[str] = []
    model = index_path.parent / "tokenizer" / main_file(index.tokenizer_sha256, index.tokenizer_files)
    if not model.is_file():
        # Without the tokenizer the rows are numbers that nobody can turn into text again.
        faults.append(f"{model}: missing. Run 'python -m preprocess tokenizer' again.")
    elif (found := _sha256(model)) != index.tokenizer_sha256:
        faults.append(f"{model}: sha256 differs from index.json (expected {index.tokenizer_sha256[:12]}…, found {found[:12]}…).")
    for name, sha in index.tokenizer_files.items():
        if name == model.name:
            continue
        path = model.with_name(name)
        if (found := _sha256(path) if path.is_file() else "no file") != sha:
            faults.append(f"{path}: sha256 differs from index.json (expected {sha[:12]}…, found {found[:12]}…).")
    for name, corpus in index.corpora.items():
        for entry in [*corpus.train, *corpus.valid]:
            found_faults = _shard_faults(index_path.parent / entry.file, entry, index)
            faults += found_faults
            progress(f"{name} {entry.file}: {entry.sequences} sequences, {'bad' if found_faults else 'ok'}")
    return faults


def _sha256(path: Path) -> str:
    return retry_io(lambda: file_sha256(path), f"reading {path}")


def _shard_faults(path: Path, entry: ShardEntry, index: ShardIndex) -> list[str]:
    """Faults of a tar file and of its checksums."""
    faults = []
    checksums = None
    if entry.sums_sha256:
        try:
            checksums = read_checksums(path, entry)
        except ShardError as e:
            faults.append(f"{e} Run 'python -m preprocess pack' again to make it anew.")
    return [f"{path}: {fault}" for fault in _tar_faults(path, entry, index, checksums)] + faults


def _tar_faults(path: Path, entry: ShardEntry, index: ShardIndex, checksums: np.ndarray | None) -> list[str]:
    remedy = f"Delete it and run 'python -m preprocess pack' again to make {entry.file} anew."
    try:
        if not path.is_file():
            return [f"missing. {remedy}"]
        # The size comes first, because comparing it reads nothing of the file.
        if (size := path.stat().st_size) != entry.bytes:
            return [f"{size} bytes, index.json says {entry.bytes}. {remedy}"]
        found = _sha256(path)
    except OSError as e:
        return [f"cannot be read ({e.strerror}). {remedy}"]
    if found != entry.sha256:
        where = "" if checksums is None else _changed_rows(path, entry, index.row_format(entry), checksums)
        return [f"sha256 differs from index.json (expected {entry.sha256[:12]}…, found {found[:12]}…){where}. {remedy}"]
    if list_blocks(path, index.row_format(entry)) != entry.blocks:
        return [f"blocks lie elsewhere than index.json says. {remedy}"]
    return _row_faults(path, entry, index, checksums)


def _changed_rows(path: Path, entry: ShardEntry, rows_as: RowFormat, checksums: np.ndarray) -> str:
    """Names the rows of a changed file that are not as written."""
    if sum(rows for rows, *_ in entry.blocks) != len(checksums):
        return "; its blocks in index.json are not those of its checksums"
    if (block := outer_block(entry.blocks, rows_as, entry.bytes)) is not None:
        return f"; block {block} of index.json ends beyond the file"
    wrong = np.flatnonzero(tar_checksums(path, entry, rows_as) != checksums).tolist()
    if not wrong:
        return "; every row is as written, the change lies between them"
    firsts = np.cumsum([0, *(rows for rows, *_ in entry.blocks)])
    named = []
    for row in wrong[:ROWS_NAMED]:
        block = int(np.searchsorted(firsts, row, side="right")) - 1
        start = entry.blocks[block][1]
        own = start + (row - int(firsts[block])) * rows_as.token_bytes
        named.append(f"row {row} (block {block} at byte {start}, its tokens at byte {own})")
    more = f" and {len(wrong) - ROWS_NAMED} more" if len(wrong) > ROWS_NAMED else ""
    return f"; not what was written: {', '.join(named)}{more}"


def _row_faults(path: Path, entry: ShardEntry, index: ShardIndex, checksums: np.ndarray | None) -> list[str]:
    """Faults that a wrong writer would leave: impossible ids, padding that disagrees, counts or checksums of other rows."""
    faults, sequences, tokens = [], 0, 0
    for block, (rows, *_) in enumerate(entry.blocks):
        ids, documents = read_block(path, entry, block, index.row_format(entry))
        if checksums is not None and not np.array_equal(row_checksums(ids, documents), checksums[sequences : sequences + rows]):
            name = checksums_path(path).name
            faults.append(f"block {block}: rows are as index.json says but {name} holds the checksums of others.")
        if index.word_starts == "documents":
            documents = documents & (WORD_START - 1)
        sequences, tokens = sequences + rows, tokens + int(np.count_nonzero(documents))
        if ids.max(initial=0) >= index.vocab_size:
            faults.append(f"block {block}: token id {ids.max()} with a vocabulary of {index.vocab_size}.")
        # Training masks attention by the one and skips labels by the other; they must agree on what is padding.
        if not np.array_equal(ids == index.special_tokens.pad, documents == 0):
            faults.append(f"block {block}: padding of tokens and of document numbers disagree.")
        before, after = documents[:, :-1], documents[:, 1:]
        rises = (after >= before) & (before != 0)
        if (documents[:, 0] != 1).any() or not (rises | (after == 0)).all():
            faults.append(f"block {block}: document numbers do not start at 1, rise, and end in padding alone.")
        elif index.packing == "best_fit" and not _are_whole(ids, documents, index.special_tokens):
            faults.append(f"block {block}: a document of a row is not [CLS] ... [SEP], as packing best_fit has it.")
    if (sequences, tokens) != (entry.sequences, entry.tokens):
        faults.append(f"{sequences} sequences and {tokens} tokens, index.json says {entry.sequences} and {entry.tokens}.")
    return faults


def _are_whole(ids: np.ndarray, documents: np.ndarray, special: SpecialTokens) -> bool:
    """Whether [CLS] and [SEP] are where a document of a row begins and ends, and nowhere else; both arrays [rows, length]."""
    numbers = np.pad(documents, ((0, 0), (1, 1)))
    begins = (numbers[:, 1:-1] != numbers[:, :-2]) & (documents != 0)
    ends = (numbers[:, 1:-1] != numbers[:, 2:]) & (documents != 0)
    if special.cls == special.sep:
        return np.array_equal(begins | ends, ids == special.cls)
    return np.array_equal(begins, ids == special.cls) and np.array_equal(ends, ids == special.sep)
