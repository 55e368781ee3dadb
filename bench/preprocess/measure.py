"""One measure of the preprocessing benchmarks, and how it is printed."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """A measure with its goal."""

    measure: str
    value: float
    unit: str
    """Such as MB/s, or x for a ratio."""
    target: float | None = None
    """To be reached; None: there is no goal."""
    details: dict[str, Any] = field(default_factory=dict)
    """What it was made of: every round, sizes, settings. Plain JSON."""
    at_most: bool = False
    """Whether the goal is a limit: less is better."""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def median_of(rounds: Iterable[float]) -> float:
    """The median, of an even number the mean of the middle two."""
    return statistics.median(rounds)


def some_of(texts: Iterable[str], megabytes: float) -> list[str]:
    """The first texts up to a size."""
    found: list[str] = []
    size = 0
    for text in texts:
        found.append(text)
        size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return found


def speeds(ways: dict[str, Callable[[], object]], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """MB a second of a core, round by round, the ways taking turns."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            found[name].append(size / (time.process_time() - began))
    return found


def speed_row(measure: str, found: dict[str, list[float]], target: float | None, texts: list[str]) -> Row:
    """The row of a speed: the median of the way that is called ours, with every round of all."""
    details = {
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 3),
        "texts": len(texts),
        "medians": {name: round(median_of(speeds), 2) for name, speeds in found.items()},
        "rounds": {name: [round(speed, 2) for speed in speeds] for name, speeds in found.items()},
    }
    return Row(measure, median_of(found["ours"]), "MB/s a core", target, details)


def table(rows: list[Row]) -> list[str]:
    """The rows as text."""
    width = max(len(row.measure) for row in rows)
    lines = [f"{'measure':{width}} {'found':>14} {'unit':16} {'goal':>12}"]
    for row in rows:
        goal = "" if row.target is None else f"{'<=' if row.at_most else '>='} {row.target:,g}"
        verdict = {None: "", True: "  met", False: "  NOT MET"}[row.met]
        lines.append(f"{row.measure:{width}} {_number(row.value):>14} {row.unit:16} {goal:>12}{verdict}")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.1f}"
