"""`jadeberta finetune table`: the results of several models and tasks in one table, beside the baselines and the published rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.published_scores import DEV, SOURCES, Row
from jadeberta.finetune.results_dir import RESULTS
from jadeberta.finetune.results_table import SHORT
from jadeberta.finetune.tasks import TASKS, Task
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option

Scores = dict[str, dict[str, float]]
"""By task and metric."""


def main(arguments: list[str]) -> int:
    """Prints the table.

    Raises:
        InputError: a directory holds no results, or they cannot be read.
        ConfigError: two results are of one model and task, or were scored on different files.
    """
    parser = OneSentenceParser(
        prog="jadeberta finetune table",
        description="Puts the results of several models and tasks into one table, in Markdown or JSON.",
        epilog="Each model has the scores of its chosen setting on dev, the mean over its seeds.",
    )
    parser.add_argument(
        "directories", type=path_option, nargs="+", metavar="DIR", help="an --out of finetune, or a folder of such"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    options = parser.parse_args(arguments)
    models, baselines, files = merge([_read(path) for path in _found(options.directories)])
    if options.json:
        document = {"models": models, "without_pre_training": baselines, "published": _published(files), "valid_sha256": files}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        print(format_markdown(models, baselines, list(files)))
    return 0


def _found(directories: Sequence[Path]) -> list[Path]:
    found = []
    for directory in directories:
        here = [
            p
            for p in (directory / RESULTS, *sorted(directory.glob(f"*/{RESULTS}")), *sorted(directory.glob(f"*/*/{RESULTS}")))
            if p.is_file()
        ]
        if not here:
            raise InputError(f"{directory}: no {RESULTS} there or in its folders. Name an --out of 'jadeberta finetune'.")
        found += here
    return list(dict.fromkeys(path.resolve() for path in found))


def _read(path: Path) -> dict[str, Any]:
    """What the table needs of a results.json."""
    try:
        found = orjson.loads(path.read_bytes())
        chosen = found["chosen"]
        scores = chosen["mean"]["valid"] if chosen else None
        return {
            "path": path, "task": found["task"], "model": _name(found), "sha256": found["model"]["sha256"], "scores": scores,
            "valid": found["data"]["valid"], "trivial": {name: own["valid"] for name, own in found.get("trivial", {}).items()},
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}: not readable as results of finetune ({type(e).__name__}: {e}). Give the command again that wrote it."
        ) from e


def _name(found: dict[str, Any]) -> str:
    directory = Path(found["model_directory"])
    # Of a run the newest checkpoint was taken; its own name says little.
    name = f"{directory.parent.parent.name} {directory.name}" if directory.parent.name == "checkpoints" else directory.name
    return f"{name}, random weights" if found["model"]["sha256"].startswith("random weights") else name


def merge(results: Sequence[dict[str, Any]]) -> tuple[dict[str, Scores], dict[str, Scores], dict[str, str]]:
    """Returns scores by model and by baseline, and the hash of dev by task, tasks in JGLUE's order.

    Args:
        results: as `_read` returns them.

    Raises:
        ConfigError: two are of one model and task, two models share a name, or dev differs.
    """
    models: dict[str, Scores] = {}
    baselines: dict[str, Scores] = {}
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    hashes: dict[str, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for one in results:
        task, model = one["task"], one["model"]
        if other := seen.get((task, model)):
            raise ConfigError(f"{one['path']} and {other['path']} are both of {task} and {model}. Name one of them.")
        first = files.setdefault(task, one)
        if first["valid"] != one["valid"]:
            raise ConfigError(
                f"{one['path']} was scored on another dev file of {task} than {first['path']}. Fine-tune both with the same --data."
            )
        if hashes.setdefault(model, one["sha256"]) != one["sha256"]:
            raise ConfigError(
                f"{one['path']}: another model has the name {model}, too. Rename one of the directories, or leave it out."
            )
        seen[task, model] = one
        own = models.setdefault(model, {})
        if one["scores"] is not None:
            own[task] = one["scores"]
        for name, scores in one["trivial"].items():
            baselines.setdefault(name, {})[task] = scores
    return models, baselines, {task: files[task]["valid"] for task in TASKS if task in files}


def _columns(models: dict[str, Scores], tasks: Sequence[str]) -> list[tuple[str, str]]:
    """Task and metric of each column. Where JNLI has scores with both labels, the file's own add nothing."""
    columns = []
    for name in tasks:
        metrics = dict.fromkeys(m for scores in models.values() for m in scores.get(name, {})) or dict.fromkeys(
            TASKS[name].metrics
        )
        if name == "jnli" and len(metrics) > 1:
            metrics.pop("accuracy", None)
        columns += [(name, metric) for metric in metrics]
    return columns


def published_scores(row: Row, task: Task) -> dict[str, float]:
    """A published row's scores of a task by the metric that they mean here: JNLI's by version, JSQuAD's by definition."""
    if task.name not in row.scores:
        return {}
    scores = row.scores_of(task)
    if task.name == "jnli":
        return scores | {f"accuracy_{row.jglue}": scores["accuracy"]}
    if task.name == "jsquad" and SOURCES[row.source].squad == "scripts":
        return {f"scripts_{metric}": score for metric, score in scores.items()}
    return scores


def _published(tasks: Sequence[str] | dict[str, str]) -> dict[str, Scores]:
    rows = {row.name: {name: own for name in tasks if (own := published_scores(row, TASKS[name]))} for row in DEV}
    return {name: own for name, own in rows.items() if own}


def format_markdown(models: dict[str, Scores], baselines: dict[str, Scores], tasks: Sequence[str]) -> str:
    """Formats the table: models, baselines, published rows; a column for each task and metric, - where there is no score.

    Args:
        models: scores by model.
        baselines: scores by baseline.
        tasks: those of the columns.
    """
    columns = _columns(models, tasks)
    lines = [["model", *(f"{task} {SHORT.get(metric, metric)}" for task, metric in columns)]]
    for title, rows in (("", models), ("without pre-training: ", baselines), ("published: ", _published(tasks))):
        for name, scores in rows.items():
            cells = [scores.get(task, {}).get(metric) for task, metric in columns]
            lines.append([(title + name).replace("|", "\\|"), *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
    rule = ["---", *("---:" for _ in columns)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))
