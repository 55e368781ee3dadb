"""`lineage.json` of a run directory: from which weights the run started, and what those had started from. Oldest first.

It is written once, before the first step, and decides what every later attempt of the run takes for its start. A run from random
weights has no such file. Each entry has `kind`: `init` (weights of `model.init_from`) or `branch` (a step of another run).
"""

from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import CheckpointError, OutputError
from jadeberta.utils.files import write_atomically

LINEAGE_NAME = "lineage.json"
KINDS = ("init", "branch")
TEXT_KEYS = {"init": ("source", "given", "weights_sha256"), "branch": ("source", "given", "manifest_sha256")}
"""Keys that an entry must have, by its kind; their values are text."""
LARGEST_BYTES = 16 << 20

Entry = dict[str, Any]
Lineage = tuple[Entry, ...]


def read_lineage(directory: Path) -> Lineage:
    """Reads the lineage beside a run or an export; empty where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = directory / LINEAGE_NAME
    try:
        if not path.exists():
            return ()
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError("too large")
        return checked(orjson.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(
            f"{path}: damaged, not the lineage of a run ({e}). Put it back from the lineage in a checkpoint's state.json."
        ) from e


def checked(entries: Any) -> Lineage:
    """Returns entries that have their form; raises ValueError where they have not."""
    if not isinstance(entries, list):
        raise ValueError("no list of entries")
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kind") not in KINDS:
            raise ValueError(f"an entry is none of {', '.join(KINDS)}")
        if wrong := [key for key in TEXT_KEYS[entry["kind"]] if not isinstance(entry.get(key), str)]:
            raise ValueError(f"an entry of kind {entry['kind']} lacks {wrong[0]}")
        if not isinstance(entry.get("model", {}), dict):
            raise ValueError("the model of an entry is no object")
    return tuple(entries)


def write_lineage(directory: Path, lineage: Lineage) -> None:
    """Writes the lineage of a run or an export; it survives a loss of power.

    Raises:
        OutputError: it cannot be written.
    """
    path = directory / LINEAGE_NAME
    try:
        write_atomically(path, orjson.dumps(list(lineage), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as e:
        raise OutputError(f"{path}: cannot be written ({e.strerror}). Make room, or make the directory writable.") from e


def identity(entry: Entry) -> tuple:
    """What makes two entries the same start, wherever the source lies: the sha256 of what was read, and of a branch its step."""
    if entry["kind"] == "branch":
        return ("branch", entry["manifest_sha256"], entry.get("step"))
    return ("init", entry["weights_sha256"])


def first_step_in_words(lineage: Lineage) -> str:
    """Where a run that has no checkpoint starts."""
    if not lineage:
        return "step 0"
    own = lineage[-1]
    return f"step {own['step']} of {own['source']}" if own["kind"] == "branch" else f"step 0 with the weights of {own['source']}"
