"""Refuses YAML files that become far larger when they are read: an alias costs a few bytes and stands for a whole part of the file."""

from pathlib import Path

import yaml

FILE_BYTES = 1 << 20
"""Largest file; recipes have a few KB."""
VALUES = 10_000
"""Most values of a file with its aliases written out."""


def require_bounded(path: Path) -> None:
    """Raises ValueError, with a sentence that names the file, where it is too large, nested too deeply, or refers to itself.

    A file that is no YAML passes: whoever reads it names the line. Raises OSError.
    """
    if (size := path.stat().st_size) > FILE_BYTES:
        raise ValueError(f"{path}: {size:,} bytes; a recipe has at most {FILE_BYTES:,}. Name the recipe.")
    try:
        with open(path, encoding="utf-8") as f:
            node = yaml.compose(f, yaml.SafeLoader)
        values = 0 if node is None else _values(node, {})
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply. Write it flat.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    if values > VALUES:
        raise ValueError(
            f"{path}: has more than {VALUES:,} values with its aliases (*name) written out; a recipe has some hundred. Remove them."
        )


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values of a node with its aliases written out; `known` holds those of nodes by id, 0 while one is counted."""
    if id(node) in known:
        # A node inside itself has no end.
        return known[id(node)] or VALUES + 1
    known[id(node)] = 0
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(_values(part, known) for part in parts)
    known[id(node)] = min(total, VALUES + 1)
    return known[id(node)]
