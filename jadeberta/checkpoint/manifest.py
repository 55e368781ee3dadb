"""What makes a directory a checkpoint: a manifest, written last, with the size and sha256 of every file.

Knows names and bytes only, no tensors. A directory without a manifest, or whose files differ from it, is not a checkpoint.
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
SMALL = 1 << 20
"""Bytes up to which a file is read at once."""
STEP_NAME = re.compile(r"step-(\d{8})")


def directory_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """Raises CheckpointError where the name is not a checkpoint's."""
    match = STEP_NAME.fullmatch(directory.name)
    if match is None:
        raise CheckpointError(f"{directory}: not named like a checkpoint (step-00001000).")
    return int(match[1])


def list_checkpoints(root: Path) -> list[Path]:
    """Directories named like checkpoints, oldest first, whether they can be trusted or not."""
    found = [p for p in root.iterdir() if p.is_dir() and STEP_NAME.fullmatch(p.name)] if root.is_dir() else []
    return sorted(found, key=step_of)


def manifest_bytes(step: int, files: dict[str, tuple[int, str]]) -> bytes:
    """The manifest of a checkpoint whose files have these (size, sha256)."""
    entries = {name: {"bytes": size, "sha256": sha} for name, (size, sha) in sorted(files.items())}
    document = {"format": FORMAT, "version": VERSION, "step": step, "files": entries, "sha256": _own_hash(step, entries)}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _own_hash(step: int, entries: dict[str, dict]) -> str:
    """A manifest vouches for itself too: a flipped bit in it must not pass for a damaged file, or hide one."""
    return hashlib.sha256(orjson.dumps([FORMAT, VERSION, step, entries], option=orjson.OPT_SORT_KEYS)).hexdigest()


def verify(directory: Path, small_only: bool = False) -> list[str]:
    """Every reason not to trust a checkpoint, one sentence each; empty where its bytes are those that were written.

    Args:
        directory: named like a checkpoint.
        small_only: read the manifest and the small files, and of the others only the sizes.
    """
    path = directory / MANIFEST_NAME
    try:
        manifest = orjson.loads(path.read_bytes())
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            return [f"{path}: format {manifest['format']} version {manifest['version']}, this program reads {FORMAT} {VERSION}."]
        files, step = manifest["files"], manifest["step"]
        if manifest["sha256"] != _own_hash(step, files):
            return [f"{path}: damaged, its own hash does not fit."]
    except OSError as e:
        return [f"{path}: {e.strerror}; without a manifest this is not a checkpoint."]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as e:
        return [f"{path}: damaged ({e})."]
    faults = [] if step == step_of(directory) else [f"{path}: written for step {step}, the directory was renamed."]
    for required in (STATE_NAME, "model.safetensors", "config.json"):
        if required not in files:
            faults.append(f"{path}: does not list {required}.")
    to_read = []
    for name, entry in files.items():
        file = directory / name
        if not file.is_file():
            faults.append(f"{file}: missing.")
        elif (size := file.stat().st_size) != entry["bytes"]:
            faults.append(f"{file}: {size} bytes, the manifest says {entry['bytes']}.")
        elif not small_only or size <= SMALL:
            to_read.append((file, entry["sha256"]))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # hashing leaves the interpreter to the others
        return faults + [fault for fault in threads.map(_hash_fault, to_read) if fault]


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
    """What a run might resume from, newest first.

    Args:
        root: the run's `checkpoints` directory.
        resume: auto, required or never.

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


def refuse_fresh_start(root: Path, resume: str, passed_over: int) -> None:
    """Called where no checkpoint can be trusted; returns only where step 0 is what was meant.

    Raises:
        NothingToResume: `required`.
        CheckpointError: `auto`, and checkpoints are there: starting at step 0 would hide the loss of the run.
    """
    if resume == "required":
        raise NothingToResume(f"{root}: no valid checkpoint among {passed_over}, and --resume required was given.")
    if passed_over:
        raise CheckpointError(
            f"{root}: none of its {passed_over} checkpoints can be trusted. Restore one, or choose another run.dir to start anew."
        )


def choose(root: Path, resume: str, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte is right, or None for a fresh start.

    Args:
        root: the run's `checkpoints` directory.
        resume: auto, required or never.
        report: told of every checkpoint that is passed over, with the reason.

    Raises:
        NothingToResume, CheckpointError: as `candidates` and `refuse_fresh_start`.
    """
    found = candidates(root, resume)
    for directory in found:
        faults = verify(directory)
        if not faults:
            return directory
        report(passed_over(directory, faults[0]))
    refuse_fresh_start(root, resume, len(found))
    return None


def passed_over(directory: Path, fault: str) -> str:
    return f"PASSED OVER {directory.name}: {fault}"


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint, whether it can be trusted or not; -1 where there is none."""
    names = (re.fullmatch(r"step-(\d{8})", path.name) for path in (run_dir / "checkpoints").glob("step-*"))
    return max((int(name[1]) for name in names if name), default=-1)
