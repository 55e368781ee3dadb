"""Results of benchmarks as JSON files small enough to keep beside the pages that quote them.

A file holds medians, counts and conditions. The single measurements behind a median are left out: the script makes them again.
"""

import json
import statistics
from pathlib import Path
from typing import Any

LINE = 200
"""Characters of a line: a value that fits into one stands on one."""
DIGITS = 4
"""Significant digits of a figure; measurements repeat to two or three."""


def write_results(path: Path, document: dict[str, Any]) -> None:
    """Writes `summarise(document)`; the folder is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{_layout(summarise(document), 0)}\n", encoding="utf-8")


def summarise(value: Any, key: str = "") -> Any:
    """The document with figures of four digits, and with medians in place of lists of seconds (keys `seconds...`).

    `rounds` becomes the number of rounds. Left out: seconds beside their `median_s`, and how busy the cores were (`cpu_of...`,
    `cores_used...`), which the scripts print.
    """
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.startswith(("cpu_of", "cores_used"))}
        return {k: summarise(v, k) for k, v in kept.items() if not (k == "seconds" and "median_s" in kept)}
    if isinstance(value, list | tuple):
        if key == "rounds":
            return len(value)
        if key.startswith("seconds") and value and all(isinstance(v, int | float) for v in value):
            return summarise(statistics.median(value))
        return [summarise(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) and abs(value) < 10**DIGITS else _whole(value)


def _whole(value: Any) -> Any:
    return round(value) if isinstance(value, float) and value == value and abs(value) != float("inf") else value


def _layout(value: Any, depth: int) -> str:
    """JSON with each value that fits on one line."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) + depth <= LINE or not isinstance(value, dict | list) or not value:
        return text
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{pad}{json.dumps(k, ensure_ascii=False)}: {_layout(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{' ' * depth}}}"
    return "[\n" + ",\n".join(f"{pad}{_layout(v, depth + 1)}" for v in value) + f"\n{' ' * depth}]"
