"""JSON Lines files that a kill may have truncated, and values of their rows that may be missing."""

import math
import os
from pathlib import Path
from typing import Any

import orjson

JsonRow = dict[str, Any]
"""One object of a JSON Lines file. Any key may be missing: the row may be of another version, or the file truncated."""
CALENDAR = -62135596800.0, 253402300799.0
"""Unix times of the years 1 and 9999, the first and the last that Python can show as a date."""


def read_jsonl(path: Path) -> list[JsonRow]:
    """Returns the whole objects of a JSON Lines file, none where there is no file; a line truncated by a kill is skipped."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def ends_within_line(path: Path) -> bool:
    """Whether a kill has cut the last line of a file, so that it has no newline; False where the file cannot be read."""
    try:
        with open(path, "rb") as f:
            return f.seek(0, os.SEEK_END) > 0 and f.seek(-1, os.SEEK_END) >= 0 and f.read(1) != b"\n"
    except OSError:
        return False


def finite(row: JsonRow, key: str) -> float | None:
    """Returns a finite number of a row; None where the key is missing or holds anything else, or "time" what no calendar shows."""
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value) if key != "time" or CALENDAR[0] <= value <= CALENDAR[1] else None


def names_in(row: JsonRow, key: str) -> list[str]:
    """Returns a list of names of a row as texts; none where the key is missing or holds anything else than a list."""
    value = row.get(key)
    return [str(name) for name in value if isinstance(name, str | int | float)] if isinstance(value, list) else []


def time_of(row: JsonRow) -> float:
    """Returns the unix time of a row; 0 where it has none."""
    return finite(row, "time") or 0.0
