"""`jadeberta scaling report`: table, report.csv, report.json and report.png of a scaling test."""

import csv
import sys
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import InputError
from jadeberta.plan.world_sizes import zero_of
from jadeberta.scaling.analysis import PointResult, ReportRow, report_rows
from jadeberta.scaling.measurements import measure, warnings_of
from jadeberta.scaling.points import points_of
from jadeberta.scaling.points_dir import PointsDir
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

HEADERS = (
    "nodes", "ranks", "micro", "accum", "tokens/s", "efficiency", "step s", "compute", "commun.", "data", "save", "MFU", "memory",
    "predicted", "error",
)  # fmt: skip
"""Columns of the table."""


def main(arguments: list[str]) -> int:
    """Writes and prints the report; returns 1 if a point is missing. Raises InputError if no point was measured."""
    parser = OneSentenceParser(
        prog="jadeberta scaling report",
        allow_abbrev=False,
        description="Table, report.csv, report.json and report.png of a scaling test, with the prediction beside the measurement.",
        epilog="docs/scale.md explains the columns and what the prediction assumes.",
    )
    parser.add_argument("directory", type=path_option, metavar="DIR", help="the --out of 'jadeberta scaling run'")
    parser.add_argument("--json", action="store_true", help="print report.json instead of the table")
    options = parser.parse_args(arguments)
    report = collect(PointsDir(options.directory))
    content = orjson.dumps(report, option=orjson.OPT_INDENT_2)
    write_atomically(options.directory / "report.json", content)
    rows = [ReportRow(**row) for row in report["rows"]]
    write_csv(options.directory / "report.csv", rows)
    from jadeberta.scaling.plot import draw

    draw(rows, options.directory / "report.png", title(report))
    print(content.decode() if options.json else table(report, rows))
    if not options.json:
        print(f"{options.directory}: report.csv, report.json, report.png", file=sys.stderr)
    return 1 if report["missing"] else 0


def collect(points_dir: PointsDir) -> dict[str, Any]:
    """Builds the content of report.json. Raises InputError if no point is finished."""
    settings = points_dir.read_settings()
    found, warnings, missing = {}, {}, []
    for point in points_of(settings.series):
        directory = points_dir.point(point)
        done = points_dir.is_done(point)
        measured = (
            measure(read_jsonl(directory / "ledger.jsonl"), read_jsonl(directory / "metrics.jsonl"), settings.warm_up)
            if done
            else None
        )
        if measured is None:
            missing.append(point.name)
        preflight = points_dir.read_preflight(point)
        found[point] = PointResult(measured, preflight.get("constants") or {})
        if done and (reasons := warnings_of(preflight)):
            warnings[point.name] = reasons
    first = next((point for point, each in found.items() if each.measured is not None), None)
    if first is None:
        raise InputError(
            f"{points_dir.directory}: no point is finished yet. 'jadeberta scaling run' with the same --out runs them."
        )
    recipe = points_dir.read_recipe(first)
    from jadeberta.model.load import count_parameters_of

    parameters = count_parameters_of(recipe)
    rows = []
    for series in settings.series:
        # Each ZeRO stage has its own DeepSpeed file, which says whether communication overlaps.
        known = next((p for p in series.points if found[p].measured is not None), None)
        overlap = known is not None and zero_of(points_dir.read_recipe(known))[1]
        rows += report_rows(series, found, parameters, recipe.training.precision, overlap, settings.save_every_steps)
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


def write_csv(path: Path, rows: list[ReportRow]) -> None:
    """Writes report.csv, one row per point and series."""
    # The csv module ends the lines itself.
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, [field.name for field in fields(ReportRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def title(report: dict[str, Any]) -> str:
    """The title of the report."""
    counted = f"medians of steps {report['warm_up'] + 1} to {report['steps']}"
    return f"{report['recipe']}: {report['parameters'] / 1e6:,.1f}M parameters, {report['precision']}, {counted}"


def table(report: dict[str, Any], rows: list[ReportRow]) -> str:
    """Formats the report for people; one table per series."""
    lines = [title(report)]
    for (mode, zero, micro_batch), series in groupby(rows, key=lambda row: (row.mode, row.zero, row.micro_batch)):
        batch = "the same global batch" if mode == "strong" else "the same batch per rank"
        lines += ["", f"{mode}: {batch}, ZeRO {zero}, micro-batch {micro_batch}"]
        lines.append(format_table(HEADERS, [_cells(row) for row in series], left=0, rule=False))
    for name, reasons in report["warnings"].items():
        lines += ["", f"preflight of {name}", *(f"  {reason}" for reason in reasons)]
    if report["missing"]:
        lines += ["", f"not measured: {', '.join(report['missing'])}"]
    return "\n".join(lines)


def _cells(row: ReportRow) -> list[str]:
    """The cells of a row, in the order of HEADERS."""
    memory = "-" if row.memory_bytes is None else f"{row.memory_bytes / 2**30:.2f}GiB"
    sizes = [str(size) for size in (row.nodes, row.ranks, row.micro_batch, row.accumulation)]
    seconds = [_number(value, ".3f") for value in (row.step_s, row.compute_s, row.communication_s, row.data_s)]
    return [
        *sizes, _number(row.tokens_per_second, ",.0f"), _number(row.efficiency, ".1%"), *seconds, _number(row.save_s, ".4f"),
        _number(row.mfu, ".1%"), memory, _number(row.predicted_step_s, ".3f"), _number(row.error, "+.1%"),
    ]  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
