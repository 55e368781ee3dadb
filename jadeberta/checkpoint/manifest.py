"""What makes a directory a checkpoint: a manifest, written last, with the size and sha256 of every file.

Knows names and bytes only, no tensors. A directory without a manifest, or whose files differ from it, is not a checkpoint.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import orjson

from jadeberta.errors import CheckpointError, NothingToResume
from jadeberta.shards import file_sha256

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"
FORMAT = "jadeberta-checkpoint"
VERSION = 1
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


def verify(directory: Path) -> list[str]:
    """Every reason not to trust a checkpoint, one sentence each; empty where its bytes are those that were written."""
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
    for name, entry in files.items():
        file = directory / name
        if not file.is_file():
            faults.append(f"{file}: missing.")
        elif (size := file.stat().st_size) != entry["bytes"]:
            faults.append(f"{file}: {size} bytes, the manifest says {entry['bytes']}.")
        elif (sha := file_sha256(file)) != entry["sha256"]:
            faults.append(f"{file}: sha256 differs from the manifest (expected {entry['sha256'][:12]}…, found {sha[:12]}…).")
    return faults


def choose(root: Path, resume: str, report: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from: the newest that verifies, or None for a fresh start.

    Args:
        root: the run's `checkpoints` directory.
        resume: auto, required or never.
        report: told of every checkpoint that is passed over, with the reason.

    Raises:
        NothingToResume: `required`, and none verifies.
        CheckpointError: `auto`, checkpoints are there, and none verifies: starting at step 0 would hide the loss of the run.
        CheckpointError: `never`, and checkpoints are there: a fresh start would mix two runs in one directory.
    """
    candidates = list_checkpoints(root)
    if resume == "never":
        if candidates:
            raise CheckpointError(
                f"{root}: holds {len(candidates)} checkpoints, newest {candidates[-1].name}, but --resume never was given. "
                "Choose another run.dir or remove them."
            )
        return None
    for directory in reversed(candidates):
        faults = verify(directory)
        if not faults:
            return directory
        report(f"PASSED OVER {directory.name}: {faults[0]}")
    if resume == "required":
        raise NothingToResume(f"{root}: no valid checkpoint among {len(candidates)}, and --resume required was given.")
    if candidates:
        raise CheckpointError(
            f"{root}: none of its {len(candidates)} checkpoints can be trusted. Restore one, or choose another run.dir to start anew."
        )
    return None
