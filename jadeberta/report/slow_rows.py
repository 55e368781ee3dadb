"""Which ranks the others waited for, from the rows of ranks.jsonl: since when, how long, and what it cost. Pure functions."""

from dataclasses import dataclass
from typing import Any

from jadeberta.report.run_facts import RunFacts
from jadeberta.training.watchdog.rank_pace import WINDOW_S
from jadeberta.utils.json_lines import JsonRow, finite, time_of

MOST_ROWS = 50
CAUSES = ("compute", "data")
"""Causes of a slow rank, as `rank_pace.WaitedFor` names them."""


@dataclass
class SlowRank:
    """A rank of one attempt that the others waited for; the field names are keys of the report's JSON."""

    attempt: int
    rank: int
    host: str
    cause: str
    """compute or data."""
    since: float
    """Unix time of the first row that names it."""
    until: float
    """Unix time of the last."""
    slow_s: float = 0.0
    """Time in which it was named."""
    lost_s: float = 0.0
    """Time in which all others waited for it."""


def slow_ranks(facts: RunFacts) -> list[SlowRank]:
    """Returns the ranks that were waited for, by attempt and cause, the most expensive first."""
    found: dict[tuple[int, int, str, str], SlowRank] = {}
    before: dict[int, float] = {}
    for row in facts.paces:
        at, attempt, named = time_of(row), int(finite(row, "attempt") or 0), row.get("waits_for")
        # A row is about the time since the one before; the first of an attempt, or one after a gap, about a window.
        passed = at - before.get(attempt, at - WINDOW_S)
        before[attempt] = at
        if not isinstance(named, dict) or not at:
            continue
        rank, lost, step, cause = finite(named, "rank"), finite(named, "lost_s"), finite(named, "step_s"), named.get("cause")
        if rank is None or lost is None or step is None or step <= 0 or cause not in CAUSES:
            continue
        covered = passed if 0 < passed <= 2 * WINDOW_S else WINDOW_S
        key = (attempt, int(rank), str(named.get("host")), str(cause))
        one = found.setdefault(key, SlowRank(*key, since=at - covered, until=at))
        one.until = max(one.until, at)
        one.slow_s += covered
        one.lost_s += covered * min(1.0, max(0.0, lost / step))
    return sorted(found.values(), key=lambda one: (-one.lost_s, one.attempt, one.rank))


def slow_rows(facts: RunFacts) -> list[dict[str, Any]]:
    """Returns the most expensive of them as figures of the report."""
    return [vars(one) for one in slow_ranks(facts)[:MOST_ROWS]]


def hosts_of_pace(row: JsonRow) -> list[str]:
    """Returns the hosts that a row of ranks.jsonl names."""
    named = row.get("waits_for")
    return [str(named["host"])] if isinstance(named, dict) and named.get("host") else []
