"""What makes a directory a checkpoint: its name, and a manifest, written last, with the size and sha256 of every file.

A directory without a manifest, or whose files differ from it, is not a checkpoint. Knows names and bytes only, no tensors.
"""

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from jadeberta.errors import CheckpointError, NothingToResume
from jadeberta.utils.files import file_sha256

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"
FORMAT = "jadeberta-checkpoint"
VERSION = 1
LONGEST_NAME = 255
"""Bytes that a file's name may have on Linux."""
LARGEST_MANIFEST = 64 << 20
"""Bytes; a manifest of 10,000 ranks has two million."""
SMALL = 1 << 20
"""Size in bytes up to which a quick check reads a file."""
STEP_NAME = re.compile(r"step-(\d{8})")
"""Name of a checkpoint; `directory_name` writes it."""


def directory_name(step: int) -> str:
    """Returns the name of the checkpoint of a step."""
    return f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """Returns the step of a checkpoint; raises CheckpointError where the directory is not named like one."""
    match = STEP_NAME.fullmatch(directory.name)
    if match is None:
        raise CheckpointError(f"{directory}: not named like a checkpoint (step-00001000).")
    return int(match[1])


def list_checkpoints(root: Path) -> list[Path]:
    """Returns the directories named like checkpoints, oldest first, whether they can be trusted or not."""
    found = [p for p in root.iterdir() if STEP_NAME.fullmatch(p.name) and p.is_dir()] if root.is_dir() else []
    return sorted(found, key=step_of)


def manifest_bytes(step: int, files: dict[str, tuple[int, str]]) -> bytes:
    """Returns the manifest of a checkpoint; `files` maps each name to its size in bytes and its sha256."""
    entries = {name: {"bytes": size, "sha256": sha} for name, (size, sha) in sorted(files.items())}
    document = {"format": FORMAT, "version": VERSION, "step": step, "files": entries, "sha256": _own_hash(step, entries)}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _own_hash(step: int, entries: dict[str, dict]) -> str:
    """sha256 of the manifest's own content: a flipped bit in it must not look like a damaged file, or hide one."""
    return hashlib.sha256(orjson.dumps([FORMAT, VERSION, step, entries], option=orjson.OPT_SORT_KEYS)).hexdigest()


def verify(directory: Path, small_only: bool = False) -> list[str]:
    """Returns every reason not to trust a checkpoint, one sentence each; empty where its bytes are those that were written.

    Args:
        directory: named like a checkpoint.
        small_only: read the manifest and the small files; of the others compare the sizes alone.
    """
    path = directory / MANIFEST_NAME
    try:
        if not path.is_file():
            return [f"{path}: missing or no file; without a manifest this is not a checkpoint."]
        if (size := path.stat().st_size) > LARGEST_MANIFEST:
            return [f"{path}: damaged, {size:,} bytes are no manifest."]
        manifest = orjson.loads(path.read_bytes())
        if not isinstance(manifest, dict):
            return [f"{path}: damaged, no JSON object."]
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            return [f"{path}: format {manifest['format']} version {manifest['version']}, this program reads {FORMAT} {VERSION}."]
        files, step = manifest["files"], manifest["step"]
        if manifest["sha256"] != _own_hash(step, files):
            return [f"{path}: damaged, its own hash does not fit."]
        if fault := _form_fault(step, files):
            return [f"{path}: {fault}."]
    except OSError as e:
        return [f"{path}: {e.strerror}; without a manifest this is not a checkpoint."]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as e:
        return [f"{path}: damaged ({e})."]
    # A renamed directory has right bytes and a wrong step: the run would resume at a step that its weights have not seen.
    faults = [] if step == step_of(directory) else [f"{path}: written for step {step}, the directory was renamed."]
    for required in (STATE_NAME, "model.safetensors", "config.json"):
        if required not in files:
            faults.append(f"{path}: does not list {required}.")
    to_read = []
    for name, entry in files.items():
        file = directory / name
        if file.is_symlink():
            # Nothing outside the directory is read, nor called part of the checkpoint.
            faults.append(f"{file}: a link, where the manifest lists a file.")
        elif not file.is_file():
            faults.append(f"{file}: missing.")
        elif (size := file.stat().st_size) != entry["bytes"]:
            faults.append(f"{file}: {size} bytes, the manifest says {entry['bytes']}.")
        # Sizes of the large files cost nothing; their hashes are taken while they are read into the engine (`restore.py`).
        elif not small_only or size <= SMALL:
            to_read.append((file, entry["sha256"]))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # hashing releases the interpreter lock
        return faults + [fault for fault in threads.map(_hash_fault, to_read) if fault]


def read_manifest_files(directory: Path) -> list[str]:
    """Returns the names of the files that belong to a verified checkpoint; others that lie there do not."""
    return sorted(orjson.loads((directory / MANIFEST_NAME).read_bytes())["files"])


def _form_fault(step: object, files: object) -> str | None:
    """What is wrong with the form of a manifest whose hash is right: anybody can compute one."""
    if not isinstance(step, int) or isinstance(step, bool) or not isinstance(files, dict):
        return "its step is no number, or its files are no object"
    for name, entry in files.items():
        if name in ("", ".", "..", MANIFEST_NAME) or "/" in name or "\0" in name or len(name.encode()) > LONGEST_NAME:
            return f"lists '{name[:40]}', which is no name of a file in this directory"
        if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int) or not isinstance(entry.get("sha256"), str):
            return f"its entry of {name} lacks bytes or sha256"
    return None


def _hash_fault(file_and_hash: tuple[Path, str]) -> str | None:
    file, expected = file_and_hash
    try:
        found = file_sha256(file)
    except OSError as e:
        return f"{file}: cannot be read ({e.strerror})."
    return (
        None
        if found == expected
        else f"{file}: sha256 differs from the manifest (expected {expected[:12]}…, found {found[:12]}…)."
    )


def candidates(root: Path, resume: str) -> list[Path]:
    """Returns the checkpoints that a run may resume from, newest first.

    Args:
        root: the run's `checkpoints` directory.
        resume: mode of --resume: auto, required or never.

    Raises:
        CheckpointError: `never`, and checkpoints are there: a fresh start would mix two runs in one directory.
    """
    found = list_checkpoints(root)[::-1]
    if resume != "never":
        return found
    if found:
        raise CheckpointError(
            f"{root}: holds {len(found)} checkpoints, newest {found[0].name}, but --resume never was given. "
            "Choose another run.dir or remove them."
        )
    return []


def refuse_fresh_start(root: Path, resume: str, skipped: int) -> None:
    """Checks a start at step 0, where no checkpoint can be trusted; returns only where that is what was meant.

    Args:
        root: the run's `checkpoints` directory.
        resume: mode of --resume.
        skipped: number of checkpoints there, none of which can be trusted.

    Raises:
        NothingToResume: `required`.
        CheckpointError: `auto`, and checkpoints are there: starting at step 0 would hide the loss of the run.
    """
    if resume == "required":
        raise NothingToResume(f"{root}: no valid checkpoint among {skipped}, and --resume required was given.")
    if skipped:
        raise CheckpointError(
            f"{root}: none of its {skipped} checkpoints can be trusted. Restore one, or choose another run.dir to start anew."
        )


def choose(
    root: Path, resume: str, report: Callable[[str], None], check: Callable[[Path], str | None] = lambda directory: None
) -> Path | None:
    """Returns the newest checkpoint whose every byte is right, or None for a fresh start.

    Args:
        root: the run's `checkpoints` directory.
        resume: mode of --resume: auto, required or never.
        report: called with a line for every checkpoint that is skipped, which says why.
        check: returns a fault of a checkpoint whose bytes are right, if it has one.

    Raises:
        NothingToResume, CheckpointError: as `candidates` and `refuse_fresh_start`.
    """
    found = candidates(root, resume)
    for directory in found:
        fault = next(iter(verify(directory)), None) or check(directory)
        if fault is None:
            return directory
        report(skipped_line(directory, fault))
    refuse_fresh_start(root, resume, len(found))
    return None


def skipped_line(directory: Path, fault: str) -> str:
    """Returns the line that reports a skipped checkpoint."""
    return f"SKIPPED {directory.name}: {fault}"


def newest_step(run_dir: Path) -> int:
    """Returns the step of a run's newest checkpoint, whether it can be trusted or not; -1 where there is none."""
    found = list_checkpoints(run_dir / "checkpoints")
    return step_of(found[-1]) if found else -1
