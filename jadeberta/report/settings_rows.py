"""The settings of a run, what changed between its attempts, and which program ran. Pure functions."""

from typing import Any

from jadeberta.config.lineage import describe_entry
from jadeberta.report.run_facts import RunFacts
from jadeberta.utils.json_lines import JsonRow, finite

MOST_ROWS = 1500
LONGEST = 300
"""Characters of a value."""


def settings_rows(facts: RunFacts) -> list[tuple[str, str]]:
    """Returns every key of the resolved recipe with its value as text."""
    return _flat("", facts.recipe)[:MOST_ROWS]


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for key, each in value.items() for row in _flat(f"{prefix}.{key}" if prefix else str(key), each)]
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return [(prefix, text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")]


def changes(facts: RunFacts) -> list[tuple[int, float, str]]:
    """Returns attempt, unix time and words of each change from an attempt to the next."""
    found: list[tuple[int, float, str]] = []
    before: JsonRow = {}
    for history in facts.histories:
        for event in history.events:
            at = finite(event, "time")
            if event.get("event") == "start" and at is not None:
                now = _compared(event)
                words = [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]
                if words:
                    found.append((history.attempt, at, "; ".join(words)))
                before = now
            if event.get("event") == "settings" and at is not None and isinstance(event.get("changed"), dict):
                found.append((history.attempt, at, changed_in_words(event)))
    return [(attempt, at, words if len(words) <= 4 * LONGEST else words[: 4 * LONGEST] + "…") for attempt, at, words in found]


def changed_in_words(event: JsonRow) -> str:
    """Returns what an event `settings` says; of a command that calls people, which may hold addresses, only that it has changed."""
    changed = event.get("changed")
    pairs = [(k, v) for k, v in changed.items() if isinstance(v, list) and len(v) == 2] if isinstance(changed, dict) else []
    return "; ".join(f"{key} changed" if key.startswith("alerts.") else f"{key} {a} -> {b}" for key, (a, b) in pairs)


def _compared(start: JsonRow) -> JsonRow:
    """What an event `start` says that should not change unseen."""
    program = start.get("program")
    program = program if isinstance(program, dict) else {}
    return {
        "ranks": start.get("world_size"),
        "launcher": start.get("launcher"),
        "device": start.get("device"),
        **{str(key): value for key, value in program.items() if isinstance(value, str)},
    }


def program_rows(facts: RunFacts) -> list[tuple[str, str]]:
    """Returns what the newest start says about the program and the start of the run."""
    starts = [event for event in facts.events if event.get("event") == "start"]
    rows = [(key, str(value)) for key, value in _compared(starts[-1]).items() if value is not None] if starts else []
    return rows + [("started from", describe_entry(entry)) for entry in facts.seen.goal.lineage]
