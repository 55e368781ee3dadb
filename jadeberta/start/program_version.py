"""Which program runs, and which settings differ from those of the attempt before: for the ledger, read by `jadeberta report`."""

from pathlib import Path
from typing import Any

import torch
import yaml

from jadeberta import __version__
from jadeberta.utils.files import file_sha256

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 200
"""Characters of a value in the event `settings`."""


def program_version(root: Path = ROOT) -> dict[str, str]:
    """Returns version, torch's version, and of a checkout its commit and the sha256 of its lock file, as far as they are known.

    Changes that are not committed are not seen.
    """
    lock = root / "requirements" / ("cuda.lock" if torch.version.cuda else "cpu.lock")
    found = {"version": __version__, "torch": torch.__version__, "commit": _commit(root)}
    try:
        found["lock_sha256"] = file_sha256(lock)
    except OSError:
        found["lock_sha256"] = ""
    return {key: value for key, value in found.items() if value}


def _commit(root: Path) -> str:
    """The commit that a checkout is at, without git; empty where it is none."""
    try:
        folder = root / ".git"
        if folder.is_file():  # of a worktree
            folder = (root / folder.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head if len(head) == 40 else ""
        name, common = head.removeprefix("ref: "), folder
        if (folder / "commondir").is_file():
            common = (folder / (folder / "commondir").read_text().strip()).resolve()
        if (common / name).is_file():
            return (common / name).read_text().strip()
        packed = (line.split(" ", 1) for line in (common / "packed-refs").read_text().splitlines())
        return next((line[0] for line in packed if line[1:] == [name]), "")
    except (OSError, ValueError):
        return ""


def changed_settings(path: Path, recipe: str) -> dict[str, list[str]]:
    """Returns the keys whose values differ between a recipe's file and a new recipe, each with the value before and the value now.

    Args:
        path: recipe.yaml of the attempt before; where there is none that can be read, nothing has changed.
        recipe: the resolved recipe of now, as YAML.
    """
    try:
        before = _flat("", yaml.safe_load(path.read_text(encoding="utf-8")))
        now = _flat("", yaml.safe_load(recipe))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return {
        key: [before.get(key, "unset"), now.get(key, "unset")] for key in {**before, **now} if before.get(key) != now.get(key)
    }


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {k: v for key, each in value.items() for k, v in _flat(f"{prefix}.{key}" if prefix else str(key), each).items()}
    return {prefix: str(value)[:LONGEST]}
