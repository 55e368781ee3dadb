"""Which files a corpus was made of, each with its size and sha256: the first link of the chain that `provenance.json` records.

A file that one task reads whole is hashed as it is read, and its hash is in the marker of the split. Files that several tasks share, or
that are not read from the first byte to the last (Parquet), are hashed by a task of their own, and the hash is in `work/raw/`. Documents
that an older version extracted have neither: their files are "not recorded", as nobody can say what was read then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from jadeberta.shards import InputError, file_sha256
from preprocess.document_files import read_json, write_json
from preprocess.readers.input_split import InputSplit
from preprocess.readers.split_file import SplitTask
from preprocess.workdir import raw_dir, read_markers

MARKER_KEY = "raw"
"""Key of a marker: {file: {"bytes", "sha256"}} of the files that its task read whole."""
Read = dict[Path, tuple[int, str]]
"""Size and sha256 of files, as `compressed.hashing_whole_files` gives them."""


@dataclass(frozen=True)
class HashTask:
    """The task of hashing one file of a corpus."""

    corpus: str
    name: str
    """Of the file, as in the markers."""
    path: Path
    settings: dict[str, Any]
    """Of a marker: size and ends of the file that was extracted."""


def read_whole(split: InputSplit, read: Read) -> dict[str, dict[str, Any]]:
    """Returns the entry of a split's marker under `MARKER_KEY`."""
    if split.group:
        # By the path below the corpus's folder, which the ids have: the group has one name for all.
        named = {one.id_prefix.removeprefix(f"{split.corpus}-"): one.path for one in split.group}
    else:
        named = {split.file or split.path.name: split.path}
    return {name: _described(*read[path]) for name, path in named.items() if path in read}


def record_split_file(task: SplitTask, settings: dict[str, Any], out: Path, read: Read) -> None:
    """Records the hash of a file that was split in one pass.

    Args:
        task: of the file.
        settings: of one of its splits.
        out: output directory of the stages.
        read: what the pass has read.
    """
    if task.path in read:
        _write(out, task.corpus, settings, *read[task.path])


def hash_file(task: HashTask, out: Path) -> None:
    """Hashes a file and records it.

    Raises:
        InputError: it is another file than the one that was extracted.
    """
    size = task.path.stat().st_size
    if size != task.settings["file_bytes"]:
        raise InputError(
            f"{task.path}: {size} bytes, and {task.settings['file_bytes']} when it was extracted; put the file back, or delete its folder "
            "under work/documents and run extract again."
        )
    _write(out, task.corpus, task.settings, size, file_sha256(task.path))


def list_raw_files(out: Path, corpus: str) -> list[dict[str, Any]]:
    """Returns the files of a corpus in the order of its documents, {"file", "bytes", "sha256"}; an unknown sha256 is left out."""
    files: dict[str, dict[str, Any]] = {}
    for settings, raw in _markers(out, corpus):
        for name, found in (raw or {settings["file"]: _recorded(out, corpus, settings)}).items():
            if "sha256" not in files.get(name, {}):
                files[name] = {"file": name, **found}
    return list(files.values())


def unhashed_files(out: Path, corpus: str) -> dict[str, dict[str, Any]]:
    """Returns the files whose hash nobody has yet, though this version extracted documents of them: {file: settings of a marker}."""
    known = {entry["file"]: entry for entry in list_raw_files(out, corpus)}
    return {
        settings["file"]: settings
        for settings, raw in _markers(out, corpus)
        if raw is not None and "sha256" not in known.get(settings["file"], {"sha256": ""})
    }


def hash_tasks(unhashed: dict[str, dict[str, Any]], splits: Iterable[InputSplit]) -> list[HashTask]:
    """Returns the tasks that hash files, the largest first.

    Args:
        unhashed: of a corpus.
        splits: of the corpus, which know where its files are.
    """
    paths = {split.file or split.path.name: (split.corpus, split.path) for split in splits if not split.group}
    tasks = [HashTask(paths[name][0], name, paths[name][1], made) for name, made in unhashed.items() if name in paths]
    return sorted(tasks, key=lambda task: -task.settings["file_bytes"])


def _markers(out: Path, corpus: str) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    return ((marker["settings"], marker.get(MARKER_KEY)) for marker in read_markers(out, corpus))


def _record_path(out: Path, corpus: str, name: str) -> Path:
    return raw_dir(out, corpus) / f"{xxhash.xxh64_hexdigest(name.encode())}.json"


def _write(out: Path, corpus: str, settings: dict[str, Any], size: int, sha256: str) -> None:
    name = settings["file"]
    write_json(
        _record_path(out, corpus, name), {"file": name, "file_ends": settings["file_ends"], "bytes": size, "sha256": sha256}
    )


def _recorded(out: Path, corpus: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of a file, if it is of the file that was extracted; else its size alone."""
    path = _record_path(out, corpus, settings["file"])
    record = read_json(path) if path.is_file() else {}
    made = (settings["file"], settings["file_ends"], settings["file_bytes"])
    if tuple(record.get(key) for key in ("file", "file_ends", "bytes")) != made:
        return {"bytes": settings["file_bytes"]}
    return _described(record["bytes"], record["sha256"])


def _described(size: int, sha256: str) -> dict[str, Any]:
    return {"bytes": size, "sha256": sha256}
