"""Reads a recipe: one YAML file and the command line become checked dataclasses; mistakes become one sentence with file and line."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from jadeberta.config.schema import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    GuardConfig,
    LoggingConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    TrainingConfig,
    WatchdogConfig,
)
from jadeberta.config.validate import validate
from jadeberta.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]


def add_recipe_arguments(parser: Any) -> None:
    """Adds --config and one option for every key of a recipe to a jsonargparse parser."""
    parser.add_argument("--config", action="config", help="recipe, a YAML file; options after it override its keys")
    parser.add_argument("--run", type=RunConfig)
    parser.add_argument("--data", type=DataConfig)
    parser.add_argument("--model", type=ModelConfig)
    parser.add_argument("--training", type=TrainingConfig)
    parser.add_argument("--deepspeed", type=str, default=Recipe.deepspeed, help="DeepSpeed's settings, a JSON file")
    parser.add_argument("--checkpoint", type=CheckpointConfig)
    parser.add_argument("--evaluation", type=EvaluationConfig)
    parser.add_argument("--guard", type=GuardConfig)
    parser.add_argument("--watchdog", type=WatchdogConfig)
    parser.add_argument("--cluster", type=ClusterConfig)
    parser.add_argument("--logging", type=LoggingConfig)
    parser.add_argument("--preprocess", type=dict, default={}, help="read by python -m preprocess")


def recipe_from_arguments(arguments: Any) -> Recipe:
    """The checked recipe of parsed arguments. Raises ConfigError."""
    sections = {name: getattr(arguments, name) for name in Recipe.__dataclass_fields__}
    recipe = Recipe(**{name: value for name, value in sections.items() if value is not None})
    validate(recipe)
    return recipe


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads a recipe file with overrides like ("--training.lr", "1e-3"). Raises ConfigError."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_recipe_arguments(parser)
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such recipe. The ones that come with the project lie in recipes/.")
    try:
        arguments = parser.instantiate(parser.parse_args(["--config", str(path), *overrides]))
    except (jsonargparse.ArgumentError, yaml.YAMLError) as e:
        raise ConfigError(explain_recipe_error(str(e), Path(path), known_keys(), overrides)) from e
    return recipe_from_arguments(arguments)


def known_keys() -> list[str]:
    """Every key of a recipe, dotted."""
    names: list[str] = []
    for section in fields(Recipe):
        inner: tuple = fields(section.default_factory) if is_dataclass(section.default_factory) else ()  # type: ignore[arg-type]
        names += [f"{section.name}.{f.name}" for f in inner] or [section.name]
    return names


def resolve_file(name: str) -> Path:
    """A file named in a recipe: relative to the current directory, else to the project. Raises ConfigError."""
    for path in (Path(name), PROJECT / name):
        if path.is_file():
            return path
    raise ConfigError(f"{name}: no such file, neither here nor in {PROJECT}.")


def dump(recipe: Recipe) -> str:
    """The recipe, resolved, as YAML."""
    return yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)


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
    import yaml

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
