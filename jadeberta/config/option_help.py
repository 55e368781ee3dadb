"""The help of `jadeberta pretrain`: every key of a recipe with its type, default and sentence, taken from the docstrings of the schema."""

import ast
import inspect
import shutil
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal

from jadeberta.config.load_recipe import PATH_KEYS
from jadeberta.config.phase_config import PhaseConfig
from jadeberta.config.schema import Recipe

PATHS = [key.rpartition(".")[2] for key in PATH_KEYS]
TYPES = {str: "TEXT", int: "N", float: "X", bool: "true|false"}


def render_help(own_options: list[tuple[str, str]]) -> str:
    """Returns the whole help, wrapped to the terminal.

    Args:
        own_options: options of the command that are no keys of a recipe, each with its sentence.
    """
    width = min(100, max(40, shutil.get_terminal_size().columns))
    lines = ["usage: jadeberta pretrain [--config RECIPE] [options]", ""]
    lines += textwrap.wrap(
        "Trains to training.max_steps; resumes from the run's newest checkpoint. Options override the recipe's keys.", width
    )
    lines += ["", "options:", *_entries(own_options, width)]
    for section in fields(Recipe):
        inner: Any = section.default_factory
        if not is_dataclass(inner):
            continue
        lines += ["", *textwrap.wrap(f"{section.name}: {inspect.getdoc(inner)}", width)]
        lines += _entries(((f"--{section.name}.{name}", text) for name, text in describe_fields(inner)), width)
    recipe: Any = Recipe
    single = [(f"--{name}", text) for name, text in describe_fields(recipe)]
    lines += ["", "other keys of the recipe:", *_entries(single, width), ""]
    lines += ["an entry of --phases:", *_entries(describe_fields(PhaseConfig), width), ""]
    lines += textwrap.wrap("recipes/large.yaml shows every key with the published run's value and its source.", width)
    return "\n".join(lines)


def describe_fields(section: Any) -> Iterator[tuple[str, str]]:
    """Yields the fields of a section, each as its name with its values, and its sentence with the default.

    Old spellings, which are no fields, and fields that are sections themselves are left out.

    Args:
        section: a dataclass of the schema.
    """
    sentences, types = docstrings(section), typing.get_type_hints(section)
    for field in fields(section):
        if not is_dataclass(field.default_factory):
            values = "PATH" if field.name in PATHS else _values(types[field.name])
            yield f"{field.name} {values}", f"{sentences[field.name]} (default {_default(field)})"


def docstrings(section: type) -> dict[str, str]:
    """Returns the string below each field of a dataclass, as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)):
            continue
        if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            found[field.target.id] = " ".join(text.value.value.split())
    return found


def _values(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    return TYPES.get(kind, "YAML")


def _default(field: Field) -> str:
    factory: Any = field.default_factory
    value = field.default if field.default is not MISSING else factory()
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "the run's"
    if isinstance(value, str | list | dict) and not value:
        return "empty"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _entries(options: Any, width: int) -> list[str]:
    """Each option on a line of its own, with its sentence indented below."""
    lines = []
    for option, text in options:
        lines += textwrap.wrap(option, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
        lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
    return lines
