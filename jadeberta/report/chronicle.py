"""What happened to a run, in words: one line an event of its ledger and of its Slurm jobs, newest last. Pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jadeberta.report.report_curves import accuracies
from jadeberta.report.run_facts import RunFacts
from jadeberta.report.settings_rows import changed_in_words
from jadeberta.status.text_tables import without_hosts
from jadeberta.training.watchdog.slow_rank_rule import EVENT as SLOW_RANK
from jadeberta.training.watchdog.slow_rank_rule import sentence_of
from jadeberta.utils.durations import format_duration
from jadeberta.utils.json_lines import JsonRow, finite, time_of

MOST_LINES = 2000
"""Most lines of a report, the newest."""
LONGEST = 600
"""Characters of a line."""


@dataclass
class Line:
    """One line of the chronicle."""

    time: float
    """Unix time."""
    level: str
    """good, info, warn or bad."""
    text: str


def chronicle(facts: RunFacts) -> list[Line]:
    """Returns what happened, in order of time; saves that succeeded in a row are one line, and so are steps skipped in a row."""
    lines: list[Line] = []
    earlier: dict[str, float] = {}
    for place, history in enumerate(facts.histories):
        own = [e for e in history.events if finite(e, "time") is not None]
        lines += _joined(_lines_of(own, earlier))
        is_last = place + 1 == len(facts.histories)
        if history.ending is None and history.last is not None and not (is_last and (facts.alive or facts.seen.jobs.starting)):
            lines.append(Line(history.last, "warn", f"Attempt {history.attempt} ended without a record: it was killed."))
    lines += [Line(time_of(row), *_decision(row)) for row in facts.records.ends if time_of(row)]
    lines.sort(key=lambda line: line.time)
    return [Line(line.time, line.level, _short(line.text)) for line in lines[-MOST_LINES:]]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _lines_of(events: list[JsonRow], earlier: dict[str, float]) -> Iterator[tuple[JsonRow, Line | None]]:
    """Each event with its line; None for one that is told with another, or that nobody needs.

    Args:
        events: of one attempt.
        earlier: accuracies of the evaluation before, renewed here.
    """
    start: Line | None = None
    for event in events:
        kind = str(event.get("event"))
        if kind == "resume" and start is not None:
            start.text = f"{start.text.rstrip('.')}; it goes on from step {_count(event, 'step')}."
            start = None
            continue
        if kind == "evaluation" and isinstance(event.get("corpora"), dict):
            found = accuracies(event)
            line: Line | None = Line(time_of(event), "info", _evaluation(event, found, earlier))
            earlier.update(found)
        else:
            told = TOLD[kind](event) if kind in TOLD else ("info", f"{kind}{_rest(event)}.")
            line = None if told is None else Line(time_of(event), *told)
            start = line if kind == "start" else start
        yield event, line


def _joined(found: Iterator[tuple[JsonRow, Line | None]]) -> Iterator[Line]:
    """Lines of events; a row of saves, or of skipped steps, is one line with the time of the last."""
    kind, last = "", None
    row: list[JsonRow] = []
    for event, line in found:
        if line is None:
            continue
        now = str(event.get("event"))
        if kind and now != kind:
            yield _summed(kind, row, last)
            kind, row = "", []
        if now in ("save", "skip", "set_aside"):
            kind, last = now, line
            row.append(event)
        else:
            yield line
    if kind:
        yield _summed(kind, row, last)


def _summed(kind: str, row: list[JsonRow], last: Line | None) -> Line:
    assert last is not None
    if len(row) == 1:
        return last
    first, end = (_count(row[place], "step") for place in (0, -1))
    if kind == "save":
        return Line(last.time, "good", f"{len(row)} checkpoints were written, of steps {first} to {end}.")
    if kind == "skip":
        return Line(
            last.time, "warn", f"{len(row)} steps from {first} to {end} were skipped; the last: {row[-1].get('reason', '?')}."
        )
    rows = sum(int(finite(event, "sequences") or 0) for event in row)
    return Line(
        last.time, "warn", f"{len(row)} times damaged data was excluded, {rows:,} rows in all; the last: {row[-1].get('reason')}"
    )


def _count(event: JsonRow, key: str) -> str:
    value = finite(event, key)
    return "?" if value is None else f"{value:,.0f}"


def _rest(event: JsonRow) -> str:
    """The fields of an event that this page does not know."""
    known = ("time", "event", "attempt", "life", "host", "pid")
    fields = [f"{key} {value}" for key, value in event.items() if key not in known and isinstance(value, str | int | float)]
    return f": {', '.join(fields)}" if fields else ""


def _start(event: JsonRow) -> tuple[str, str]:
    slurm = event.get("slurm")
    job = f", job {slurm['job']}" if isinstance(slurm, dict) and slurm.get("job") else ""
    number = event.get("attempt", event.get("life", "?"))
    return "info", f"Attempt {number} began on {event.get('host', '?')} with {_count(event, 'world_size')} ranks{job}."


def _evaluation(event: JsonRow, found: dict[str, float], earlier: dict[str, float]) -> str:
    if not found:
        return f"The evaluation at step {_count(event, 'step')} has no figures."
    each = [
        f"{name} {value:.4f}" + (f" ({value - earlier[name]:+.4f})" if name in earlier else "") for name, value in found.items()
    ]
    return f"Held-out accuracy at step {_count(event, 'step')}: {', '.join(each)}."


def _verified(event: JsonRow) -> tuple[str, str] | None:
    faults = event.get("faults")
    if not faults and not event.get("error"):
        return None  # as it should be
    reason = faults[0] if isinstance(faults, list) and faults else event.get("error")
    return "bad", f"The checkpoint of step {_count(event, 'step')} cannot be trusted: {reason}"


def _rollback(event: JsonRow) -> tuple[str, str]:
    return (
        "bad",
        f"Rolled back from step {_count(event, 'from_step')} to {_count(event, 'step')}; the data in between is skipped.",
    )


def _hang(event: JsonRow) -> tuple[str, str]:
    who = f"rank {event['rank']} on {event.get('host', '?')}" if event.get("rank") is not None else "no single rank stands out"
    silent = finite(event, "seconds")
    waited = f", {format_duration(silent)} without progress" if silent else ""
    place = f"phase {event.get('phase', '?')} at step {_count(event, 'step')}"
    return "bad", f"Hang in {place}: {who}{waited}. Reason: {event.get('reason') or 'not recorded'}."


def _reason(event: JsonRow) -> str:
    reason = str(event.get("reason") or "no reason is recorded").strip().rstrip(".")
    status = event.get("status")
    return f"{reason}" + (f" (status {status})" if isinstance(status, int) else "")


def _settings(event: JsonRow) -> tuple[str, str] | None:
    words = changed_in_words(event)
    return ("info", f"Settings changed: {words}.") if words else None


def _set_aside(event: JsonRow) -> tuple[str, str]:
    return (
        "warn",
        f"Damaged data was excluded, {_count(event, 'sequences')} rows: {event.get('reason') or event.get('file', '?')}",
    )


TOLD: dict[str, Any] = {
    "start": _start,
    "resume": lambda e: ("info", f"It resumed from step {_count(e, 'step')}."),
    "branch": lambda e: ("info", f"It branched from {e.get('checkpoint', '?')}, step {_count(e, 'step')}."),
    "save": lambda e: ("good", f"The checkpoint of step {_count(e, 'step')} was written."),
    "save_failed": lambda e: ("bad", f"The checkpoint of step {_count(e, 'step')} was not written: {e.get('error', '?')}"),
    "verified": _verified,
    "settings": _settings,
    "profile": lambda e: ("info", f"{_count(e, 'steps')} steps up to step {_count(e, 'step')} were profiled."),
    "prune": lambda e: None,
    "energy": lambda e: None,
    "leftover_removed": lambda e: None,
    "prune_failed": lambda e: ("warn", f"An old checkpoint could not be removed: {e.get('error', '?')}"),
    "undone": lambda e: ("info", f"{e.get('checkpoint', '?')} was removed: its steps were undone."),
    "checkpoint_passed_over": lambda e: ("bad", f"{e.get('checkpoint', '?')} was not used: {e.get('reason', '?')}"),
    "skip": lambda e: ("warn", f"Step {_count(e, 'step')} was skipped: {e.get('reason', '?')}."),
    "rollback": _rollback,
    "set_aside": _set_aside,
    "sweep_broken": lambda e: ("warn", "The search for damaged shards ended early."),
    "hang": _hang,
    SLOW_RANK: lambda e: ("warn", f"Slow: {sentence_of(e)}."),
    "lost_rank": lambda e: ("bad", f"A rank was lost: {_reason(e)}."),
    "requeue": lambda e: ("info", f"The attempt ended to be continued: {_reason(e)}."),
    "stop": lambda e: ("info" if e.get("status") == 10 else "bad", f"The run stopped: {_reason(e)}."),
    "done": lambda e: ("good", f"The run is done: step {_count(e, 'step')}, {_count(e, 'tokens')} tokens."),
}
"""Level and sentence by event; None: nobody needs a line about it."""


def _decision(row: JsonRow) -> tuple[str, str]:
    """Level and sentence of a row `end` of jobs.jsonl."""
    action = str(row.get("action", "?"))
    level = {"finish": "good", "stop": "bad"}.get(action, "info")
    reason = str(row.get("reason") or "no reason is recorded").rstrip(".")
    ended = f"Job {row.get('job', '?')} ended with status {row.get('status', '?')}"
    return level, f"{ended}; decision: {action} ({reason}).{without_hosts(row)}"


def as_markdown(lines: list[Line], stamps: list[str]) -> str:
    """Returns lines as a list in Markdown.

    Args:
        lines: of the chronicle.
        stamps: time of each, as text.
    """
    return "\n".join(f"- {stamp} {line.text}" for line, stamp in zip(lines, stamps, strict=True))
