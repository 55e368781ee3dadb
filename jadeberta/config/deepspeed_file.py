"""Reads DeepSpeed's settings, the JSON file that a recipe names under `deepspeed`, and refuses what the recipe itself decides.

The engine fills in what the file leaves to the recipe. What else the file may hold is DeepSpeed's own.
"""

import json
from pathlib import Path
from typing import Any

from jadeberta.config.load_recipe import resolve_file
from jadeberta.config.schema import Recipe
from jadeberta.errors import ConfigError

SECTIONS = ("bf16", "fp16", "zero_optimization", "timers")
STAGES = (1, 2, 3)
DECIDED_ELSEWHERE = {
    "optimizer": "training.lr and the other keys of the recipe make the optimizer",
    "scheduler": "training.schedule of the recipe makes the learning rate",
}
"""Sections of DeepSpeed's that would be ignored, or contradict the recipe."""


def read_deepspeed_file(name: str) -> tuple[Path, dict[str, Any]]:
    """Returns the file and its settings.

    Args:
        name: as the recipe has it, relative to the current directory or to the project.

    Raises:
        ConfigError: there is no such file, it is no JSON object, a section is none, its ZeRO stage is not 1, 2 or 3, or it sets what the
            recipe decides.
    """
    path = resolve_file(name)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}, line {e.lineno}: not JSON ({e.msg}).") from e
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: cannot be read as JSON ({e}).") from e
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds {json.dumps(settings)[:60]}, not an object; ds_configs/zero1.json is an example.")
    for section in SECTIONS:
        if not isinstance(settings.get(section, {}), dict):
            raise ConfigError(f"{path}: {section} is {json.dumps(settings[section])[:60]}; it must be an object.")
    if not isinstance(throughput := settings.get("timers", {}).get("throughput", {}), dict):
        raise ConfigError(f"{path}: timers.throughput is {json.dumps(throughput)[:60]}; it must be an object.")
    if isinstance(stage := settings.get("zero_optimization", {}).get("stage"), bool) or stage not in STAGES:
        raise ConfigError(f"{path}: zero_optimization.stage is {json.dumps(stage)[:60]}; it must be 1, 2 or 3.")
    for key, why in DECIDED_ELSEWHERE.items():
        if key in settings:
            raise ConfigError(f"{path}: {key} does not belong there, as {why}; take it out.")
    if settings.get("fp16", {}).get("enabled", False) is not False:
        raise ConfigError(f"{path}: fp16.enabled does not belong there, as training.precision is bf16 or fp32; take fp16 out.")
    return path, settings


def overlaps(recipe: Recipe, zero: dict[str, Any]) -> bool:
    """Whether communication runs beside the backward pass on GPUs.

    A compiled backward pass returns all gradients at its end. Under ZeRO 3 nothing is compiled.

    Args:
        recipe: of the run.
        zero: section `zero_optimization` of a DeepSpeed file.
    """
    auto = recipe.training.objective == "mlm" and recipe.model.attention != "eager"
    compiled = zero["stage"] < 3 and recipe.training.compile != "never" and (auto or recipe.training.compile == "always")
    return zero["stage"] >= 2 and bool(zero.get("overlap_comm", False)) and not compiled
