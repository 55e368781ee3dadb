"""`jadeberta race report`: report.json with every run, and a page with curves and tables."""

import io
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson

from jadeberta.errors import InputError
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.race.judgement import Budget, Result, judge
from jadeberta.race.race_dir import RaceDir, evaluations
from jadeberta.race.race_file import Race
from jadeberta.race.race_runs import Run, tune_runs
from jadeberta.race.scores import read_scores
from jadeberta.report.html_page import document, escape, page_style, table
from jadeberta.status.attempts import read_history, read_run
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.files import write_atomically
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

COLOURS = ("#4d4d4d", "#2166ac", "#d6604d", "#1b7837", "#762a83", "#b8860b", "#0097a7", "#ad1457", "#6d4c41", "#558b2f")
HEADERS = ("contestant", "settings", "share of the target's FLOPs", "95% interval", "accuracy", "bits per character", "seeds")


def main(arguments: list[str]) -> int:
    """Writes the report of a race and prints its tables.

    Raises:
        InputError: there is no race, or no run of the target is done.
    """
    parser = OneSentenceParser(
        prog="jadeberta race report", description="What each contestant needs to reach the target's accuracy."
    )
    parser.add_argument("directory", type=path_option, metavar="DIR", help="directory that 'jadeberta race plan' has made")
    options = parser.parse_args(arguments)
    directory = RaceDir(options.directory)
    race, data, _ = directory.read()
    results = results_of(directory, race)
    content = {
        "target": race.target,
        "base": race.base,
        "fingerprint": data.fingerprint,
        "row_length": data.row_length,
        "grid": [_tuned(directory, run) for run in tune_runs(race)],
        "results": [_without_rows(result) for result in results],
    }
    write_atomically(directory.directory / "report.json", orjson.dumps(content, option=orjson.OPT_INDENT_2))
    write_atomically(directory.directory / "report.html", page(race, results).encode())
    for size in race.sizes:
        print(f"{size}\n{format_table(HEADERS, [_cells(result) for result in results if result.size == size], rule=False)}\n")
    print(f"{directory.directory / 'report.html'}")
    return 0


def results_of(directory: RaceDir, race: Race) -> list[Result]:
    """Returns what is done of the final runs, judged; contestants without a finished run are left out.

    Raises:
        InputError: no run of the target is done at any size.
    """
    found: dict[tuple[str, str], dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in directory.runs("final"):
        if directory.is_done(run) and read_scores(directory.path(run)) is not None:
            found[run.size, run.contestant][run.budget].append(run)
    judged = []
    for size in race.sizes:
        if (size, race.target) not in found:
            continue
        results = [
            Result(
                size,
                name,
                next(iter(runs.values()))[0].settings,
                [_budget(directory, share, runs[share]) for share in sorted(runs)],
            )
            for (of, name), runs in found.items()
            if of == size
        ]
        judge(results, race.target)
        judged += results
    if not judged:
        raise InputError(f"{directory.directory}: no run of the target {race.target} is done yet. Run the stage final.")
    return judged


def _budget(directory: RaceDir, share: float, runs: list[Run]) -> Budget:
    _, data, _ = directory.read()
    flops, tokens = flops_and_tokens(directory.recipe(runs[0]), data.row_length)
    scores = [scores for run in runs if (scores := read_scores(directory.path(run))) is not None]
    seconds = fmean(_seconds(directory.path(run)) for run in runs)
    return Budget(share, flops, tokens, seconds, scores, evaluations(directory.path(runs[0])))


def _seconds(run_dir: Path) -> float:
    """Seconds in the steps that stayed."""
    ledger, steps, _ = read_run(run_dir)
    return sum(float(h.steps.seconds[~h.steps.lost].sum()) for h in read_history(ledger, steps))


def _tuned(directory: RaceDir, run: Run) -> dict[str, Any]:
    return {"size": run.size, "contestant": run.contestant, "settings": run.settings, "accuracy": directory.tune_accuracy(run)}


def _without_rows(result: Result) -> dict[str, Any]:
    """A result as JSON; of each seed its accuracy in place of its rows."""
    document = asdict(result)
    for budget, row in zip(result.budgets, document["budgets"], strict=True):
        row["seeds"] = [sum(each.correct) / sum(each.masked) for each in budget.scores]
        row["rows"], row["masked"] = len(budget.scores[0].masked), sum(budget.scores[0].masked)
        del row["scores"]
    return document


def _cells(result: Result) -> tuple[str, ...]:
    last = result.budgets[-1]
    share = "not reached" if result.share is None else f"{'at most ' if result.is_bound else ''}{100 * result.share:.0f}%"
    low, high = ("beyond" if end is None else f"{100 * end:.0f}%" for end in result.interval)
    accuracy = f"{last.accuracy:.4f} ({last.interval[0]:.4f} to {last.interval[1]:.4f}) at {100 * last.share:g}%"
    settings = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in result.settings.items())
    return (
        result.contestant,
        settings,
        share,
        f"{low} to {high}",
        accuracy,
        f"{last.bits_per_character:.3f}",
        str(len(last.scores)),
    )


def page(race: Race, results: list[Result]) -> str:
    """Returns the report as one HTML document that loads nothing."""
    parts = []
    for size in race.sizes:
        of_size = [result for result in results if result.size == size]
        if of_size:
            parts.append(f"<h2>Size {escape(size)}</h2>{_picture(of_size)}")
            parts.append(table(HEADERS, [_cells(result) for result in of_size], left=len(HEADERS)))
    title = f"Race to the accuracy of {race.target}"
    explained = (
        "Every budget is a share of the floating-point operations that the target gets, and a run of its own with its whole schedule. "
        "Settings were chosen on held-out rows that are not among those of the test. Intervals are 95%, by bootstrap over test rows and "
        "seeds."
    )
    return document(title, f"<main><h1>{escape(title)}</h1><p>{explained}</p>{''.join(parts)}</main>", page_style() + STYLE)


STYLE = "main>svg{background:#fff;border-radius:6px}"
"""matplotlib's pictures are made for white paper."""


def _picture(results: list[Result]) -> str:
    """The test accuracy by budget, and beside it the course of each contestant's longest run on the tuning rows, as SVG."""
    import matplotlib

    matplotlib.use("Agg")  # a login node may have no display
    import matplotlib.pyplot as plt

    figure, (budgets, courses) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    for number, result in enumerate(results):
        colour = COLOURS[number % len(COLOURS)]
        flops = [budget.flops for budget in result.budgets]
        accuracies = [budget.accuracy for budget in result.budgets]
        below = [budget.accuracy - budget.interval[0] for budget in result.budgets]
        above = [budget.interval[1] - budget.accuracy for budget in result.budgets]
        budgets.errorbar(flops, accuracies, [below, above], fmt="o-", color=colour, capsize=3, label=result.contestant)
        last = result.budgets[-1]
        steps = last.course[-1][0]
        courses.plot([step / steps * last.flops for step, _ in last.course], [a for _, a in last.course], color=colour)
    for axes, title in ((budgets, "at the end of each budget, test rows"), (courses, "during the longest runs, tuning rows")):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("FLOPs")
        axes.set_ylabel("masked accuracy")
        axes.grid(alpha=0.3)
    budgets.set_xscale("log")
    budgets.legend(fontsize=8)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
