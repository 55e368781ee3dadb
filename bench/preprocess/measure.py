"""One measure of the preprocessing benchmarks, and how it is printed."""

import statistics
from collections.abc import Iterable
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
