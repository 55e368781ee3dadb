"""Stage 1: corpora -> documents. Each piece of a corpus becomes parts (JSON Lines, zstd) and, last, a marker.

Promises the same parts whatever the number of ranks, and that a piece with its marker is never done again; needs no segmenter.
`<corpus>.complete.json` stands beside a corpus's folder only while every piece of the corpus is done.
"""

import heapq
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import xxhash

from jadeberta.shards import ConfigError, InputError
from jadeberta.utils.files import atomic_file
from preprocess import readers
from preprocess.config import PreprocessConfig
from preprocess.document_files import Names, read_json, write_json, write_jsonl_zst
from preprocess.executors.executor import Comm
from preprocess.filters import deduplicate as duplicates
from preprocess.filters import quality
from preprocess.readers.input_split import Document, Piece
from preprocess.readers.split_file import Cutting, Extent, cut_file, extent_of, is_cut, remove, require_whole
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
EXTRACTOR = "extract-2"
CUT_SHARE = 0.5
"""To cut a file takes about half as long as all else that is done with it."""
_START_AGAIN = "give another --out or delete"

log = logging.getLogger(__name__)


def extract(config: PreprocessConfig, out: Path, comm: Comm) -> dict[str, Any]:
    """Writes every document of the corpora under `out`, and returns the counts by corpus.

    {corpus: {"documents", "bytes" (UTF-8), "dropped": {reason: n}, "files": {name: {"documents", "in_file"}}}}
    Raises InputError where a corpus cannot be read, ConfigError where `out` holds documents made with other settings.
    """
    # Before hours of work, not after them.
    quality.describe(config.quality)
    duplicates.describe(config.duplicates)
    pending = comm.run_on_root(lambda: _plan(config, out))

    def work(task: Piece | Cutting) -> None:
        if isinstance(task, Cutting):
            begins = readers.READERS[task.pieces[0].format].begins
            cut_file(task, begins, lambda piece: _settings(piece, config), lambda weight: comm.count(weight=weight * CUT_SHARE))
        else:
            _extract_piece(task, config, out, comm.count)

    places = {corpus: (Names(cuts_dir(out, corpus)), Names(documents_dir(out, corpus))) for corpus in config.corpora}

    def ready(task: Piece | Cutting) -> bool:
        """Whether a piece of a file that is cut lies there, or is done already."""
        return isinstance(task, Cutting) or task.cut is None or any(f"{task.name}.json" in names for names in places[task.corpus])

    comm.map(pending, work, _weight, ready)
    parts = comm.run_on_root(lambda: [part for corpus in config.corpora for part in list_parts(out, corpus)])
    if config.duplicates.remove == "none":
        comm.run_on_root(lambda: duplicates.forget(parts))
    else:
        duplicates.find(config.duplicates, parts, comm)
    comm.run_on_root(lambda: _mark_complete(config, out))
    return comm.run_on_root(lambda: _summary(config, out))


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


def plan_pieces(config: PreprocessConfig, out: Path) -> dict[str, list[Piece]]:
    """All pieces of every corpus in the order of their documents, with the place where those of a cut file are noted."""
    return {
        corpus: [
            piece if piece.cut is None else replace(piece, cut=cuts_dir(out, corpus) / f"{piece.name}.json")
            for piece in readers.pieces(corpus, corpus_config)
        ]
        for corpus, corpus_config in config.corpora.items()
    }


def _plan(config: PreprocessConfig, out: Path) -> list[Piece | Cutting]:
    """What is left to do, the longest first so that ranks end at about the same time; refuses what another run left in `out`."""
    pending: list[Piece] = []
    for corpus, pieces in plan_pieces(config, out).items():
        expected = {piece.name: piece for piece in pieces}
        for marker in list_markers(out, corpus):
            if marker.stem not in expected:
                source = read_json(marker)["settings"]["file"]
                here = f"{source} is not in {config.corpora[corpus].path} or is now cut otherwise"
                raise ConfigError(f"{marker}: made from another set of files ({here}); {_START_AGAIN} {marker.parent}.")
            piece = expected.pop(marker.stem)
            _require_parts(marker.parent, marker, _check_settings(marker, _settings(piece, config)))
            remove(piece)
            log.info("%s: %s: done before, skipped", corpus, piece.name)
        if expected:
            complete_path(out, corpus).unlink(missing_ok=True)
        write_json(planned_path(out, corpus), {"pieces": [[piece.name, piece.end - piece.start] for piece in pieces]})
        pending += expected.values()
    cuttings = _plan_cuttings(pending, config, out)
    return [*cuttings, *sorted(pending, key=lambda piece: piece.start - piece.end)]


def _plan_cuttings(pending: list[Piece], config: PreprocessConfig, out: Path) -> list[Cutting]:
    """The files that have to be cut, the largest first; of each what is cut already is kept, and what is cut otherwise removed."""
    wanted: dict[Path, set[str]] = {}
    for piece in pending:
        if piece.cut is not None and not is_cut(piece, _settings(piece, config)):
            remove(piece)
            wanted.setdefault(piece.path, set()).add(piece.name)
    if not wanted:
        return []
    of_file: dict[Path, list[Piece]] = {}
    for piece in (piece for pieces in plan_pieces(config, out).values() for piece in pieces):
        of_file.setdefault(piece.path, []).append(piece)
    cuttings = [Cutting(path, tuple(of_file[path]), frozenset(names)) for path, names in wanted.items()]
    return sorted(cuttings, key=lambda cutting: -cutting.pieces[-1].end)


def _weight(task: Piece | Cutting) -> float:
    """Bytes of the file."""
    return task.pieces[-1].end * CUT_SHARE if isinstance(task, Cutting) else task.end - task.start


def _hash_of_ends(path: Path) -> str:
    """xxh64 of the first and last MiB: tells another file of the same name and size without reading all of it."""
    with open(path, "rb") as f:
        digest = xxhash.xxh64(f.read(2**20))
        f.seek(max(0, path.stat().st_size - 2**20))
        digest.update(f.read())
    return digest.hexdigest()


def _settings(piece: Piece, config: PreprocessConfig) -> dict[str, Any]:
    """All that the parts of a piece depend on."""
    return {
        "extractor": EXTRACTOR,
        "file": piece.path.name,
        "file_bytes": piece.path.stat().st_size,
        "file_ends": _hash_of_ends(piece.path),
        "format": piece.format,
        "span": [piece.start, piece.end],
        "id_prefix": piece.id_prefix,
        "part_bytes": config.part_bytes,
        "heldout_documents": config.heldout_documents,
        "quality": quality.describe(config.quality),
    }


def _check_settings(marker: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The marker's content; raises ConfigError where it was made with other settings."""
    content: dict[str, Any] = read_json(marker)
    made: dict[str, Any] = content.get("settings", {})
    differing = [key for key in settings if made.get(key) != settings[key]]
    if differing:
        then = ", ".join(f"{key}={made.get(key)}" for key in differing)
        now = ", ".join(f"{key}={settings[key]}" for key in differing)
        raise ConfigError(f"{marker}: made with {then} but this run has {now}; {_START_AGAIN} {marker.parent}.")
    return content


def _extract_piece(piece: Piece, config: PreprocessConfig, out: Path, count: Callable[..., None]) -> None:
    """Writes the parts of a piece and its marker, unless a process of a pool did so and was killed before it could say so."""
    folder = documents_dir(out, piece.corpus)
    if (marker := folder / f"{piece.name}.json").is_file():
        _check_settings(marker, _settings(piece, config))
        return
    extent = extent_of(piece)
    content = _write_piece(piece, config, folder, count) | {"settings": _settings(piece, config)}
    with atomic_file(marker) as f:
        # Not indented: a marker holds up to 5,000 held-out candidates.
        content |= {} if extent is None else {"extent": asdict(extent)}
        f.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS))
    remove(piece)
    counts = content["counts"]
    speed = counts["bytes"] / 1e6 / max(content["seconds"], 1e-9)
    log.info("%s: %s: %d documents, %.2f MB/s", piece.corpus, piece.name, counts["documents"], speed)


def _require_parts(folder: Path, marker: Path, content: dict[str, Any]) -> None:
    for part in content["parts"]:
        if not (folder / part["file"]).is_file():
            raise InputError(f"{folder / part['file']}: missing although {marker.name} lists it; delete {marker} and run again.")


def _write_piece(piece: Piece, config: PreprocessConfig, folder: Path, count: Callable[..., None]) -> dict[str, Any]:
    _remove_leftovers(piece, folder)
    began = time.monotonic()
    dropped: Counter[str] = Counter()
    smallest = _Smallest(config.heldout_documents)
    parts: list[dict[str, Any]] = []
    documents = quality.keep(readers.documents(piece, dropped), config.quality, dropped)
    for first in documents:
        counts = Counter(documents=0, bytes=0)
        name = f"{piece.name}-{len(parts):05d}.jsonl.zst"
        write_jsonl_zst(folder / name, _one_part(chain([first], documents), config.part_bytes, counts, smallest))
        parts.append({"file": name, **counts})
        count(**counts, weight=0)
    return {
        "counts": {
            "documents": sum(part["documents"] for part in parts),
            "bytes": sum(part["bytes"] for part in parts),
            "dropped": dict(sorted(dropped.items())),
        },
        "parts": parts,
        "heldout": smallest.pairs(),
        "seconds": round(time.monotonic() - began, 3),
    }


def _one_part(documents: Iterator[Document], part_bytes: int, counts: Counter[str], smallest: "_Smallest") -> Iterator[Document]:
    """Documents until `part_bytes` of text are reached: where a part ends follows from the texts alone."""
    for document in documents:
        counts["documents"] += 1
        counts["bytes"] += len(document["text"].encode())
        smallest.add(document["id"])
        yield document
        if counts["bytes"] >= part_bytes:
            return


def _remove_leftovers(piece: Piece, folder: Path) -> None:
    """Parts and temporary files of an attempt that was killed; a longer attempt may have left parts that none overwrites."""
    ours = re.compile(rf"\.?{re.escape(piece.name)}(-\d{{5}}\.jsonl\.zst|\.json)(\.tmp-\d+)?")
    for path in folder.glob("*") if folder.is_dir() else ():
        if ours.fullmatch(path.name):
            path.unlink()


class _Smallest:
    """The `limit` ids with the smallest hashes among those added."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, str]] = []

    def add(self, document_id: str) -> None:
        entry = (-heldout_hash(document_id), document_id)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        elif self._heap and entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def pairs(self) -> list[list[int | str]]:
        return [[-negative, document_id] for negative, document_id in sorted(self._heap, reverse=True)]


def _summary(config: PreprocessConfig, out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in config.corpora:
        corpus = summary[name] = {"documents": 0, "bytes": 0, "dropped": {}, "files": {}}
        for marker in read_markers(out, name):
            counts = marker["counts"]
            corpus["documents"] += counts["documents"]
            corpus["bytes"] += counts["bytes"]
            for reason, number in counts["dropped"].items():
                corpus["dropped"][reason] = corpus["dropped"].get(reason, 0) + number
            file = corpus["files"].setdefault(marker["settings"]["file"], {"documents": 0, "in_file": 0})
            file["documents"] += counts["documents"]
            file["in_file"] += counts["documents"] + sum(counts["dropped"].values())
    return summary
