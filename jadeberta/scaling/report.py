"""`jadeberta scaling report`: table, report.csv, report.json and report.png of a scaling test."""

import csv
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import InputError
from jadeberta.plan.world_sizes import zero_of
from jadeberta.scaling.analysis import Found, Row, rows_of
from jadeberta.scaling.measurements import measure, warnings_of
from jadeberta.scaling.points import points_of
from jadeberta.scaling.points_dir import Store
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import read_jsonl


def main(arguments: list[str]) -> int:
    """Writes and prints the report; 1 where a point is missing. Raises InputError where nothing was measured."""
    parser = OneSentenceParser(
        prog="jadeberta scaling report",
        allow_abbrev=False,
        description="Table, report.csv, report.json and report.png of a scaling test, with the prediction beside the measurement.",
        epilog="docs/scale.md explains the columns and what the prediction assumes.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="the --out of 'jadeberta scaling run'")
    parser.add_argument("--json", action="store_true", help="print report.json instead of the table")
    options = parser.parse_args(arguments)
    report = collect(Store(options.directory))
    content = orjson.dumps(report, option=orjson.OPT_INDENT_2)
    write_atomically(options.directory / "report.json", content)
    rows = [Row(**row) for row in report["rows"]]
    write_csv(options.directory / "report.csv", rows)
    from jadeberta.scaling.plot import draw

    draw(rows, options.directory / "report.png", title(report))
    print(content.decode() if options.json else table(report, rows))
    if not options.json:
        print(f"{options.directory}: report.csv, report.json, report.png", file=sys.stderr)
    return 1 if report["missing"] else 0


def collect(store: Store) -> dict[str, Any]:
    """Everything the report says, as plain values. Raises InputError."""
    settings = store.read_settings()
    found, warnings, missing = {}, {}, []
    for point in points_of(settings.series):
        directory = store.point(point)
        done = store.is_done(point)
        measured = (
            measure(read_jsonl(directory / "ledger.jsonl"), read_jsonl(directory / "metrics.jsonl"), settings.warm_up)
            if done
            else None
        )
        if measured is None:
            missing.append(point.name)
        preflight = store.read_preflight(point)
        found[point] = Found(measured, preflight.get("constants") or {})
        if done and (told := warnings_of(preflight)):
            warnings[point.name] = told
    first = next((point for point, each in found.items() if each.measured is not None), None)
    if first is None:
        raise InputError(f"{store.directory}: no point is finished yet. 'jadeberta scaling run' with the same --out runs them.")
    recipe = store.read_recipe(first)
    from jadeberta.model.load import count_parameters

    parameters = count_parameters(recipe.model)
    rows = []
    for series in settings.series:
        # Each stage has its DeepSpeed file, and what that overlaps counts.
        known = next((p for p in series.points if found[p].measured is not None), None)
        overlap = known is not None and zero_of(store.read_recipe(known))[1]
        rows += rows_of(series, found, parameters, recipe.training.precision, overlap, settings.save_every_steps)
    return {
        "recipe": settings.recipe,
        "steps": settings.steps,
        "warm_up": settings.warm_up,
        "parameters": parameters,
        "precision": recipe.training.precision,
        "rows": [asdict(row) for row in rows],
        "constants": {point.name: each.constants for point, each in found.items() if each.constants},
        "warnings": warnings,
        "missing": missing,
    }


def write_csv(path: Path, rows: list[Row]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def title(report: dict[str, Any]) -> str:
    """The test in one line."""
    counted = f"medians of steps {report['warm_up'] + 1} to {report['steps']}"
    return f"{report['recipe']}: {report['parameters'] / 1e6:,.1f}M parameters, {report['precision']}, {counted}"


def table(report: dict[str, Any], rows: list[Row]) -> str:
    """The report for people; one block a series."""
    heads = (
        f"{'nodes':>5} {'ranks':>5} {'micro':>5} {'accum':>5} {'tokens/s':>10} {'efficiency':>10} {'step s':>8} "
        f"{'compute':>8} {'commun.':>8} {'data':>7} {'save':>7} {'MFU':>6} {'memory':>8} {'predicted':>9} {'error':>7}"
    )
    lines = [title(report)]
    before: tuple[str, int, int] | None = None
    for row in rows:
        if (key := (row.mode, row.zero, row.micro_batch)) != before:
            batch = "the same global batch" if row.mode == "strong" else "the same batch a rank"
            lines += ["", f"{row.mode}: {batch}, ZeRO {row.zero}, micro-batch {row.micro_batch}", heads]
            before = key
        lines.append(_line(row))
    for name, told in report["warnings"].items():
        lines += ["", f"preflight of {name}", *(f"  {reason}" for reason in told)]
    if report["missing"]:
        lines += ["", f"not measured: {', '.join(report['missing'])}"]
    return "\n".join(lines)


def _line(row: Row) -> str:
    memory = "-" if row.memory_bytes is None else f"{row.memory_bytes / 2**30:.2f}GiB"
    return (
        f"{row.nodes:>5} {row.ranks:>5} {row.micro_batch:>5} {row.accumulation:>5} {_number(row.tokens_per_second, ',.0f'):>10} "
        f"{_number(row.efficiency, '.1%'):>10} {_number(row.step_s, '.3f'):>8} {_number(row.compute_s, '.3f'):>8} "
        f"{_number(row.communication_s, '.3f'):>8} {_number(row.data_s, '.3f'):>7} {_number(row.save_s, '.4f'):>7} "
        f"{_number(row.mfu, '.1%'):>6} {memory:>8} {_number(row.predicted_step_s, '.3f'):>9} {_number(row.error, '+.1%'):>7}"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
