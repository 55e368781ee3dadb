"""`python -m preprocess status DIR`: how far the stages are, which ranks are alive, how fast they are and how long they will take.

Reads files and changes none.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jadeberta.shards import INDEX_NAME, ConfigError, holder_of
from jadeberta.utils.durations import format_duration
from jadeberta.utils.text_table import format_table
from preprocess.document_files import read_json
from preprocess.executors.progress import RankStatus, describe, read_ranks, summarise
from preprocess.workdir import (
    TRAINING_NAME,
    documents_dir,
    list_planned,
    pack_dir,
    progress_dir,
    read_markers,
    words_marker,
    words_path,
)

FURTHER_LENGTH = r".*-s(\d+)"
"""Name of a shard of a further row length, without its suffix."""
MAX_RANKS = 32
"""Number of ranks up to which each is listed; of a larger job only dead ranks are listed, at most as many."""


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is for one corpus, or for all."""

    stage: str
    corpus: str
    done: int
    tasks: int | None
    """Number of input splits, parts or shards; None: not known yet."""
    bytes_done: int
    bytes: int | None
    """Size of the corpus's files for extract, of text for segment; None: not known."""

    def cells(self) -> list[str]:
        """Returns the row of the table."""
        tasks = f"{self.done:,} of {'?' if self.tasks is None else f'{self.tasks:,}'}"
        size = "" if self.bytes is None else f"{self.bytes_done / 1e6:,.1f} of {self.bytes / 1e6:,.1f} MB"
        state = "done" if self.tasks is not None and self.done == self.tasks else "" if self.done == 0 else "begun"
        return [self.stage, self.corpus, tasks, size, state]


def describe_directory(out: Path) -> list[str]:
    """Returns the lines to print.

    Raises:
        ConfigError: no stage was ever begun in `out`.
    """
    if not (out / "work").is_dir() and not (out / INDEX_NAME).is_file():
        raise ConfigError(f"{out}: no stage was ever begun here. Name the directory that --out of the stages names.")
    table = format_table(["stage", "corpus", "tasks done", "size", "state"], (row.cells() for row in read_table(out)), left=2)
    lines = table.splitlines()
    ranks = read_ranks(progress_dir(out))
    holder = holder_of(out / "work")
    lines += [f"{holder} works here" if holder else "nobody works here now"]
    # Without a living job the files of dead ranks say nothing about the time left.
    if holder and (summary := summarise(ranks)) is not None:
        lines.append(describe(summary))
    listed = ranks if len(ranks) <= MAX_RANKS else [rank for rank in ranks if not rank.alive][:MAX_RANKS]
    return lines + [describe_rank(rank) for rank in listed]


def describe_rank(rank: RankStatus) -> str:
    """Returns the line for one rank."""
    state = rank.state
    at = f"{state.stage}: {state.task or 'waits'}" + (f" for {format_duration(state.task_seconds)}" if state.task else "")
    return f"  {rank.name}  {at}" if rank.alive else f"  {rank.name}  DEAD, was at {at}"


def read_table(out: Path) -> list[StageStatus]:
    """Returns how many tasks of each stage are done, from the files under `out`."""
    rows: list[StageStatus] = []
    parts: dict[str, dict[str, int]] = {}
    for corpus, sizes in list_planned(out):
        markers = read_markers(out, corpus)
        done = [name for name in sizes if (documents_dir(out, corpus) / f"{name}.json").is_file()]
        rows.append(StageStatus("extract", corpus, len(done), len(sizes), sum(sizes[name] for name in done), sum(sizes.values())))
        if len(done) == len(sizes):  # before that the number of parts is not known
            parts[corpus] = {part["file"]: part["bytes"] for marker in markers for part in marker["parts"]}
    for corpus, sizes in parts.items():
        done = [name for name in sizes if words_marker(words_path(documents_dir(out, corpus) / name, out)).is_file()]
        rows.append(StageStatus("segment", corpus, len(done), len(sizes), sum(sizes[name] for name in done), sum(sizes.values())))
    rows.append(StageStatus("tokenizer", "all", int((out / "tokenizer" / TRAINING_NAME).is_file()), 1, 0, None))
    shards, is_finished = _count_shards(out)
    for length, count in shards.items():
        what = "all" if len(shards) == 1 else f"rows of {length}" if length else "rows of the first length"
        rows.append(StageStatus("pack", what, count, count if is_finished else None, 0, None))
    return rows


def _count_shards(out: Path) -> tuple[dict[int, int], bool]:
    """Returns the number of shards of each row length, and whether the directory is finished; before that the first length is 0."""
    if (out / INDEX_NAME).is_file():
        document: dict[str, Any] = read_json(out / INDEX_NAME)
        first = document["sequence_length"]
        entries = [entry for corpus in document["corpora"].values() for entry in (*corpus["train"], *corpus["valid"])]
        return {first: 0} | Counter(entry.get("sequence_length", first) for entry in entries), True
    names = (re.fullmatch(FURTHER_LENGTH, path.stem) for path in sorted(pack_dir(out).glob("*.json")))
    found = Counter(0 if name is None else int(name[1]) for name in names)
    return {0: 0} | found, False
