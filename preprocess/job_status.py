"""`python -m preprocess status DIR`: how far a directory is, who works in it, how fast and how long yet. Reads files, changes none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jadeberta.shards import INDEX_NAME, ConfigError, holder_of
from preprocess.document_files import read_json
from preprocess.executors.progress import Seen, clock, describe, read_ranks, summarise
from preprocess.workdir import (
    TRAINING_NAME,
    documents_dir,
    pack_dir,
    planned_path,
    progress_dir,
    read_markers,
    words_marker,
    words_path,
)

MOST_RANKS = 32
"""Ranks that are listed one by one; of more only those that are dead, as many."""


@dataclass(frozen=True)
class Row:
    """A stage of one corpus, or of all."""

    stage: str
    corpus: str
    done: int
    pieces: int | None
    """None: not known yet."""
    bytes_done: int
    bytes: int | None
    """Of the corpus's files in extract, of text in the others."""

    def __str__(self) -> str:
        pieces = f"{self.done:,} of {'?' if self.pieces is None else f'{self.pieces:,}'}"
        size = "" if self.bytes is None else f"{self.bytes_done / 1e6:,.1f} of {self.bytes / 1e6:,.1f} MB"
        state = "done" if self.pieces is not None and self.done == self.pieces else "" if self.done == 0 else "begun"
        return f"{self.stage:10} {self.corpus:16} {pieces:>20} {size:>28}  {state}".rstrip()


def describe_directory(out: Path) -> list[str]:
    """What is printed; raises ConfigError where nothing was ever begun in `out`."""
    if not (out / "work").is_dir() and not (out / INDEX_NAME).is_file():
        raise ConfigError(f"{out}: no stage was ever begun here. Name the directory that --out of the stages names.")
    lines = [f"{'stage':10} {'corpus':16} {'pieces done':>20} {'':>28}", *map(str, read_table(out))]
    seen = read_ranks(progress_dir(out))
    holder = holder_of(out / "work")
    lines += [f"{holder} works here" if holder else "nobody works here now"]
    if holder and (summary := summarise(seen)) is not None:
        lines.append(describe(summary))
    listed = seen if len(seen) <= MOST_RANKS else [rank for rank in seen if not rank.alive][:MOST_RANKS]
    return lines + [describe_rank(rank) for rank in listed]


def describe_rank(rank: Seen) -> str:
    """One line for one rank."""
    state = rank.state
    at = f"{state.stage}: {state.piece or 'waits'}" + (f" for {clock(state.piece_seconds)}" if state.piece else "")
    return f"  {rank.name}  {at}" if rank.alive else f"  {rank.name}  DEAD, was at {at}"


def read_table(out: Path) -> list[Row]:
    """How many pieces of which stage are done, from what lies on the disk."""
    rows: list[Row] = []
    parts: dict[str, dict[str, int]] = {}
    for planned in sorted(planned_path(out, "*").parent.glob(planned_path(out, "*").name)):
        corpus = planned.name.removesuffix(planned_path(out, "").name)
        sizes: dict[str, int] = dict(read_json(planned)["pieces"])
        markers = read_markers(out, corpus)
        done = [name for name in sizes if (documents_dir(out, corpus) / f"{name}.json").is_file()]
        rows.append(Row("extract", corpus, len(done), len(sizes), sum(sizes[name] for name in done), sum(sizes.values())))
        parts[corpus] = {part["file"]: part["bytes"] for marker in markers for part in marker["parts"]}
        if len(done) < len(sizes):
            del parts[corpus]  # nobody knows yet how many there will be
    for corpus, sizes in parts.items():
        done = [name for name in sizes if words_marker(words_path(documents_dir(out, corpus) / name, out)).is_file()]
        rows.append(Row("segment", corpus, len(done), len(sizes), sum(sizes[name] for name in done), sum(sizes.values())))
    rows.append(Row("tokenizer", "all", int((out / "tokenizer" / TRAINING_NAME).is_file()), 1, 0, None))
    index = _shards_of(out)
    packed = len(list(pack_dir(out).glob("*.json")))
    rows.append(Row("pack", "all", packed if index is None else index, index, 0, None))
    return rows


def _shards_of(out: Path) -> int | None:
    """Shards of a finished directory."""
    if not (out / INDEX_NAME).is_file():
        return None
    corpora: dict[str, Any] = read_json(out / INDEX_NAME)["corpora"]
    return sum(len(corpus["train"]) + len(corpus["valid"]) for corpus in corpora.values())
