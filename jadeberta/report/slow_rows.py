"""What all ranks waited for, from the rows of ranks.jsonl: a slow rank or the network, since when, how long, and what it cost.

Pure functions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jadeberta.report.run_facts import RunFacts
from jadeberta.training.watchdog.rank_pace import WINDOW_S
from jadeberta.utils.json_lines import JsonRow, finite, names_in, time_of

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
    for attempt, at, covered, lost, named in _named(facts, "waits_for"):
        rank, cause = finite(named, "rank"), named.get("cause")
        if rank is None or cause not in CAUSES:
            continue
        key = (attempt, int(rank), str(named.get("host")), str(cause))
        one = found.setdefault(key, SlowRank(*key, since=at - covered, until=at))
        one.until = max(one.until, at)
        one.slow_s += covered
        one.lost_s += covered * lost
    return sorted(found.values(), key=lambda one: (-one.lost_s, one.attempt, one.rank))


def _named(facts: RunFacts, key: str) -> Iterator[tuple[int, float, float, float, JsonRow]]:
    """Attempt, unix time, seconds that it is about, share of a step that was lost, and what is named, of each row that names something.

    Args:
        facts: of the run.
        key: waits_for or network.
    """
    before: dict[int, float] = {}
    for row in facts.paces:
        at, attempt, named = time_of(row), int(finite(row, "attempt") or 0), row.get(key)
        # A row is about the time since the one before; the first of an attempt, or one after a gap, about a window.
        passed = at - before.get(attempt, at - WINDOW_S)
        before[attempt] = at
        if not isinstance(named, dict) or not at:
            continue
        lost, step = finite(named, "lost_s"), finite(named, "step_s")
        if lost is not None and step is not None and step > 0:
            covered = passed if 0 < passed <= 2 * WINDOW_S else WINDOW_S
            yield attempt, at, covered, min(1.0, max(0.0, lost / step)), named


def network_rows(facts: RunFacts) -> list[dict[str, Any]]:
    """Returns, by attempt and newest first, when all ranks waited for the network between some hosts while no rank was slow."""
    found: dict[tuple[int, tuple[str, ...]], dict[str, Any]] = {}
    for attempt, at, covered, lost, named in _named(facts, "network"):
        hosts = tuple(names_in(named, "hosts"))
        new = {"attempt": attempt, "hosts": list(hosts), "since": at - covered, "until": at, "slow_s": 0.0, "lost_s": 0.0}
        one = found.setdefault((attempt, hosts), new)
        one["until"] = max(one["until"], at)
        one["slow_s"] += covered
        one["lost_s"] += covered * lost
    return sorted(found.values(), key=lambda one: -one["since"])[:MOST_ROWS]


def slow_rows(facts: RunFacts) -> list[dict[str, Any]]:
    """Returns the most expensive of them as figures of the report."""
    return [vars(one) for one in slow_ranks(facts)[:MOST_ROWS]]


def hosts_of_pace(row: JsonRow) -> list[str]:
    """Returns the hosts that a row of ranks.jsonl names."""
    named, network = row.get("waits_for"), row.get("network")
    found = [str(named["host"])] if isinstance(named, dict) and named.get("host") else []
    return found + (names_in(network, "hosts") if isinstance(network, dict) else [])
