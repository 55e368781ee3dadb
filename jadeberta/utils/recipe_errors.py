"""A mistake in a recipe or on the command line as one sentence: file, line, key, what is wrong, and the key that was probably meant."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

# jsonargparse 4.53 names the key of a wrong value in the text of its error and nowhere else. Unknown keys are found without its text.
WRONG_VALUE = re.compile(r'Parser key "(?P<key>[\w.-]+)":? ?(?P<reason>.*)')
TYPE_NAME = re.compile(r"Expected a (?:<class '(\w+)'>|typing\.(\w+))")
NO_SUBTYPE = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(?P<types>.*)\] Errors: .* Given value: (?P<value>.*)"
)


def explain_recipe_error(message: str, recipe: Path | None, known_keys: Iterable[str], arguments: Iterable[str] = ()) -> str:
    """Returns the error of a parser as one sentence.

    Args:
        message: text of the error, of jsonargparse or PyYAML.
        recipe: the YAML file; None where there is none.
        known_keys: every key that the recipe may have, dotted. Below the longest prefix that all have in common no other is allowed.
        arguments: of the command line, where the faulty key may stand.
    """
    known = list(known_keys)
    text = TYPE_NAME.sub(r"Expected \1\2", " ".join(message.split()).rstrip("."))
    given = [a.removeprefix("--").split("=")[0] for a in arguments if a.startswith("--")]
    wrong = WRONG_VALUE.search(text)
    if wrong is not None:
        key = wrong["key"]
        reason = NO_SUBTYPE.sub(_no_subtype, wrong["reason"])
        return _sentence(None if key in given else recipe, key, f"{key}: {reason}.")
    refused = text.partition("unrecognized arguments: ")[2].split()
    unknown = [key for key in given if f"--{key}" in refused or ("." in key and not _is_known(key, known))]
    if unknown:
        return _sentence(None, "", _unknown_key(unknown[0], known))
    if recipe is not None and (key := _first_unknown(recipe, known)):
        return _sentence(recipe, key, _unknown_key(key, known))
    if text.startswith("Unexpected config"):
        text = "not a recipe: no sections such as 'preprocess:' with keys under them"
    on_command_line = bool(refused) or text.startswith("argument --")
    return _sentence(None if on_command_line else recipe, "", f"{text}.")


def _no_subtype(found: re.Match[str]) -> str:
    types = re.sub(r"<class '(\w+)'>|typing\.", r"\1", found["types"])
    return f"{found['value']} is none of these: {types}"


def _sentence(recipe: Path | None, key: str, text: str) -> str:
    line = _line_of_key(recipe, key) if recipe is not None and key else None
    return f"{recipe or 'command line'}{f', line {line}' if line else ''}: {text} recipes/large.yaml explains every key."


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else ".")


def _is_known(key: str, known: list[str]) -> bool:
    """Whether a key is known, a section of known keys, or inside a known key that holds a dictionary with any keys."""
    sections = {name.rpartition(".")[0] for name in known}
    dictionaries = [name for name in known if name not in sections]
    return any(name == key or name.startswith(f"{key}.") for name in known) or any(key.startswith(f"{d}.") for d in dictionaries)


def _first_unknown(recipe: Path, known: list[str]) -> str | None:
    """Returns the first key of the file that is not known, dotted; None where all are, or the file is not YAML."""
    # The keys of one section may be all that is known: nothing can be said about the others.
    root = known[0].split(".")[:-1]
    while root and not all(name.startswith(f"{'.'.join(root)}.") for name in known):
        root.pop()
    prefix = "".join(f"{part}." for part in root)
    for key in _leaves(_compose(recipe), ""):
        if key.startswith(prefix) and not _is_known(key, known):
            return key
    return None


def _leaves(node: yaml.Node | None, prefix: str) -> Iterable[str]:
    """Yields the dotted key of every value that is no mapping."""
    if not isinstance(node, yaml.MappingNode):
        if prefix:
            yield prefix
        return
    for key, value in node.value:
        yield from _leaves(value, f"{prefix}.{key.value}" if prefix else str(key.value))


def _compose(recipe: Path) -> yaml.Node | None:
    try:
        return yaml.compose(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _line_of_key(recipe: Path, key: str) -> int | None:
    """Returns the line of a dotted key in a YAML file; None where it is not there."""
    node, line = _compose(recipe), None
    for part in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        match = next(((k, v) for k, v in pairs if k.value == part), None)
        if match is None:
            return line if part != key.split(".")[-1] else None
        line, node = match[0].start_mark.line + 1, match[1]
    return line
