"""Which events of a run are worth an alert: a pure function of what is seen of it and of what was sent before.

An event is sent once. What holds for a while (a full disk, a low goodput) is one event until it has been gone for a day; what belongs to
an attempt is one event an attempt; roll-backs and hangs are one event for each row of the ledger.
"""

from dataclasses import asdict, dataclass
from typing import Any

from jadeberta.status.facts import Facts
from jadeberta.status.run_verdict import Finding, Verdict
from jadeberta.status.verdict_words import clock, plain
from jadeberta.utils.json_lines import JsonRow, finite

EVENTS = {
    "needs-you": "nothing goes on, or soon nothing will, without a person: not continued, held, no checkpoint, a status that nothing mends",
    "stopped": "a person stopped it or cancelled its job",
    "hang": "its watchdog found a rank that hangs",
    "roll-back": "it went back to an older checkpoint and skipped data",
    "goodput": "goodput of the last 24 hours is below `alerts.goodput_below`",
    "behind-plan": "it will not be done by `alerts.done_by`",
    "disk": "its disk is full or will be within three days",
    "no-progress": "it lives and writes nothing, or attempts follow each other without a newer checkpoint",
    "done": "the last step is done",
}
"""Kinds of events, as alerts name them, and when they are sent."""
BY_ROW = {"hang": "hang", "rollback": "roll-back"}
"""Kind of the event that a row of the ledger is, by the row's name."""
BY_REASON = {"fruitless": "no-progress", "disk": "disk", "goodput": "goodput", "behind-plan": "behind-plan", "done": "done"}
"""Kind of the event that a finding of the verdict is, by its reason; of others the level decides."""
OF_ATTEMPT = ("done", "stopped", "hang", "not-continued")
"""Reasons that each attempt can give once."""
QUIET_S = 86400.0
"""Time that a condition must be gone before it is an event again."""
MOST_ROWS = 5
"""Most rows of the ledger that one pass makes events of: the newest."""


@dataclass(frozen=True)
class Event:
    """One event, as the command gets it."""

    key: str
    """Names the event among those of its run."""
    kind: str
    """A key of EVENTS."""
    reason: str
    """Rule of the verdict, or name of the ledger's row."""
    text: str
    """What has happened, one line."""
    since: float | None
    """Unix time since when it is so, or at which it happened; None where that is not known."""
    row: int | None = None
    """Number of the row among the ledger's hangs and roll-backs, from 1; None where it is none."""


@dataclass(frozen=True)
class Sent:
    """What was sent about a run before."""

    rows: int | None = None
    """Hangs and roll-backs of the ledger that need no event any more; None: nobody has watched before, and they are history."""
    events: tuple[tuple[str, float], ...] = ()
    """Keys of the findings that were sent, each with the unix time at which it was seen last."""
    tries: tuple[tuple[str, int], ...] = ()
    """Keys of the events that could not be sent, each with the number of passes that tried."""


def rows_of_events(ledger: list[JsonRow]) -> list[JsonRow]:
    """Returns the rows of a ledger that are events themselves, in its order."""
    return [row for row in ledger if str(row.get("event")) in BY_ROW]


def new_events(facts: Facts, verdict: Verdict, rows: list[JsonRow], sent: Sent) -> list[Event]:
    """Returns the events that were not sent yet, the oldest first.

    Args:
        facts: what is seen of the run.
        verdict: on these facts.
        rows: see `rows_of_events`.
        sent: what was sent before.
    """
    # A ledger that was replaced by a shorter one has no new rows.
    known = len(rows) if sent.rows is None else min(sent.rows, len(rows))
    first = max(known, len(rows) - MOST_ROWS)
    found = [_of_row(number + 1, rows[number], facts.now, first - known) for number in range(first, len(rows))]
    before = dict(sent.events)
    for finding in verdict.findings:
        event = _of_finding(finding, facts)
        seen = before.get(event.key)
        if seen is None or (finding.reason not in OF_ATTEMPT and facts.now - seen > QUIET_S):
            found.append(event)
    return found


def held_keys(facts: Facts, verdict: Verdict) -> list[str]:
    """Returns the keys of what holds now."""
    return [_of_finding(finding, facts).key for finding in verdict.findings]


def _of_row(number: int, row: JsonRow, now: float, skipped: int) -> Event:
    """The event of a hang or a roll-back.

    Args:
        number: of the row, from 1.
        row: of the ledger.
        now: unix time.
        skipped: older rows that no event is made of.
    """
    at = finite(row, "time")
    step = row.get("step")
    if row["event"] == "hang":
        who = "no rank is to blame" if row.get("rank") is None else f"rank {plain(row['rank'])} on {plain(row.get('host'))} hung"
        text = f"{who} at step {plain(step)}, {clock(at, now)}"
    else:
        text = f"rolled back from step {plain(row.get('from_step'))} to step {plain(step)}, {clock(at, now)}"
    text += f" ({skipped} such events before it are not told one by one)" if skipped else ""
    return Event(f"row:{number}", BY_ROW[row["event"]], row["event"], text, at, number)


def _of_finding(finding: Finding, facts: Facts) -> Event:
    if finding.reason == "hang" and facts.state == "running":
        kind = "no-progress"
    else:
        kind = BY_REASON.get(finding.reason, "stopped" if finding.level == "stopped" else "needs-you")
    attempt = facts.result.attempts[-1].number if facts.result.attempts else 0
    key = f"{kind}:{finding.reason}{finding.stage and ':'}{finding.stage}" + (
        f":{attempt}" if finding.reason in OF_ATTEMPT else ""
    )
    return Event(key, kind, finding.reason, finding.text, finding.since)


def as_json(event: Event, facts: Facts, verdict: Verdict) -> dict[str, Any]:
    """Returns an event as the command reads it on its standard input.

    Args:
        event: one of the run.
        facts: what is seen of the run.
        verdict: on these facts.
    """
    attempts = facts.result.attempts
    return {
        "text": alert_text(event, facts, verdict),
        "event": event.kind,
        "reason": event.reason,
        "what": event.text,
        "since": event.since,
        "time": facts.now,
        "run": str(facts.run.absolute()),
        "state": facts.state,
        "step": facts.result.step,
        "max_steps": facts.goal.max_steps,
        "attempt": attempts[-1].number if attempts else None,
        "verdict": asdict(verdict),
    }


def alert_text(event: Event, facts: Facts, verdict: Verdict) -> str:
    """Returns an event as one line for people: the run, what has happened, and the sentence of the verdict."""
    name = plain(facts.run.absolute())
    says_it = event.text in verdict.sentence
    return f"{name}: {verdict.sentence}" if says_it else f"{name}: {event.kind}: {event.text}. {verdict.sentence}"
