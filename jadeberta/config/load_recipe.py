"""Reads a recipe: one YAML file and the command line become checked dataclasses; a mistake becomes one sentence with file and line."""

import contextlib
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from jadeberta.config.alerts_config import AlertsConfig
from jadeberta.config.init_from import complete_model
from jadeberta.config.phase_config import read_phases
from jadeberta.config.rtd import RtdConfig
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
from jadeberta.utils.paths import expand_user, find_recipe, user_path
from jadeberta.utils.recipe_errors import explain_recipe_error

PROJECT = Path(__file__).resolve().parents[2]
"""Root of the checkout."""
OLD_KEYS = ("cluster.fruitless_lives", "logging.tensorboard")
"""Old spellings of keys, still accepted; the resolved recipe has the new one."""

LONGEST_OPTION = 10_000
"""Characters of an option; of a long list the parser copies the whole for each of its entries."""
PATH_KEYS = ("run.dir", "data.shards", "model.init_from", "checkpoint.staging", "deepspeed")
"""Keys that hold a path; that of a corpus, under preprocess, is read by `python -m preprocess`."""


def add_recipe_arguments(parser: Any) -> None:
    """Adds --config and an option for every key of a recipe to a jsonargparse parser."""
    parser.add_argument("--config", action="config", help="recipe, a YAML file; options after it override its keys")
    parser.add_argument("--run", type=RunConfig)
    parser.add_argument("--data", type=DataConfig)
    parser.add_argument("--model", type=ModelConfig)
    parser.add_argument("--training", type=TrainingConfig)
    parser.add_argument("--rtd", type=RtdConfig)
    # Any, since of a list the parser copies the whole for each of its entries.
    parser.add_argument("--phases", type=Any, default=[], help="phases of the run, a list")
    parser.add_argument("--deepspeed", type=str, default=Recipe.deepspeed, help="DeepSpeed's settings, a JSON file")
    parser.add_argument("--checkpoint", type=CheckpointConfig)
    parser.add_argument("--evaluation", type=EvaluationConfig)
    parser.add_argument("--guard", type=GuardConfig)
    parser.add_argument("--watchdog", type=WatchdogConfig)
    parser.add_argument("--cluster", type=ClusterConfig)
    parser.add_argument("--logging", type=LoggingConfig)
    parser.add_argument("--alerts", type=AlertsConfig)
    parser.add_argument("--preprocess", type=dict, default={}, help="read by python -m preprocess")


def recipe_from_arguments(arguments: Any, written: Any, branch_from: Path | None = None) -> Recipe:
    """Makes the recipe from a parser's result, with `~` expanded in its paths and the model of `model.init_from` in it, and checks it.

    Args:
        arguments: the parser's result with its sections as dataclasses.
        written: the parser's result without defaults: what the recipe and the options give.
        branch_from: checkpoint or run that the run is a branch of.

    Raises:
        ConfigError: two settings contradict each other, or a number is out of its range.
    """
    sections = {name: getattr(arguments, name) for name in Recipe.__dataclass_fields__}
    recipe = Recipe(**{name: value for name, value in sections.items() if value is not None})
    recipe.phases = read_phases(recipe.phases)
    for name, section in vars(recipe).items():
        # The parser takes null for a value of any type.
        if is_dataclass(section) and (empty := [key for key, value in vars(section).items() if value is None]):
            raise ConfigError(f"{name}.{empty[0]} has no value; give it one, or leave the key out for its default.")
    for key in PATH_KEYS:
        section, _, name = key.rpartition(".")
        holder = getattr(recipe, section) if section else recipe
        setattr(holder, name, expand_user(getattr(holder, name), key))
    if recipe.model.init_from:
        recipe.model = complete_model(recipe.model, vars(written.get("model") or {}), Path(recipe.run.dir), branch_from)
    elif recipe.model.init_tokenizer != "same":
        raise ConfigError("model.init_tokenizer belongs to model.init_from, which is empty; name a source, or leave it out.")
    validate(recipe)
    return recipe


def parse_recipe(parser: Any, options: list[str]) -> tuple[Any, Any]:
    """Returns a parser's result with its sections as dataclasses, and its result without defaults, for `recipe_from_arguments`.

    Raises:
        ConfigError: a section is empty or none, or an option is far longer than any value is.
    """
    if long := next((option for option in options if len(option) > LONGEST_OPTION), None):
        raise ConfigError(
            f"{long[:40]}... on the command line has {len(long):,} characters; an option may have {LONGEST_OPTION:,}. "
            "Write it into the recipe."
        )
    found, written = parser.parse_args(options), parser.parse_args(options, defaults=False)
    # A section of keys has no value where it is empty; a key without a section is its default then, so only what is written tells.
    empty = [
        field.name
        for field in fields(Recipe)
        if found.get(field.name) is None or (field.name in written and written.get(field.name) is None)
    ]
    if empty:
        raise ConfigError(f"{empty[0]} has no value; give it one, or leave it out for its default.")
    for field in fields(Recipe):
        # jsonargparse takes a number or a list for a section of keys, and fails where it makes a dataclass of it.
        if is_dataclass(field.default_factory) and isinstance(found.get(field.name), bool | int | float | list):
            raise ConfigError(f"{field.name} is {str(found.get(field.name))[:60]}; it must be a section of keys.")
    return parser.instantiate(found), written


def load_recipe(path: str | Path, overrides: tuple[str, ...] = (), branch_from: Path | None = None) -> Recipe:
    """Reads a recipe.

    Args:
        path: the YAML file.
        overrides: options of the command line, such as ("--training.lr", "1e-3").
        branch_from: checkpoint or run that the run is a branch of.

    Raises:
        ConfigError: the file is missing or no recipe, a key is unknown, or a value is wrong; names file, line and key.
    """
    import jsonargparse

    # By default jsonargparse prints its usage and exits; here a mistake becomes one sentence.
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_recipe_arguments(parser)
    path = find_recipe(str(path))
    try:
        options = ["--config", str(path), *overrides]
        arguments, written = parse_recipe(parser, options)
    except (jsonargparse.ArgumentError, yaml.YAMLError, ValueError, OverflowError, OSError) as e:
        raise ConfigError(explain_recipe_error(str(e), path, [*known_keys(), *OLD_KEYS], overrides)) from e
    return recipe_from_arguments(arguments, written, branch_from)


def known_keys() -> list[str]:
    """Returns every key of a recipe, dotted, without old spellings."""
    names: list[str] = []
    for section in fields(Recipe):
        inner: tuple = fields(section.default_factory) if is_dataclass(section.default_factory) else ()  # type: ignore[arg-type]
        names += [f"{section.name}.{f.name}" for f in inner] or [section.name]
    return names


def resolve_file(name: str) -> Path:
    """Finds a file named in a recipe: relative to the current directory, else to the project.

    Raises:
        ConfigError: it is in neither place.
    """
    for path in (user_path(name), PROJECT / name):
        with contextlib.suppress(OSError):  # a name that is too long
            if path.is_file():
                return path
    raise ConfigError(f"{name}: no such file, neither here nor in {PROJECT}.")


def dump(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML."""
    return yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)
