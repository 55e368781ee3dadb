"""Stage 1: corpora -> documents. Each input split becomes parts (JSON Lines, zstd) and, last, a marker.

Promises the same parts whatever the number of ranks, and that a split with a marker is never extracted again. Needs no segmenter.
`<corpus>.complete.json` exists beside a corpus's folder only while every split of the corpus is done.
"""

import heapq
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import xxhash

from jadeberta.shards import ConfigError, InputError
from jadeberta.utils.files import atomic_file
from preprocess import readers
from preprocess.compressed import hashing_whole_files
from preprocess.config import PreprocessConfig
from preprocess.document_files import FolderListing, read_json, write_json, write_jsonl_zst
from preprocess.executors.executor import Executor
from preprocess.filters import deduplicate as duplicates
from preprocess.filters import document_filters
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit
from preprocess.readers.published_sets import gaps
from preprocess.readers.split_file import Extent, SplitTask, extent_of, is_written, remove_text, require_whole
from preprocess.stages import raw_files
from preprocess.stages.extract_counts import check_excluded, summary
from preprocess.workdir import (
    complete_path,
    cuts_dir,
    documents_dir,
    heldout_hash,
    list_markers,
    list_parts,
    planned_path,
    read_markers,
)

# Goes into every marker: change it with any rule of a reader, so that old and new texts never mix in one output.
EXTRACTOR = "extract-3"
SPLITTING_SHARE = 0.5
"""Time to split a file, relative to the time to extract its documents."""
MARKER_TEMPLATES = 500
"""Most templates that a split's marker names as causes of incomplete sentences."""
_START_AGAIN = "give another --out or delete"

log = logging.getLogger(__name__)


def extract(config: PreprocessConfig, out: Path, executor: Executor) -> dict[str, Any]:
    """Writes every document of the corpora under `out`.

    Returns:
        {corpus: {"documents", "bytes" (UTF-8), "dropped": {reason: n}, "files": {name: {"documents", "in_file"}},
        "excluded": {"records": n, "first": [{"file", "place", "reason"}]}, "contaminated": [{"id", "set", "text"}],
        "incomplete": {"sentences", "brackets", "templates": {name: n}, "dropped": {name: n}}}}; "excluded" only where records were,
        "contaminated" (the first documents that hold a text of an evaluation set) only where any do, "incomplete" (sentences of Wikipedia
        left out as a word is missing in them, and the templates) only where pages call templates.

    Raises:
        InputError: a corpus cannot be read, or more of it than `preprocess.bad_input_limit` allows is excluded.
        ConfigError: `out` holds documents made with other settings, or a library of a filter is missing.
    """
    # A missing library is found now, not after hours of work.
    _require_filters(config, executor)
    duplicates.describe(config.duplicates)
    # One rank plans for all: a listing by each of thousands of ranks would be as many requests to the file server.
    pending = executor.run_on_root(lambda: _plan(config, out))

    def work(task: InputSplit | SplitTask) -> None:
        if isinstance(task, SplitTask):
            with hashing_whole_files() as read:
                readers.split(
                    task,
                    lambda split: _settings(split, config),
                    lambda weight: executor.count(weight=weight * SPLITTING_SHARE),
                )
            raw_files.record_split_file(task, _settings(task.splits[0], config), out, read)
        else:
            _extract_split(task, config, out, executor.count)

    listings = {
        corpus: (FolderListing(cuts_dir(out, corpus)), FolderListing(documents_dir(out, corpus))) for corpus in config.corpora
    }

    def ready(task: InputSplit | SplitTask) -> bool:
        """Returns whether the text of a split exists, or the split is done already."""
        return (
            isinstance(task, SplitTask)
            or task.note is None
            or any(f"{task.name}.json" in names for names in listings[task.corpus])
        )

    executor.map(pending, work, _weight, ready)
    readers.end_helpers()
    executor.map(
        executor.run_on_root(lambda: _hash_tasks(config, out)),
        lambda task: raw_files.hash_file(task, out),
        lambda task: float(task.settings["file_bytes"]),
    )
    if config.bad_input == "exclude":
        executor.run_on_root(lambda: check_excluded(config, out))
    parts = executor.run_on_root(lambda: [part for corpus in config.corpora for part in list_parts(out, corpus)])
    if config.duplicates.remove == "none":
        executor.run_on_root(lambda: duplicates.forget(parts))
    else:
        duplicates.find(config.duplicates, parts, executor)
    # Only after the duplicates are known: the next stages read the documents without them.
    executor.run_on_root(lambda: _mark_complete(config, out))
    return executor.run_on_root(lambda: summary(config, out))


def _require_filters(config: PreprocessConfig, executor: Executor) -> None:
    (first, expected), *others = executor.run_on_all(lambda: document_filters.describe(config))
    for who, found in others:
        if differing := [key for key in expected if found.get(key) != expected[key]]:
            raise ConfigError(
                f"preprocess.{differing[0]}: {who} has {found.get(differing[0])} and {first} has {expected[differing[0]]}; "
                "install the same libraries on every host, and let all see the same files."
            )


def _mark_complete(config: PreprocessConfig, out: Path) -> None:
    for corpus in config.corpora:
        extents: dict[str, list[Extent]] = {}
        for marker in read_markers(out, corpus):
            if "extent" in marker:
                extents.setdefault(marker["settings"]["file"], []).append(Extent(**marker["extent"]))
        for file, found in extents.items():
            require_whole(documents_dir(out, corpus) / file, found)
        shutil.rmtree(cuts_dir(out, corpus), ignore_errors=True)
        write_json(complete_path(out, corpus), {"pieces": [marker.stem for marker in list_markers(out, corpus)]})


def plan_splits(config: PreprocessConfig, out: Path) -> dict[str, list[InputSplit]]:
    """Returns the input splits of every corpus in the order of their documents, with the paths of their notes."""
    return {
        corpus: [
            split if split.note is None else replace(split, note=cuts_dir(out, corpus) / f"{split.name}.json")
            for split in readers.splits(corpus, corpus_config)
        ]
        for corpus, corpus_config in config.corpora.items()
    }


def _plan(config: PreprocessConfig, out: Path) -> list[InputSplit | SplitTask]:
    """Returns the tasks that are left, the longest first so that ranks end at about the same time.

    Raises:
        ConfigError: `out` holds documents made from other files or with other settings.
    """
    pending: list[InputSplit] = []
    for corpus, splits in plan_splits(config, out).items():
        for gap in gaps(str(path) for split in splits for path in split.files):
            log.warning("%s: %s", corpus, gap)
        expected = {split.name: split for split in splits}
        for marker in list_markers(out, corpus):
            # A marker of another set of files would mix two corpora in one output.
            if marker.stem not in expected:
                source = read_json(marker)["settings"]["file"]
                here = f"{source} is not in {config.corpora[corpus].path} or is now split otherwise"
                raise ConfigError(f"{marker}: made from another set of files ({here}); {_START_AGAIN} {marker.parent}.")
            split = expected.pop(marker.stem)
            content = _check_settings(marker, _settings(split, config))
            _require_parts(marker.parent, marker, content)
            if config.bad_input == "stop" and (excluded := content.get("excluded")):
                here = f"without {excluded['records']} bad records ({excluded['first'][0]['place']} is the first)"
                raise ConfigError(
                    f"{marker}: made {here} but preprocess.bad_input is stop; set it to exclude, or {_START_AGAIN} {marker.parent}."
                )
            remove_text(split)
            log.info("%s: %s: done before, skipped", corpus, split.name)
        # Before any new part is written: a killed run must not look complete.
        if expected:
            complete_path(out, corpus).unlink(missing_ok=True)
        write_json(planned_path(out, corpus), {"pieces": [[split.name, split.end - split.start] for split in splits]})
        pending += expected.values()
    split_tasks = _plan_split_tasks(pending, config, out)
    return [*split_tasks, *sorted(pending, key=lambda split: split.start - split.end)]


def _plan_split_tasks(pending: list[InputSplit], config: PreprocessConfig, out: Path) -> list[SplitTask]:
    """Returns the files that have to be split, the largest first; texts written under other settings are removed, others kept."""
    # By the corpus too: two corpora may read the same file, each with splits of its own.
    wanted: dict[tuple[str, Path], set[str]] = {}
    for split in pending:
        if split.note is not None and not is_written(split, _settings(split, config)):
            remove_text(split)
            wanted.setdefault((split.corpus, split.path), set()).add(split.name)
    if not wanted:
        return []
    of_file: dict[tuple[str, Path], list[InputSplit]] = {}
    for split in (split for splits in plan_splits(config, out).values() for split in splits):
        of_file.setdefault((split.corpus, split.path), []).append(split)
    split_tasks = [SplitTask(key[1], tuple(of_file[key]), frozenset(names)) for key, names in wanted.items()]
    return sorted(split_tasks, key=lambda task: -task.splits[-1].end)


def _hash_tasks(config: PreprocessConfig, out: Path) -> list[raw_files.HashTask]:
    """Returns the tasks for the files that nobody has hashed while reading them."""
    unhashed = {corpus: raw_files.unhashed_files(out, corpus) for corpus in config.corpora}
    if not any(unhashed.values()):
        return []
    splits = plan_splits(config, out)
    return [task for corpus in config.corpora for task in raw_files.hash_tasks(unhashed[corpus], splits[corpus])]


def _weight(task: InputSplit | SplitTask) -> float:
    """Returns the weight of a task in bytes of its file."""
    return task.splits[-1].end * SPLITTING_SHARE if isinstance(task, SplitTask) else task.end - task.start


def _hash_of_ends(split: InputSplit) -> str:
    """Returns xxh64 of the first and last MiB, to recognise another file of the same name and size without reading all of it."""
    if split.group:
        of_files = "".join(f"{one.id_prefix}\0{_hash_of_ends(one)}\0" for one in split.group)
        return xxhash.xxh64(of_files.encode()).hexdigest()
    status = split.path.stat()
    return _hash_of_unchanged(split.path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_of_unchanged(path: Path, size: int, modified: int) -> str:
    # A large file has hundreds of splits, and each asks for it.
    with open(path, "rb") as f:
        digest = xxhash.xxh64(f.read(2**20))
        f.seek(max(0, size - 2**20))
        digest.update(f.read())
    return digest.hexdigest()


def _settings(split: InputSplit, config: PreprocessConfig) -> dict[str, Any]:
    """Returns all that the parts of a split depend on."""
    return {
        "extractor": EXTRACTOR,
        "file": split.file or split.path.name,
        "file_bytes": sum(path.stat().st_size for path in split.files),
        "file_ends": _hash_of_ends(split),
        "format": split.format,
        "span": [split.start, split.end],
        "id_prefix": split.id_prefix,
        "part_bytes": config.part_bytes,
        "heldout_documents": config.heldout_documents,
        **document_filters.describe(config),
        # Absent where it is not set: documents of before these keys stay valid.
        **split.settings.given(),
        **({"row_groups": list(split.row_groups)} if split.row_groups else {}),
        **readers.library_of(split.corpus, split.format),
    }


def _check_settings(marker: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the marker's content; raises ConfigError if it was made with other settings."""
    content: dict[str, Any] = read_json(marker)
    made: dict[str, Any] = content.get("settings", {})
    # Of both: what is not set and a filter that is off have no entry.
    differing = [key for key in settings | made if made.get(key) != settings.get(key)]
    if differing:
        then = ", ".join(f"{key}={made.get(key)}" for key in differing)
        now = ", ".join(f"{key}={settings.get(key)}" for key in differing)
        raise ConfigError(f"{marker}: made with {then} but this run has {now}; {_START_AGAIN} {marker.parent}.")
    return content


def _extract_split(split: InputSplit, config: PreprocessConfig, out: Path, count: Callable[..., None]) -> None:
    """Writes the parts of a split and its marker, unless another process of a pool did so and was killed before it noted that."""
    folder = documents_dir(out, split.corpus)
    if (marker := folder / f"{split.name}.json").is_file():
        _check_settings(marker, _settings(split, config))
        return
    extent = extent_of(split)
    with hashing_whole_files() as read:
        content = _write_split(split, config, folder, count)
    content |= {"settings": _settings(split, config), raw_files.MARKER_KEY: raw_files.read_whole(split, read)}
    with atomic_file(marker) as f:
        # One line, not indented: a marker holds up to 5,000 held-out candidates.
        content |= {} if extent is None else {"extent": asdict(extent)}
        f.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS))
    remove_text(split)
    counts = content["counts"]
    speed = counts["bytes"] / 1e6 / max(content["seconds"], 1e-9)
    log.info("%s: %s: %d documents, %.2f MB/s", split.corpus, split.name, counts["documents"], speed)


def _require_parts(folder: Path, marker: Path, content: dict[str, Any]) -> None:
    for part in content["parts"]:
        if not (folder / part["file"]).is_file():
            raise InputError(f"{folder / part['file']}: missing although {marker.name} lists it; delete {marker} and run again.")


def _write_split(split: InputSplit, config: PreprocessConfig, folder: Path, count: Callable[..., None]) -> dict[str, Any]:
    _remove_leftovers(split, folder)
    began = time.monotonic()
    dropped: Counter[str] = Counter()
    smallest = _Smallest(config.heldout_documents)
    parts: list[dict[str, Any]] = []
    bad = BadRecords(config.bad_input)
    contaminated: list[dict[str, str]] = []
    documents = document_filters.keep(readers.documents(split, dropped, bad), config, dropped, contaminated)
    # One document decides whether there is another part at all: no part is empty.
    for first in documents:
        counts = Counter(documents=0, bytes=0)
        name = f"{split.name}-{len(parts):05d}.jsonl.zst"
        sha256 = write_jsonl_zst(folder / name, _one_part(chain([first], documents), config.part_bytes, counts, smallest))
        parts.append({"file": name, **counts, "sha256": sha256})
        # No weight here: progress goes by bytes of the input, which are counted when the split ends.
        count(**counts, weight=0)
    # Absent where nothing was excluded: the marker is then the same under both settings of bad_input, and that of older versions.
    excluded = {"excluded": {"records": bad.count, "first": bad.records}} if bad.count else {}
    incomplete = {"incomplete": bad.losses.counts(MARKER_TEMPLATES)} if bad.losses.dropped else {}
    return (
        excluded
        | incomplete
        | ({"contaminated": contaminated} if contaminated else {})
        | {
            "counts": {
                "documents": sum(part["documents"] for part in parts),
                "bytes": sum(part["bytes"] for part in parts),
                "dropped": dict(sorted(dropped.items())),
            },
            "parts": parts,
            "heldout": smallest.pairs(),
            "seconds": round(time.monotonic() - began, 3),
        }
    )


def _one_part(documents: Iterator[Document], part_bytes: int, counts: Counter[str], smallest: "_Smallest") -> Iterator[Document]:
    """Yields documents until `part_bytes` of text are reached: the end of a part depends on the texts alone."""
    for document in documents:
        counts["documents"] += 1
        # UTF-8 bytes and not characters: part_bytes bounds the size on the disk.
        counts["bytes"] += len(document["text"].encode())
        smallest.add(document["id"])
        yield document
        if counts["bytes"] >= part_bytes:
            return


def _remove_leftovers(split: InputSplit, folder: Path) -> None:
    """Removes the parts and temporary files of a killed attempt; if it got further than we do now, nothing would overwrite them."""
    ours = re.compile(rf"\.?{re.escape(split.name)}(-\d{{5}}\.jsonl\.zst|\.json)(\.tmp-\d+)?")
    for path in folder.glob("*") if folder.is_dir() else ():
        if ours.fullmatch(path.name):
            path.unlink()


class _Smallest:
    """Keeps the `limit` ids with the smallest hashes among those added."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, str]] = []
        self._copies: Counter[str] = Counter()

    def add(self, document_id: str) -> None:
        # Negative, as heapq keeps the smallest on top and the largest hash must be dropped first.
        entry = (-heldout_hash(document_id), document_id)
        if document_id in self._copies:
            # An id that several documents have takes one place, or it would push all others out.
            self._copies[document_id] += 1
        elif len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
            self._copies[document_id] = 1
        elif self._heap and entry > self._heap[0]:
            del self._copies[heapq.heapreplace(self._heap, entry)[1]]
            self._copies[document_id] = 1

    def pairs(self) -> list[list[int | str]]:
        """Returns [hash, id] in rising order, and [hash, id, number of documents] for an id that several documents have."""
        kept = [(-negative, document_id) for negative, document_id in sorted(self._heap, reverse=True)]
        return [[hash_, id_, *([self._copies[id_]] if self._copies[id_] > 1 else [])] for hash_, id_ in kept]
