"""The file that describes a race: the recipes that take part, their sizes, the grid of each, the seeds and the budgets."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from jadeberta.errors import ConfigError
from jadeberta.utils.bounded_yaml import require_bounded
from jadeberta.utils.paths import find_recipe

Changes = dict[str, Any]
"""Keys of a recipe, dotted, with the values that replace the base recipe's."""


@dataclass(frozen=True)
class Race:
    """What a race file says."""

    base: str
    """Recipe that every run starts from."""
    target: str
    """Contestant whose accuracy at the end of its budget the others are to reach."""
    contestants: dict[str, Changes]
    """Changes to the base recipe, by name; an empty mapping is the base recipe."""
    sizes: dict[str, Changes] = field(default_factory=lambda: {"one": {}})
    """Changes that make a model of each size."""
    tune: Changes = field(default_factory=dict)
    """Values that each contestant is tried with first, as lists by key: {training.lr: [5e-4, 1e-3]}."""
    tune_budget: float = 1.0
    """Share of the target's FLOPs that a run of the grid gets."""
    grids: dict[str, Changes] = field(default_factory=dict)
    """A contestant's own values in place of those of `tune`; as many as there, so that none is tuned more than another."""
    seeds: list[int] = field(default_factory=lambda: [1])
    """Seeds of the runs of a finalist; the others get the first alone."""
    budgets: list[float] = field(default_factory=lambda: [1.0])
    """Shares of the target's FLOPs, each a run of its own with a whole schedule."""
    finalists: int = 0
    """Number of contestants, beside the target, that are run with every seed; 0: all."""


def read_race(path: Path) -> Race:
    """Reads and checks a race file.

    Raises:
        ConfigError: the file is missing or no race; names the key.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: a folder, a pipe or a device; a race is a file of YAML.")
    try:
        require_bounded(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read as a race ({e.strerror}).") from e
    except (ValueError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: cannot be read as a race ({' '.join(str(e).split())}).") from e
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is no mapping; it must give base, target and contestants.")
    known = [each.name for each in fields(Race)]
    if unknown := [key for key in content if key not in known]:
        raise ConfigError(f"{path}: unknown key {unknown[0]}; a race has {', '.join(known)}.")
    if missing := [key for key in known[:3] if key not in content]:
        raise ConfigError(f"{path}: {missing[0]} is missing.")
    race = Race(**content)
    if problem := _problem_of(race):
        raise ConfigError(f"{path}: {problem}")
    find_recipe(race.base)
    return race


def grid_of(race: Race, contestant: str) -> list[Changes]:
    """Returns the settings that a contestant is tried with; one without changes where there is no grid."""
    points: list[Changes] = [{}]
    for key, values in race.grids.get(contestant, race.tune).items():
        points = [{**point, key: value} for point in points for value in values]
    return points


def _problem_of(race: Race) -> str:
    """Returns what is wrong with a race as a sentence, or an empty string."""
    named: list[tuple[str, Any]] = [("contestants", race.contestants), ("sizes", race.sizes)]
    for key, value in named:
        if not isinstance(value, dict) or not value or not all(_is_name(name) for name in value):
            return f"{key} must be a mapping of names (letters, digits, -, _ and dots) to changes of the recipe."
        if wrong := [name for name, changes in value.items() if not _is_changes(changes)]:
            return f"{key}.{wrong[0]} must be a mapping of recipe keys to values, such as {{training.mask_probability: 0.3}}."
    if not isinstance(race.base, str):
        return f"base must be the path of a recipe, not {race.base!r}."
    if race.target not in race.contestants:
        return f"target is {race.target!r}; it must be one of the contestants ({', '.join(race.contestants)})."
    if not isinstance(race.grids, dict) or (unknown := [name for name in race.grids if name not in race.contestants]):
        return (
            f"grids must be a mapping of contestants to their values; {unknown[0]!r} is none."
            if race.grids
            else "grids is no mapping."
        )
    for where, grid in (("tune", race.tune), *((f"grids.{name}", grid) for name, grid in race.grids.items())):
        if not _is_changes(grid) or not all(isinstance(values, list) and values for values in grid.values()):
            return f"{where} must give a list of values for each key, such as {{training.lr: [5e-4, 1e-3]}}."
    sizes = {name: len(grid_of(race, name)) for name in race.contestants}
    if len(set(sizes.values())) > 1:
        odd = next(name for name, size in sizes.items() if size != sizes[race.target])
        return f"grids.{odd} has {sizes[odd]} settings and {race.target} {sizes[race.target]}; every contestant gets as many."
    if not isinstance(race.seeds, list) or not race.seeds or not all(_is_whole(seed) for seed in race.seeds):
        return "seeds must be a list of whole numbers of at least 0."
    if len(set(race.seeds)) < len(race.seeds):
        return "seeds has the same number twice."
    shares = [("tune_budget", [race.tune_budget]), ("budgets", race.budgets)]
    for key, value in shares:
        if not isinstance(value, list) or not value or not all(_is_share(share) for share in value):
            return f"{key} must be shares of the target's FLOPs above 0 and at most 4."
    if not _is_whole(race.finalists):
        return "finalists must be a number of contestants; 0 takes all."
    return ""


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.replace("-", "").replace("_", "").replace(".", "").isalnum() and name[0] != "."


def _is_changes(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 < value <= 4
