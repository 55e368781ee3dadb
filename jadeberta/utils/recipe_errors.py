"""A parser's complaint about a recipe becomes one sentence: file, line, key, what is wrong, and the key that was probably meant."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import yaml


def explain_recipe_error(message: str, recipe: Path | None, known_keys: Iterable[str], arguments: Iterable[str] = ()) -> str:
    """A parser's complaint about a recipe as one sentence: file, line, key, what is wrong, and the key that was probably meant.

    Args:
        message: of jsonargparse or PyYAML.
        recipe: the file, where there is one.
        known_keys: every key that a recipe may have, dotted.
        arguments: of the command line, which is to blame for a key that stands there.
    """
    text = " ".join(message.split()).rstrip(".")
    text = re.sub(r"Expected a (?:<class '(\w+)'>|typing\.(\w+))", r"Expected \1\2", text)
    if text.startswith("Unexpected config"):
        text = "not a recipe: no sections such as 'preprocess:' with keys under them"
    of_command_line = "unrecognized arguments" in text or text.startswith("argument --")
    unknown = (
        re.search(r"Group '(?P<group>[\w.-]+)' does not accept option '(?P<key>[\w.-]+)'", text)
        or re.search(r"Option '(?P<key>[\w.-]+)' is not accepted", text)
        or re.search(r"unrecognized arguments: --(?P<key>[\w.-]+)", text)
    )
    if unknown:
        key = ".".join(part for part in (unknown.groupdict().get("group"), unknown["key"]) if part)
        near = difflib.get_close_matches(key, list(known_keys), n=1)
        text = f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else ".")
    else:
        wrong = re.search(r'Parser key "(?P<key>[\w.-]+)":? ?(?P<reason>.*)', text)
        key = wrong["key"] if wrong else ""
        text = f"{key}: {wrong['reason']}." if wrong else f"{text}."
    of_command_line |= bool(key) and any(a.split("=")[0] == f"--{key}" for a in arguments)
    where = f"{recipe}" if recipe is not None and not of_command_line else "command line"
    line = _line_of_key(recipe, key) if recipe is not None and key and not of_command_line else None
    return f"{where}{f', line {line}' if line else ''}: {text} recipes/large.yaml explains every key."


def _line_of_key(recipe: Path, key: str) -> int | None:
    """The line of a dotted key in a YAML file; None where it is not there."""

    try:
        node = yaml.compose(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    line = None
    for part in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        match = next(((k, v) for k, v in pairs if k.value == part), None)
        if match is None:
            return line if part != key.split(".")[-1] else None
        line, node = match[0].start_mark.line + 1, match[1]
    return line
