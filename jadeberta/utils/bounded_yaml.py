"""Refuses YAML files that become far larger when they are read, and those that give a key twice.

An alias costs a few bytes and stands for a whole part of the file. Of a key that stands twice YAML's readers silently take the last.
"""

from pathlib import Path

import yaml

FILE_BYTES = 1 << 20
"""Largest file; recipes have a few KB."""
VALUES = 10_000
"""Most values of a file with its aliases written out."""
ENTRIES = 500
"""Most entries of a list: for each of them the parser copies the whole."""


def require_bounded(path: Path) -> None:
    """Raises ValueError, with a sentence that names the file, where it is too large, nested too deeply, refers to itself, has a
    key twice in one section, or a list that is too long.

    A file that is no YAML passes: whoever reads it names the line. Raises OSError.
    """
    if (size := path.stat().st_size) > FILE_BYTES:
        raise ValueError(f"{path}: {size:,} bytes; a recipe has at most {FILE_BYTES:,}. Name the recipe.")
    try:
        with open(path, encoding="utf-8") as f:
            node = yaml.compose(f, yaml.SafeLoader)
        values = 0 if node is None else _values(node, {})
        twice = None if node is None or values > VALUES else _key_that_stands_twice(node)
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply. Write it flat.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    if values > VALUES:
        raise ValueError(
            f"{path}: has more than {VALUES:,} values with its aliases (*name) written out; a recipe has some hundred. Remove them."
        )
    if (long := None if node is None else _long_list(node)) is not None:
        raise ValueError(
            f"{path}, line {long.start_mark.line + 1}: a list of {len(long.value):,} entries; one may have {ENTRIES:,}. Shorten it."
        )
    if twice is not None:
        first, second = (key.start_mark.line + 1 for key in twice)
        raise ValueError(f"{path}, line {second}: {twice[0].value} stands in line {first} already. Remove one of the two lines.")


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


def _long_list(node: yaml.Node) -> yaml.SequenceNode | None:
    """The first list with more entries than one may have; of a file with few values."""
    if isinstance(node, yaml.SequenceNode) and len(node.value) > ENTRIES:
        return node
    parts = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
    inner = () if isinstance(node, yaml.ScalarNode) else parts
    return next((found for part in inner if (found := _long_list(part)) is not None), None)


def _key_that_stands_twice(node: yaml.Node) -> tuple[yaml.Node, yaml.Node] | None:
    """Both nodes of the first key that a section has twice."""
    if isinstance(node, yaml.ScalarNode):
        return None
    first: dict[str, yaml.Node] = {}
    for key in (key for key, _ in node.value) if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            if key.value in first:
                return first[key.value], key
            first[key.value] = key
    parts = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
    return next((found for part in parts if (found := _key_that_stands_twice(part))), None)
