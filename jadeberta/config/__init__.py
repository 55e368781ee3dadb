"""The recipe: its dataclasses, how it is read, and what is refused."""

from jadeberta.config.load_recipe import (
    OLD_KEYS,
    PROJECT,
    add_recipe_arguments,
    dump,
    known_keys,
    load_recipe,
    recipe_from_arguments,
    resolve_file,
)
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
    accumulation_steps,
)

__all__ = [
    "OLD_KEYS",
    "PROJECT",
    "CheckpointConfig",
    "ClusterConfig",
    "DataConfig",
    "EvaluationConfig",
    "GuardConfig",
    "LoggingConfig",
    "ModelConfig",
    "Recipe",
    "RunConfig",
    "TrainingConfig",
    "WatchdogConfig",
    "accumulation_steps",
    "add_recipe_arguments",
    "dump",
    "known_keys",
    "load_recipe",
    "recipe_from_arguments",
    "resolve_file",
]
