"""Whether `sdpa` trains like Hugging Face's eager attention on real text: `python bench/curves.py --corpora DIR --steps 500 --seeds 1 2 3`.

For each seed three runs of a small model see the same batches from the same weights: eager, eager with other dropout, sdpa. The
difference of sdpa is held against the difference that the dropout alone makes (`loss_curves/significance.py`). A pair without dropout
must agree step by step to rounding. Prints a table, ends with status 1 where the curves differ by more than noise, and writes JSON and
an SVG beside it. Without options it takes a corpus that it generates and some steps, three minutes in all;
what it made is kept in --directory.
"""

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.checkpointing.workload import machine, versions
from bench.loss_curves.curves_plot import draw
from bench.loss_curves.runs import RECIPE, VARIANTS, Curve, Setting, check_batches, make_shards, train
from bench.loss_curves.significance import LIMIT, SIGNIFICANCE, Comparison, compare, largest_relative
from bench.results_file import write_results
from jadeberta.config import PROJECT
from jadeberta.utils.paths import path_option

EXACT_STEPS = 30
EXACT_LIMIT = 1e-5
"""Relative difference of a loss without dropout, fp32."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpora", type=path_option, help="folder with corpora under their usual names; default: a generated corpus"
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--window", type=int, help="steps whose mean is compared; default: a tenth of all")
    parser.add_argument("--at-once", type=int, default=2, help="runs, one thread each")
    parser.add_argument("--directory", type=path_option, default=PROJECT / "runs" / "curves", help="for shards and runs")
    parser.add_argument("--output", type=path_option, help="JSON file; the picture lies beside it")
    options = parser.parse_args()
    window = options.window or max(1, options.steps // 10)
    if not 0 < window <= options.steps:
        parser.error(f"--window {window} must lie between 1 and --steps {options.steps}")
    work = options.directory.absolute()
    work.mkdir(parents=True, exist_ok=True)
    shards = make_shards(work, options.corpora and options.corpora.absolute())
    setting, exact = Setting(shards, options.steps), Setting(shards, EXACT_STEPS, dropout=0.0)
    curves = train(setting, [(variant, seed) for seed in options.seeds for variant in VARIANTS], work, options.at_once)
    without = train(exact, [(variant, options.seeds[0]) for variant in ("eager", "sdpa")], work, options.at_once)
    check_batches(curves)
    check_batches(without)
    eager, redrawn, sdpa = ([curves[variant, seed].losses for seed in options.seeds] for variant in VARIANTS)
    found = compare(eager, redrawn, sdpa, window)
    rounding = largest_relative(*(curve.losses for curve in without.values()))
    made_of = "generated text" if options.corpora is None else "real text"
    document = describe(setting, options.seeds, made_of, found, rounding, curves)
    print("\n".join(table(document, curves)))
    if options.output is not None:
        write_results(options.output, document)
        title = f"{options.steps} steps on {made_of}, the same batches: {document['verdict']}"
        draw(curves, options.seeds, found, options.output.with_suffix(".svg"), title)
    sys.exit(0 if document["passed"] else 1)


def describe(
    setting: Setting, seeds: list[int], made_of: str, found: Comparison, rounding: float, curves: dict[tuple[str, int], Curve]
) -> dict[str, Any]:
    """Everything that was found, with the conditions."""
    exact = rounding <= EXACT_LIMIT
    return {
        "machine": machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "data": made_of,
        "recipe": f"{RECIPE} with",
        "options": {variant: " ".join(setting.options(variant, seeds[0])[2:]) for variant in VARIANTS},
        "seeds": seeds,
        "steps": setting.steps,
        "same_batches": True,
        "passed": found.within_noise and exact,
        "verdict": "within noise" if found.within_noise else "NOT within noise",
        "comparison": asdict(found),
        "without_dropout": {"steps": EXACT_STEPS, "largest_relative": rounding, "limit": EXACT_LIMIT, "met": exact},
    }


def table(document: dict[str, Any], curves: dict[tuple[str, int], Curve]) -> list[str]:
    """What is printed."""
    found, without = document["comparison"], document["without_dropout"]
    window = found["ends"][0]
    lines = [
        f"{document['machine']}; torch {document['versions']['torch']}; {document['steps']} steps on {document['data']}",
        f"{f'mean loss of the last {window} steps':<32}{'eager':>10}{'redrawn':>10}{'sdpa':>10}{'sdpa - both':>14}{'draw - draw':>13}",
    ]
    for number, seed in enumerate(document["seeds"]):
        last = [
            sum(curves[variant, seed].losses[found["ends"][-1] - window : found["ends"][-1]]) / window for variant in VARIANTS
        ]
        differences = found["differences"][number][-1], found["redrawn"][number][-1]
        lines.append(
            f"  {f'seed {seed}':<30}" + "".join(f"{loss:10.4f}" for loss in last) + "{:+14.4f}{:+13.4f}".format(*differences)
        )
    spread = "" if found["seeds_spread"] is None else f"; between seeds the loss spreads by {found['seeds_spread']:.4f}"
    return [
        *lines,
        f"window furthest apart, mean over seeds: {found['largest']:+.4f}, at most {LIMIT:g} standard errors of "
        f"{found['window_error']:.4f}{spread}",
        f"whole run: {found['mean']:+.5f} +- {found['mean_error']:.5f}, probability {found['probability']:.3f}, at least {SIGNIFICANCE}",
        f"without dropout, {without['steps']} steps: losses agree to {without['largest_relative']:.1e}, at most {without['limit']:.0e}: "
        f"{'met' if without['met'] else 'NOT MET'}",
        f"sdpa and eager: {document['verdict']}",
    ]


if __name__ == "__main__":
    main()
