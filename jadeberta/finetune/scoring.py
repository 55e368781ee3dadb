"""Predictions and scores from the logits of a model."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jadeberta.finetune import task_metrics as metrics
from jadeberta.finetune.features import Example
from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.jnli_labels import labels_by_version
from jadeberta.finetune.spans import Window, best_span
from jadeberta.finetune.tasks import Task

METRICS: dict[str, Callable[..., float]] = {
    "pearson": metrics.pearson,
    "spearman": metrics.spearman,
    "accuracy": metrics.accuracy,
    "exact_match": metrics.exact_match,
    "f1": metrics.f1,
    "scripts_exact_match": metrics.scripts_exact_match,
    "scripts_f1": metrics.scripts_f1,
    "mcc": metrics.matthews,
}


def predict(
    task: Task, rows: Sequence[JglueRow], examples: Sequence[Example], answers: Sequence[tuple[np.ndarray, ...]]
) -> list[Any]:
    """Returns one prediction per row: a similarity, the number of a class or choice, or a span of the context.

    Args:
        task: of the rows.
        rows: to predict.
        examples: of the rows; a row of JSQuAD may have several.
        answers: logits of each example.
    """
    if task.kind == "regression":
        return [float(logits[0]) for (logits,) in answers]
    if task.kind != "span":
        return [int(np.argmax(logits)) for (logits,) in answers]
    windows: list[list[Window]] = [[] for _ in rows]
    for example, (starts, ends) in zip(examples, answers, strict=True):
        assert example.spans is not None
        # An answer is a part of the context, so logits of the question count for nothing.
        inside = slice(example.offset, example.offset + len(example.spans))
        windows[example.row].append(Window(starts[inside], ends[inside], example.spans))
    return [_text(row, best_span(own)) for row, own in zip(rows, windows, strict=True)]


def wanted_of(task: Task, rows: Sequence[JglueRow]) -> list[Any]:
    """Returns the targets of the predictions: labels, or for JSQuAD the texts of all answers."""
    return [[text for text, _ in row.answers] for row in rows] if task.kind == "span" else [row.label for row in rows]


def is_labelled(task: Task, rows: Sequence[JglueRow]) -> bool:
    """Whether the rows can be scored; of a file either all or none can."""
    return all(row.is_labelled(task) for row in rows)


def score(task: Task, rows: Sequence[JglueRow], predictions: Sequence[Any]) -> dict[str, float]:
    """Computes the task's metrics, each from 0 to 1 (correlations from -1).

    JNLI's dev set is scored with the labels of both of its versions as well.
    """
    wanted = wanted_of(task, rows)
    scores = {metric: METRICS[metric](predictions, wanted) for metric in (*task.metrics, *task.also)}
    versions = labels_by_version(rows) if task.name == "jnli" else {}
    return scores | {f"accuracy_{version}": metrics.accuracy(predictions, labels) for version, labels in versions.items()}


def ceiling(task: Task, rows: Sequence[JglueRow], examples: Sequence[Example]) -> dict[str, float]:
    """Computes JSQuAD's scores of a model that always points at the pieces of the first answer; empty for other tasks and without answers.

    Below 1 if an answer begins or ends inside a piece, or lies in no single window.
    """
    if task.kind != "span" or not is_labelled(task, rows):
        return {}
    texts = [""] * len(rows)
    for example in examples:
        first, last = (place - example.offset for place in example.places)
        if first >= 0 and example.spans is not None:
            texts[example.row] = _text(rows[example.row], (example.spans[first, 0], example.spans[last, 1]))
    return score(task, rows, texts)


def record(task: Task, rows: Sequence[JglueRow], predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns predictions beside targets, classes by name, for the predictions file; without labels the predictions alone."""

    def name(value: Any) -> Any:
        return task.labels[int(value)] if task.labels else value

    if not is_labelled(task, rows):
        return [{"id": row.id, "predicted": name(p)} for row, p in zip(rows, predictions, strict=True)]
    wanted = wanted_of(task, rows)
    return [{"id": row.id, "predicted": name(p), "wanted": name(w)} for row, p, w in zip(rows, predictions, wanted, strict=True)]


def _text(row: JglueRow, span: tuple[int, int]) -> str:
    return row.texts[1][slice(*span)]
