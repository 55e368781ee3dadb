"""What a fine-tuning test found, as plain text and as the document of `results.json`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jadeberta.finetune.grid import Conduct, Result, Summary, choose, summarise
from jadeberta.finetune.tasks import PUBLISHED, Task

SHORT = {"exact_match": "EM", "f1": "F1"}


def rule(task: Task, conduct: Conduct, settings: int) -> str:
    """How the setting was chosen, and what follows for its score, in honest words."""
    if settings < 2:
        return "One setting: nothing was chosen."
    how = (
        f"Chosen: highest mean {task.chosen_by} of the seeds on {conduct.choose_on}; of equals fewer epochs, then the lower rate."
    )
    if conduct.choose_on == "fold":
        return f"{how} fold was kept out of training, so the scores on valid played no part in it."
    return f"{how} The same scores on valid chose it, so they flatter it a little, as the published ones do."


def document(task: Task, conduct: Conduct, about: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """All of `results.json`.

    Args:
        task: that was fine-tuned.
        conduct: how.
        about: task, model, data, words and conduct, plain JSON.
        results: the points that are done.
    """
    summaries = summarise(results)
    best = choose(summaries, task, conduct.choose_on)
    return {
        **about,
        "points": [
            {"name": r.point.name, **asdict(r.point), "diverged": r.diverged, "scores": r.scores, "seconds": r.seconds, **r.notes}
            for r in results
        ],
        "settings": [asdict(summary) for summary in summaries],
        "chosen": asdict(best) if best else None,
        "rule": rule(task, conduct, len(summaries)),
        "published": {name: dict(zip(task.metrics, scores[task.name], strict=True)) for name, scores in PUBLISHED.items()},
    }


def table(task: Task, conduct: Conduct, results: Sequence[Result], wanted: int) -> str:
    """Settings with their scores, the chosen one marked, and the published scores below.

    Args:
        task: that was fine-tuned.
        conduct: how.
        results: the points that are done.
        wanted: points of this call that are not done yet.
    """
    summaries = summarise(results)
    best = choose(summaries, task, conduct.choose_on)
    splits = list(dict.fromkeys(split for summary in summaries for split in summary.mean))
    columns = [(split, metric) for split in splits for metric in task.metrics]
    seconds = {
        (s.lr, s.epochs): sum(r.seconds for r in results if (r.point.lr, r.point.epochs) == (s.lr, s.epochs)) for s in summaries
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
    text = [aligned(lines), "", rule(task, conduct, len(summaries))]
    if len(summaries) > 1 and best is None:
        text.append("None is chosen: no setting has scores for all the seeds.")
    if wanted:
        text.append(f"Points of this grid that are not done yet: {wanted}.")
    rows = [["published, dev", *(SHORT.get(metric, metric) for metric in task.metrics)]]
    rows += [[name, *(f"{score:.3f}" for score in scores[task.name])] for name, scores in PUBLISHED.items()]
    return "\n".join([*text, "", aligned(rows, left=1)])


def scores_line(result: Result) -> str:
    """The scores of a point in one line."""
    if result.diverged:
        return "diverged: a loss was not finite"
    scores = (f"{split} {SHORT.get(m, m)} {value:.4f}" for split, own in result.scores.items() for m, value in own.items())
    return "  ".join(scores)


def _seeds(summary: Summary) -> str:
    return f"{len(summary.seeds)}" + (f" ({summary.diverged} diverged)" if summary.diverged else "")


def _cell(summary: Summary, split: str, metric: str) -> str:
    if split not in summary.mean:
        return "-"
    spread = summary.deviation[split].get(metric)
    return f"{summary.mean[split][metric]:.4f}" + (f" ±{spread:.4f}" if spread is not None else "")


def aligned(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Cells in columns, the first `left` to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) if n < left else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )
