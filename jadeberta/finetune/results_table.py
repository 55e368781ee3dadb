"""The results of an experiment as a table and as the content of `results.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from jadeberta.finetune.grid import FinetuneConfig, Result, SettingSummary, choose, summarise
from jadeberta.finetune.published_scores import DEV, SOURCES, TEST, Row
from jadeberta.finetune.tasks import Task
from jadeberta.utils.text_table import format_table

SHORT = {
    "exact_match": "EM",
    "f1": "F1",
    "scripts_exact_match": "EM (scripts)",
    "scripts_f1": "F1 (scripts)",
    "accuracy_1.1": "accuracy, labels 1.1",
    "accuracy_1.3": "accuracy, labels 1.3",
}


def rule(task: Task, config: FinetuneConfig, settings: int) -> str:
    """Returns a sentence about how the setting was chosen, and what that means for its score."""
    if settings < 2:
        return "One setting: nothing was chosen."
    how = (
        f"Chosen: highest mean {task.chosen_by} of the seeds on {config.choose_on}; of equals fewer epochs, then the lower rate."
    )
    if config.choose_on == "fold":
        return f"{how} fold was kept out of training, so the scores on valid played no part in it."
    return f"{how} The same scores on valid chose it, so they flatter it a little, as the published ones do."


def results_json(task: Task, config: FinetuneConfig, about: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Builds the content of `results.json`.

    Args:
        task: that was fine-tuned.
        config: settings that all trials share.
        about: task, model, data, segmenter and config, plain JSON.
        results: of the finished trials.
    """
    summaries = summarise(results)
    best = choose(summaries, task, config.choose_on)
    return {
        **about,
        "points": [
            {"name": r.trial.name, **asdict(r.trial), "diverged": r.diverged, "scores": r.scores, "seconds": r.seconds, **r.notes}
            for r in results
        ],
        "settings": [asdict(summary) for summary in summaries],
        "chosen": asdict(best) if best else None,
        "rule": rule(task, config, len(summaries)),
        "published": {row.name: row.scores_of(task) for row in DEV if task.name in row.scores},
        "published_test": {row.name: row.scores_of(task) for row in TEST if task.name in row.scores},
        "published_by": {row.name: _conditions(task, row) for row in DEV if task.name in row.scores},
    }


def _conditions(task: Task, row: Row) -> dict[str, str]:
    """What a published row was measured with."""
    source = SOURCES[row.source]
    squad = {"definition": source.squad} if task.kind == "span" else {}
    return {"source": source.name, "jglue": row.jglue, "settings": source.settings.get(task.name, "not stated"), **squad}


def format_results(
    task: Task,
    config: FinetuneConfig,
    results: Sequence[Result],
    wanted: int,
    trivial: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({}),
) -> str:
    """Formats a table of the settings with their scores, the chosen one marked by *, and the published scores below.

    Args:
        task: that was fine-tuned.
        config: settings that all trials share.
        results: of the finished trials.
        wanted: trials of this call that are not finished.
        trivial: scores of baselines without pre-training, by name and split.
    """
    summaries = summarise(results)
    best = choose(summaries, task, config.choose_on)
    splits = list(dict.fromkeys(split for summary in summaries for split in summary.mean))
    columns = [(split, metric) for split in splits for metric in _metrics_of(summaries, split)]
    seconds = {
        (s.lr, s.epochs): sum(r.seconds for r in results if (r.trial.lr, r.trial.epochs) == (s.lr, s.epochs)) for s in summaries
    }
    lines = [["", "lr", "epochs", "seeds", *(f"{split} {SHORT.get(metric, metric)}" for split, metric in columns), "seconds"]]
    for s in summaries:
        cells = [_cell(s, split, metric) for split, metric in columns]
        lines.append(
            [
                "*" if s == best and len(summaries) > 1 else "",
                f"{s.lr:g}",
                str(s.epochs),
                _seeds(s),
                *cells,
                f"{seconds[s.lr, s.epochs]:,.0f}",
            ]
        )
    text = [format_table(lines[0], lines[1:], left=0, rule=False), "", rule(task, config, len(summaries))]
    if len(summaries) > 1 and best is None:
        text.append("None is chosen: no setting has scores for all the seeds.")
    if wanted:
        text.append(f"Points of this grid that are not done yet: {wanted}.")
    if trivial:
        headers = ["without pre-training", *(f"{split} {SHORT.get(metric, metric)}" for split, metric in columns)]
        rows = [
            [name, *(f"{own[split][metric]:.4f}" if metric in own.get(split, {}) else "-" for split, metric in columns)]
            for name, own in trivial.items()
        ]
        text += ["", format_table(headers, rows, rule=False)]
    text += ["", format_published(task, "dev", DEV)]
    return "\n".join(text + (["", format_published(task, "test", TEST)] if "test" in splits else []))


def format_published(task: Task, split: str, published: Sequence[Row]) -> str:
    """Formats the published rows of a task, with the version of the labels of JNLI and the definition of JSQuAD's metrics."""
    rows = [row for row in published if task.name in row.scores]
    # Only here do rows of different sources not mean the same number.
    apart = {"jnli": "labels", "jsquad": "EM and F1 of"}.get(task.name)
    headers = [f"published, {split}", *(SHORT.get(metric, metric) for metric in task.metrics), *([apart] if apart else [])]
    lines = []
    for row in rows:
        mark = {"jnli": row.jglue, "jsquad": SOURCES[row.source].squad}.get(task.name)
        scores = row.scores_of(task)
        cells = [f"{scores[metric]:.3f}" if metric in scores else "-" for metric in task.metrics]
        lines.append([row.name, *cells, *([mark] if mark else [])])
    used = dict.fromkeys(row.source for row in rows)
    notes = [
        f"{SOURCES[s].name}: {SOURCES[s].settings.get(task.name, 'batch and length not stated')}; {SOURCES[s].remark}."
        for s in used
    ]
    return "\n".join([format_table(headers, lines, rule=False), *notes])


def _metrics_of(summaries: Sequence[SettingSummary], split: str) -> list[str]:
    return list(dict.fromkeys(metric for summary in summaries for metric in summary.mean.get(split, ())))


def scores_line(result: Result) -> str:
    """Formats the scores of a trial in one line."""
    if result.diverged:
        return "diverged: a loss was not finite"
    scores = (f"{split} {SHORT.get(m, m)} {value:.4f}" for split, own in result.scores.items() for m, value in own.items())
    return "  ".join(scores)


def _seeds(summary: SettingSummary) -> str:
    return f"{len(summary.seeds)}" + (f" ({summary.diverged} diverged)" if summary.diverged else "")


def _cell(summary: SettingSummary, split: str, metric: str) -> str:
    if metric not in summary.mean.get(split, {}):
        return "-"
    spread = summary.deviation[split].get(metric)
    return f"{summary.mean[split][metric]:.4f}" + (f" ±{spread:.4f}" if spread is not None else "")
