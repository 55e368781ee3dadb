"""Record of the files that the stages write beside `OUT/work`: no other file in OUT is ever overwritten or removed.

OUT may be a folder that holds other files, backups among them. A name enters the record before the file is written, so that what a
killed process left is known too.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

import orjson

from jadeberta.shards import INDEX_NAME, ConfigError, InputError, ShardError, ShardIndex, checksums_path
from jadeberta.shards.provenance import SHARDS_PROVENANCE_NAME
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES
from jadeberta.utils.locks import LOCK_NAME
from preprocess.document_files import read_json, write_json
from preprocess.workdir import REPORT_NAME, TRAINING_NAME, WORK_FOLDERS, WRITTEN_NAME, counts_dir, pack_dir

TOKENIZER_NAMES = tuple(
    f"tokenizer/{name}" for name in (*ALL_TOKENIZER_FILES, "config.json", "words.tsv", "seed.tsv", TRAINING_NAME)
)
"""Names of the files of the tokenizer stage."""


def shard_names(tars: Iterable[str]) -> list[str]:
    """Returns the names of tar files and of their checksums."""
    return [name for tar in tars for name in (tar, checksums_path(Path(tar)).name)]


def recorded(out: Path) -> frozenset[str]:
    """Returns the names under `out`, outside work/, that the stages wrote or were about to write."""
    names: set[str] = set()
    record = out / "work" / WRITTEN_NAME
    if record.is_file():
        names |= set(read_json(record)["files"])
    # Earlier versions kept no record: their markers and their index say what they wrote.
    for marker in pack_dir(out).glob("*.json"):
        try:
            names |= {INDEX_NAME, *shard_names([read_json(marker)["shard"]["file"]])}
        except (InputError, KeyError, TypeError):
            continue
    if not record.is_file():
        with contextlib.suppress(ShardError):
            corpora = ShardIndex.load(out / INDEX_NAME).corpora.values()
            names |= {INDEX_NAME, *shard_names(entry.file for corpus in corpora for entry in [*corpus.train, *corpus.valid])}
    if _is_ours(out / "tokenizer" / TRAINING_NAME, "settings") or counts_dir(out).is_dir():
        names |= set(TOKENIZER_NAMES)
    if _is_ours(out / SHARDS_PROVENANCE_NAME, "index_sha256"):
        names.add(SHARDS_PROVENANCE_NAME)
    if _is_ours(out / REPORT_NAME, "extract", "segment", "tokenizer", "pack", "coverage"):
        names.add(REPORT_NAME)
    return frozenset(names)


def claim(out: Path, names: Iterable[str]) -> None:
    """Records names that are about to be written.

    Raises:
        ConfigError: there is such a file already, and no record says that the stages wrote it.
    """
    known, wanted = recorded(out), list(names)
    for name in wanted:
        if name not in known and os.path.lexists(out / name):
            raise ConfigError(
                f"{out / name}: this file is in the way and was not written by these stages; move it away, or give another --out."
            )
    _record(out, known | set(wanted))


def remove_stale(out: Path, kept: Iterable[str]) -> list[Path]:
    """Removes the shards and checksums of the record that are not among `kept`, and returns those that were there.

    Temporary files of killed processes go too: call it only while no other process writes shards there.
    """
    known, kept = recorded(out), set(kept)
    _remove_temporaries(out, "", known)
    stale = [out / name for name in sorted(known - kept) if name.endswith((".tar", ".sums"))]
    there = [path for path in stale if path.is_file() or path.is_symlink()]
    for path in stale:
        path.unlink(missing_ok=True)
        # Its marker would keep the name in the record: later a file of this name is somebody else's.
        for marker in (f"{path.stem}.json", f"{path.stem}.heldout.jsonl.zst"):
            (pack_dir(out) / marker).unlink(missing_ok=True)
    _record(out, known - {path.name for path in stale})
    return there


def require_own_work(out: Path) -> None:
    """Checks that `out/work` is a folder of the stages, or is not there yet.

    Raises:
        ConfigError: it is a file, or holds what the stages never write.
    """
    work = out / "work"
    if os.path.lexists(work) and not work.is_dir():
        raise ConfigError(
            f"{work}: not a folder, so the stages cannot keep their files there; move it away, or give another --out."
        )
    # The lock's file stays where a stage has worked.
    if not work.is_dir() or (work / LOCK_NAME).exists():
        return
    foreign = sorted({path.name for path in work.iterdir()} - set(WORK_FOLDERS) - {WRITTEN_NAME})
    if foreign:
        raise ConfigError(
            f"{work}: holds {foreign[0]}, which these stages did not write; their own files would mix with it. Give another --out."
        )


def remove_leftovers(out: Path) -> None:
    """Removes the temporary files of killed processes under `out`. Call it only while no other process writes there.

    Those beside work/ are removed where they belong to a file of the record. `work/pool` is not touched: other processes of that pool
    may be starting.
    """
    known = recorded(out)
    _remove_temporaries(out, "", known)
    _remove_temporaries(out / "tokenizer", "tokenizer/", known)
    if TOKENIZER_NAMES[0] in known:
        # Earlier versions kept the counts of the seeds here.
        for scratch in (out / "tokenizer").glob(".seeds-????????"):
            shutil.rmtree(scratch, ignore_errors=True)
    within = [path for folder in WORK_FOLDERS if folder != "pool" for path in (out / "work" / folder).glob("**/.*")]
    for path in [*within, *(out / "work").glob(f".{WRITTEN_NAME}.*")]:
        if _name_of_temporary(path):
            path.unlink(missing_ok=True)


def _remove_temporaries(folder: Path, prefix: str, known: Collection[str]) -> None:
    for path in folder.glob(".*"):
        if (name := _name_of_temporary(path)) and prefix + name in known:
            path.unlink(missing_ok=True)


def _name_of_temporary(path: Path) -> str:
    """Returns the name that a temporary file was to get; empty: it is none of `atomic_path`."""
    named = re.fullmatch(r"\.(.+)\.tmp-\d+", path.name)
    return named[1] if named else ""


def _record(out: Path, names: Iterable[str]) -> None:
    # The report is known by its content.
    write_json(out / "work" / WRITTEN_NAME, {"files": sorted(set(names) - {REPORT_NAME})})


def _is_ours(path: Path, *keys: str) -> bool:
    """Returns whether a file is a JSON object with one of the keys."""
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(content, dict) and any(key in content for key in keys)
