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
        if entry["kind"] == "branch" and type(entry.get("step")) is not int:
            raise ValueError("an entry of kind branch lacks step")
        counts = entry.get("tokenizer")
        if isinstance(counts, dict) and any(type(count) is not int for count in counts.values()):
            raise ValueError("the tokenizer of an entry counts something else than pieces")
        if not isinstance(entry.get("model", {}), dict):
            raise ValueError("the model of an entry is no object")
    return tuple(entries)


def lineage_in(state: dict[str, Any], checkpoint: Path) -> Lineage:
    """Returns the lineage in a checkpoint's state.json; raises CheckpointError where it has not its form."""
    try:
        return checked(state.get("lineage", []))
    except ValueError as e:
        raise CheckpointError(f"{checkpoint / 'state.json'}: its lineage is damaged ({e}). Name another checkpoint.") from e


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


def describe_entry(entry: Entry, with_path: bool = True) -> str:
    """One start in words, for the status and the model card.

    Args:
        entry: of a lineage.
        with_path: name the source by its whole path; else by its name alone, for a text that is published.
    """
    source = Path(entry["source"])
    is_step = source.parent.name == "checkpoints"
    name = str(source) if with_path else f"the run {source.parents[1].name}" if is_step else source.name
    step = f", step {entry['step']:,}" if isinstance(entry.get("step"), int) else ""
    tokens = f", {entry['tokens']:,} tokens" if isinstance(entry.get("tokens"), int) else ""
    sha256 = f"sha256 {str(identity(entry)[1])[:16]}…"
    if entry["kind"] == "branch":
        changed = [f"{key} {before} -> {now}" for key, (before, now) in sorted(pairs_of(entry).items())]
        return f"branch of {name}{step}{tokens} (manifest {sha256}); " + (
            f"changed: {', '.join(changed)}" if changed else "unchanged"
        )
    counts = entry.get("tokenizer")
    embeddings = "its own tokenizer"
    if isinstance(counts, dict):
        embeddings = "another tokenizer: " + ", ".join(
            f"{counts.get(key, 0):,} {words}" for key, words in PIECES_IN_WORDS.items()
        )
    return f"weights of {name}{step}{tokens} ({sha256}); {embeddings}"


PIECES_IN_WORDS = {
    "shared": "pieces kept",
    "from_parts": "from the mean of their parts",
    "from_all": "from the mean of all",
    "special": "special tokens by role",
}
"""What became of the embeddings under another tokenizer, by the keys of its counts."""


def pairs_of(entry: Entry) -> dict[str, tuple[Any, Any]]:
    """Keys that a branch has changed, each with the value before and the value now; hashes are cut short."""
    changed = entry.get("changed")
    if not isinstance(changed, dict):
        return {}
    return {key: (_short(pair[0]), _short(pair[1])) for key, pair in changed.items() if isinstance(pair, list) and len(pair) == 2}


def _short(value: Any) -> Any:
    """A value for a sentence: a hash cut short, and of phases their number."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return f"{len(value)} phases"
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else value
