"""Counts the words of the whole segmented corpus in bounded memory: groups of parts become sorted files, which are merged.

Promises counts that depend on the text alone, not on the number of ranks or on kills, and that a rank's memory does not grow with the
corpus. A group with a marker is not counted again.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import xxhash

from jadeberta.shards import InputError
from preprocess.document_files import jsonl_zst_writer, read_json, read_jsonl_zst, write_json, write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.workdir import read_words

MAX_DISTINCT = 1_000_000
"""Number of distinct words that a rank holds while it counts, some 250 MB; more are spilled to sorted files."""
MAX_RUNS = 32
"""Number of sorted files that are merged at once, at some MB of memory each."""
MAX_GROUPS = MAX_RUNS
"""Largest number of groups of parts: a rank merges one file of each group."""
PARTITION_BYTES = 4 * 2**20
"""Words are partitioned by their hash, so that several ranks merge them: one partition for so many bytes of compressed parts."""
MAX_PARTITIONS = 32
WORDS_A_LINE = 1000
"""Number of words in a line of the count files: a line for each word takes three times as long to write and read."""
LAYOUT = 2
"""Version of the count files' layout: files of another version are counted again."""

WeightedPart = tuple[Path, int]
"""A part of words and how often each of its words counts."""
WordCount = tuple[str, int]


class SpillingCounter:
    """Counts more words than fit into memory: the excess is spilled to sorted files."""

    def __init__(self, scratch: Path) -> None:
        """Args:
        scratch: an empty folder for the sorted files.
        """
        self._scratch, self._runs, self._written = scratch, list[Path](), 0
        self._counts: dict[str, int] = {}
        # Words of one weight that are not yet in _counts: Counter.update runs in C.
        self._same, self._weight = Counter[str](), 1

    def count(self, words: Iterable[str], weight: int = 1) -> None:
        """Adds `weight` to a word's count at each occurrence; fastest for many words at once, and for one weight after the other."""
        if weight != self._weight:
            self._apply_weight()
            self._weight = weight
        self._same.update(words)
        if len(self._same) + len(self._counts) >= MAX_DISTINCT:
            self._spill()

    def merged(self) -> Iterator[WordCount]:
        """Yields every word once with its count, sorted by the words' characters."""
        self._apply_weight()
        held = iter(sorted(self._counts.items()))
        return merge([*(_read(run) for run in self._runs), held]) if self._runs else held

    def _apply_weight(self) -> None:
        same, self._same = self._same, Counter()
        if not self._counts and self._weight == 1:
            self._counts = same
            return
        held = self._counts
        for word, count in same.items():
            held[word] = held.get(word, 0) + count * self._weight

    def _spill(self) -> None:
        self._apply_weight()
        self._write_run(sorted(self._counts.items()))
        self._counts = {}
        if len(self._runs) >= MAX_RUNS:
            runs, self._runs = self._runs, []
            self._write_run(merge(_read(run) for run in runs))
            for run in runs:
                run.unlink()

    def _write_run(self, counts: Iterable[WordCount]) -> None:
        self._runs.append(self._scratch / f"{self._written:05d}.jsonl.zst")
        self._written += 1
        write_jsonl_zst(self._runs[-1], _lines(counts), scratch=True)


def merge(sources: Iterable[Iterator[WordCount]]) -> Iterator[WordCount]:
    """Merges sorted counts, all above 0: yields each word once with its sum, sorted."""
    word, total = "", 0
    for other, count in heapq.merge(*sources):
        if other != word and total:
            yield word, total
            total = 0
        word, total = other, total + count
    if total:
        yield word, total


@dataclass(frozen=True)
class RankedWords:
    """Words of a corpus by descending count."""

    words: int
    """Number of running words, with weights."""
    distinct: int
    files: list[Path]

    def __iter__(self) -> Iterator[WordCount]:
        """Yields (word, count), the most frequent first; equal counts in the order of the words' characters."""
        by_rank = [((-count, word) for word, count in _read(path)) for path in self.files]
        return ((word, -negative) for negative, word in heapq.merge(*by_rank))


def rank_words(parts: list[WeightedPart], most: int, folder: Path, executor: Executor) -> RankedWords:
    """Returns at least the `most` most frequent words of some parts. Collective: every rank calls it.

    Args:
        parts: parts of words; the same on every rank.
        most: number of words that are wanted.
        folder: for the count files; the caller removes it after using the result.
        executor: the ranks that share the work.
    """
    groups = [_Group(folder / f"group-{n:03d}.json", parts[n::MAX_GROUPS]) for n in range(min(MAX_GROUPS, len(parts)))]
    partitions = min(MAX_PARTITIONS, 1 + sum(part.stat().st_size for part, _ in parts) // PARTITION_BYTES)
    executor.map(groups, lambda group: _count_group(group, partitions, folder, executor.count), lambda group: group.bytes)

    def rank(file: Path) -> tuple[int, int]:
        words = distinct = 0

        def counted() -> Iterator[tuple[int, str]]:
            nonlocal words, distinct
            for word, count in merge(_read(group.file(files.index(file))) for group in groups):
                words, distinct = words + count, distinct + 1
                yield -count, word

        # A partition may hold all of the most frequent words, so each keeps as many as are wanted.
        ranked = heapq.nsmallest(most, counted())
        write_jsonl_zst(file, _lines((word, -negative) for negative, word in ranked))
        return words, distinct

    files = [folder / f"ranked-{partition:03d}.jsonl.zst" for partition in range(partitions)]
    totals = executor.map(files, rank)
    return RankedWords(sum(words for words, _ in totals), sum(distinct for _, distinct in totals), files)


@dataclass(frozen=True)
class _Group:
    """A group of parts that are counted together."""

    path: Path
    """Marker of the group."""
    parts: list[WeightedPart]

    @property
    def bytes(self) -> int:
        """Size of the parts' files."""
        return sum(part.stat().st_size for part, _ in self.parts)

    def file(self, partition: int) -> Path:
        return self.path.with_name(f"{self.path.stem}-{partition:03d}.jsonl.zst")


def _count_group(group: _Group, partitions: int, folder: Path, count: Callable[..., None]) -> None:
    """Counts the words of a group into one sorted file for each partition, and writes its marker."""
    parts = [[part.parent.name, part.name, part.stat().st_size, weight] for part, weight in group.parts]
    settings = {"parts": parts, "partitions": partitions, "layout": LAYOUT}
    if _is_done(group.path, settings):
        return
    folder.mkdir(parents=True, exist_ok=True)
    # A unique name: if this process was taken for dead, another one counts the same group at the same time.
    with TemporaryDirectory(dir=folder, prefix="runs-") as scratch, ExitStack() as stack:
        counter = SpillingCounter(Path(scratch))
        # By weight, as a change of weight costs a pass over the held counts.
        for weight, same in groupby(sorted(group.parts, key=itemgetter(1)), itemgetter(1)):
            for part, _ in same:
                documents = size = 0
                for row in read_words(part):
                    text = " ".join(row["sentences"])
                    documents, size = documents + 1, size + len(text.encode())
                    if text:
                        counter.count(text.split(" "), weight)
                # Progress of this call goes by compressed bytes, as `weigh` does.
                count(documents=documents, bytes=size, weight=part.stat().st_size)
        write = [stack.enter_context(jsonl_zst_writer(group.file(partition))) for partition in range(partitions)]
        _partition(counter.merged(), write)
    write_json(group.path, settings)


def _partition(counts: Iterator[WordCount], write: list[Callable[[Any], object]]) -> None:
    """Writes every word into the partition that its hash selects."""
    dealt: list[list[WordCount]] = [[] for _ in write]
    for word, count in counts:
        # By hash and not by first letter: partitions are of about equal size in any language.
        partition = xxhash.xxh64_intdigest(word.encode()) % len(write)
        dealt[partition].append((word, count))
        if len(dealt[partition]) == WORDS_A_LINE:
            write[partition](dealt[partition])
            dealt[partition] = []
    for partition, rest in enumerate(dealt):
        if rest:
            write[partition](rest)


def _is_done(marker: Path, settings: dict[str, Any]) -> bool:
    try:
        return marker.is_file() and read_json(marker) == settings
    except InputError:
        return False


def _lines(counts: Iterable[WordCount]) -> Iterator[list[WordCount]]:
    """Yields the rows of a count file: lists of [word, count]."""
    rest = iter(counts)
    return iter(lambda: list(islice(rest, WORDS_A_LINE)), [])


def _read(path: Path) -> Iterator[WordCount]:
    return map(tuple, chain.from_iterable(read_jsonl_zst(path)))  # type: ignore[arg-type]
