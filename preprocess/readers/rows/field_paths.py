"""Fields of a row by dotted names: `meta.body` is the field `body` of the object under `meta`.

A field whose own name holds dots is found as well, and comes before a nested one.
"""

from collections.abc import Callable
from typing import Any

from jadeberta.shards import ConfigError

MAX_PARTS = 16
"""Most names in a path."""
MAX_CHARACTERS = 500


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()
"""What a getter returns where the row has no such field."""

Getter = Callable[[dict[str, Any]], Any]


def check_path(path: str, key: str) -> None:
    """Checks a path that a recipe names.

    Args:
        path: the path.
        key: the recipe's key, e.g. "preprocess.corpora.web.text_key".

    Raises:
        ConfigError: it has an empty name, or is longer than any real one.
    """
    parts = path.split(".")
    if len(parts) > MAX_PARTS or len(path) > MAX_CHARACTERS:
        raise ConfigError(
            f"{key}: the path has {len(parts)} names and {len(path)} characters; it may have {MAX_PARTS} and {MAX_CHARACTERS}."
        )
    if not all(part.strip() for part in parts):
        raise ConfigError(f"{key}: '{path}' has an empty name in it; write names with single dots between them, as in meta.body.")


def getter(path: str) -> Getter:
    """Returns the function that gives the value at a path of a row, or MISSING."""
    if "." not in path:
        return lambda row: row.get(path, MISSING)
    return lambda row: _find(row, path)


def _find(row: dict[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    dot = path.rfind(".")
    while dot > 0:
        inner = row.get(path[:dot])
        if isinstance(inner, dict) and (found := _find(inner, path[dot + 1 :])) is not MISSING:
            return found
        dot = path.rfind(".", 0, dot)
    return MISSING
