"""Results of `jadeberta finetune` beside the figures on texts: the chosen setting of each task and model."""

from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import InputError


def read_jglue(directory: Path) -> dict[str, dict[str, Any]]:
    """Reads every results.json below a directory, by task and by the directory of its model.

    Raises:
        InputError: there is none, or one is not of `jadeberta finetune`.
    """
    paths = sorted(directory.rglob("results.json")) if directory.is_dir() else []
    if not paths:
        raise InputError(
            f"{directory}: no results.json below it. Name the folder of the --out directories of 'jadeberta finetune'."
        )
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            content = orjson.loads(path.read_bytes())
            chosen, task, name = content["chosen"], str(content["task"]), str(content["model_directory"])
            if chosen is None:
                continue
            scores = {str(metric): float(value) for metric, value in chosen["mean"]["valid"].items()}
            entry = {"scores": scores, "seeds": len(chosen["seeds"]), "lr": float(chosen["lr"]), "epochs": int(chosen["epochs"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(
                f"{path}: not the result of 'jadeberta finetune' ({type(e).__name__}: {e}). Move it away, or make it again."
            ) from e
        models = found.setdefault(task, {"models": {}})["models"]
        models[name if name not in models else f"{name} ({path.parent})"] = entry | {"file": str(path)}
    return found
