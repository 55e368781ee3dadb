"""The verdict on a run in one sentence: what it does, when it will be done, and whether it needs a person, why and what to do.

Each rule is a pure function of what is seen of the run (`facts.py`) and finds one thing or nothing. The worst finding makes the sentence.
`jadeberta status`, the report and the alerts show the same words.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from jadeberta.config.alerts_config import end_of_day
from jadeberta.errors import StopRequested, is_retryable
from jadeberta.status.eta import training_left_s
from jadeberta.status.facts import NOT_CONTINUED, Facts
from jadeberta.status.forecast_end import Forecast, forecast
from jadeberta.status.goodput import Attempt
from jadeberta.status.verdict_words import clock, format_bytes, format_days, format_end, plain
from jadeberta.utils.durations import DAY_S, format_duration
from jadeberta.utils.json_lines import JsonRow, finite, time_of

Level = Literal["done", "ok", "attention", "stopped", "needs-you"]
"""done, ok: nothing is to do; attention: worth a look; stopped: a person ended it; needs-you: nothing goes on, or soon nothing will,
without a person."""
ORDER: tuple[Level, ...] = ("needs-you", "stopped", "done", "attention", "ok")
"""Levels, the one that makes the sentence first."""
GRACE_S = 600.0
"""Time that the next attempt may take to begin before a run counts as not continued."""
LEAST_AGE_S = 6 * 3600.0
"""Age of a run from which its goodput and its end are judged."""
SAVES_MISSED = 3
"""Intervals between two saves after which the newest verified checkpoint is too old."""
LEAST_CHECKPOINT_AGE_S = 7200.0
DISK_DAYS = 3.0
"""Days until the disk is full at which it counts as nearly full."""
LEAST_FREE = 256 << 20
"""Bytes below which a disk counts as full for any run."""
HELD = (
    "JobHeldUser",
    "JobHeldAdmin",
    "launch_failed_requeued_held",
    "DependencyNeverSatisfied",
    "BadConstraints",
    "PartitionConfig",
)
"""Reasons of Slurm for which a job waits until a person acts."""


@dataclass(frozen=True)
class Finding:
    """What one rule has found."""

    level: Level
    reason: str
    """Name of the rule, for programs: a key of RULES."""
    text: str
    """What is so, without a full stop; begins with a small letter where `level` is needs-you or attention."""
    do: str = ""
    """What a person has to do about it, without a full stop; empty: nothing."""
    since: float | None = None
    """Unix time since when it is so; None where that is not known."""
    stage: str = ""
    """What is worse than the rule's first finding, such as full after nearly full: another event for alerts."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run."""

    sentence: str
    level: Level
    reason: str
    """Rule that made the sentence, for programs: a key of RULES, or running, starting-up, queued, between-attempts."""
    since: float | None
    """Unix time since when the reason holds; None where that is not known."""
    ends: float | None
    """Unix time at which the run will be done, if it goes on as in its last days; None where that is not known."""
    margin_s: float | None
    """Seconds by which it may be done earlier or later."""
    planned: float | None
    """Unix time by which it is planned to be done (`alerts.done_by`); None without a plan."""
    goodput_24h: float | None
    """Share of the last 24 hours in steps that stayed."""
    disk_days: float | None
    """Days until the disk is full at the run's own growth; None where it does not grow or that is not known."""
    findings: tuple[Finding, ...]
    """What every rule has found, the worst first."""


def judge(facts: Facts) -> Verdict:
    """Returns the verdict on a run."""
    ahead = forecast(facts.histories, training_left_s(facts.result, facts.goal), facts.now)
    found = sorted(filter(None, (rule(facts, ahead) for rule in RULES.values())), key=lambda one: ORDER.index(one.level))
    planned = planned_end(facts)
    main = found[0] if found else _course(facts)
    return Verdict(
        sentence=_sentence(facts, main, [one for one in found[1:] if one.level == main.level], ahead, planned),
        level=main.level,
        reason=main.reason,
        since=main.since,
        ends=ahead.ends,
        margin_s=ahead.margin_s,
        planned=planned,
        goodput_24h=ahead.goodput_24h,
        disk_days=days_left(facts),
        findings=tuple(found),
    )


def _sentence(facts: Facts, main: Finding, others: list[Finding], ahead: Forecast, planned: float | None) -> str:
    also = f" (also: {', '.join(one.reason for one in others)})" if others else ""
    if main.level == "needs-you":
        return f"NEEDS YOU: {main.text}{also}; do: {main.do}."
    if main.level in ("done", "stopped"):
        return f"{main.text}; {main.do or 'nothing needs you'}."
    parts = [main.text if main.level == "ok" else _course(facts).text]
    is_late = any(one.reason == "behind-plan" for one in (main, *others))
    if planned is not None and ahead.ends is not None and main.level == "ok" and main.reason == "running" and not is_late:
        parts[0] += ", on plan"
    if ahead.ends is not None:
        parts.append(f"done {format_end(ahead.ends, ahead.margin_s or 0.0, facts.now)}")
    if main.level == "attention":
        return f"{'; '.join(parts)}; LOOK: {main.text}{also}{f'; do: {main.do}' if main.do else ''}."
    return f"{'; '.join(parts)}; nothing needs you."


def _course(facts: Facts) -> Finding:
    """What a run does of which no rule has found anything."""
    state, jobs = facts.state, facts.jobs
    if state == "queued":
        why = f" ({jobs.reason})" if jobs.reason else ""
        when = "" if jobs.starts_in_s is None else f", expected to start in {format_duration(jobs.starts_in_s)}"
        return Finding("ok", "queued", f"Queued in Slurm{why}{when}")
    if state in ("starting up", "running"):
        return Finding("ok", state.replace(" ", "-"), state.capitalize())
    return Finding("ok", "between-attempts", f"Between two attempts since {clock(facts.last, facts.now)}", since=facts.last)


def _is_done(facts: Facts, ahead: Forecast) -> Finding | None:
    if facts.state != "done":
        return None
    return Finding("done", "done", f"Done at {clock(facts.last, facts.now)}, after step {facts.result.step:,}", since=facts.last)


def _is_stopped(facts: Facts, ahead: Forecast) -> Finding | None:
    """The run was ended by a person, or with a status that no new attempt mends."""
    if facts.state == "cancelled":
        text = f"Cancelled in Slurm, last sign at {clock(facts.last, facts.now)}"
        return Finding("stopped", "stopped", text, "submit it again to go on", facts.last)
    if facts.state not in ("stopped", "stop"):
        return None
    status, why = _final_status(facts)
    if status == StopRequested.exit_status:
        text = f"Stopped at {clock(facts.last, facts.now)} as it was asked to"
        return Finding("stopped", "stopped", text, "start it again to go on", facts.last)
    if status is None or is_retryable(status):
        return None
    text = f"stopped at {clock(facts.last, facts.now)} with status {status}, which no new attempt mends, because {why}"
    return Finding(
        "needs-you", "stopped", text, "mend the cause and start it again (docs/pre-train.md, Exit statuses)", facts.last
    )


def _is_fruitless(facts: Facts, ahead: Forecast) -> Finding | None:
    """Attempts follow each other and none writes a newer checkpoint."""
    if facts.state == "done":
        return None
    count = fruitless_attempts(facts)
    limit = max(2, facts.bounds.attempts_without_progress)
    # At the limit the job scripts stop: an attempt that works after that was started by a person, who knows.
    if count < limit or (count == limit and facts.state in ("running", "starting up", "queued")):
        return None
    at = next((one.last for one in reversed(facts.result.attempts) if one.ended != "running"), None)
    text = (
        f"{count} attempts in a row ended without a newer checkpoint, the last at {clock(at, facts.now)}, because {_cause(facts)}"
    )
    return Finding("needs-you", "fruitless", text, "read the end of the job's log and mend the cause", at)


def _hangs(facts: Facts, ahead: Forecast) -> Finding | None:
    """The run is there and does nothing, or its last attempt hung and no other follows."""
    last = facts.result.attempts[-1] if facts.result.attempts else None
    if last is None:
        return None
    if facts.state == "running":
        at = facts.progressed if facts.progressed is not None else facts.now
        if facts.now - at <= facts.bounds.silent_s + GRACE_S:
            return None
        beat = max((time_of(row) for row in facts.beats), default=0.0)
        sign = f", its newest heartbeat is of {clock(beat, facts.now)}" if beat else ""
        text = f"no progress since {clock(at, facts.now)}, though it still holds its place{sign}"
        return Finding("needs-you", "hang", text, "look at its ranks and hosts, end it and start it again (docs/recover.md)", at)
    if last.ended != "hang" or not _is_abandoned(facts):
        return None
    hang = facts.result.hangs[-1] if facts.result.hangs else {}
    who = "no rank is to blame" if hang.get("rank") is None else f"rank {hang.get('rank')} on {plain(hang.get('host'))} hung"
    where = f" at step {hang['step']}" if isinstance(hang.get("step"), int) else ""
    text = f"not continued since {clock(facts.last, facts.now)}, because {who}{where}"
    return Finding("needs-you", "hang", text, _again(facts, "without that host"), facts.last)


def _is_not_continued(facts: Facts, ahead: Forecast) -> Finding | None:
    """No process lives, no job is queued, and the run is to go on."""
    if not _is_abandoned(facts) or (facts.result.attempts and facts.result.attempts[-1].ended == "hang"):
        return None
    text = f"not continued since {clock(facts.last, facts.now)}, because {_cause(facts)}"
    return Finding("needs-you", "not-continued", text, _again(facts), facts.last)


def _is_held(facts: Facts, ahead: Forecast) -> Finding | None:
    """Its job waits in Slurm for something that only a person can change."""
    reason = facts.jobs.reason
    if facts.state != "queued" or not (reason in HELD or facts.jobs.state in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")):
        return None
    job, why = facts.jobs.job, plain(reason or facts.jobs.state)
    text = f"job {job} waits and will not start by itself, because Slurm says {why}"
    return Finding("needs-you", "held", text, f"scontrol release {job}, or change what the reason names")


def _has_old_checkpoint(facts: Facts, ahead: Forecast) -> Finding | None:
    """The newest checkpoint that was read back is older than some saves."""
    result, goal = facts.result, facts.goal
    if facts.state != "running" or not goal.every_steps or not result.step_s:
        return None
    interval = goal.every_steps * result.step_s / max(ahead.goodput_24h or 1.0, 0.1)
    limit = max(LEAST_CHECKPOINT_AGE_S, SAVES_MISSED * interval)
    step, at = newest_verified(facts)
    since = at if at is not None else next((one.started for one in facts.result.attempts if one.started is not None), None)
    if since is None or facts.now - since <= limit:
        return None
    age = format_duration(facts.now - since)
    what = (
        f"the newest verified checkpoint is of step {step:,} and {age} old"
        if at is not None
        else f"no verified checkpoint in {age}"
    )
    why = next(
        (plain(row.get("error")) for row in _events(facts) if row.get("event") == "save_failed" and time_of(row) > since), ""
    )
    text = what + (f", because a save failed: {why}" if why else f", where one is due every {format_duration(interval)}")
    return Finding("needs-you", "checkpoint-old", text, "look at the disk and the log of rank 0 (docs/recover.md, Saves)", since)


def _is_disk_full(facts: Facts, ahead: Forecast) -> Finding | None:
    """The disk has no room for the next checkpoint, or will have none soon."""
    disk = facts.disk
    if disk is None or facts.state == "done":
        return None
    do = "free or add space (docs/recover.md, Free the disk)"
    if disk.free < max(disk.checkpoint, LEAST_FREE):
        needed = f", and a checkpoint takes {format_bytes(disk.checkpoint)}" if disk.checkpoint else ""
        return Finding("needs-you", "disk", f"the disk is full: {format_bytes(disk.free)} are free{needed}", do, stage="full")
    days = days_left(facts)
    still = None if ahead.ends is None else (ahead.ends - facts.now) / DAY_S
    if days is None or days >= DISK_DAYS or (still is not None and still < days):
        return None
    text = f"the disk will be full in {days:.1f} days: {format_bytes(disk.free)} are free"
    return Finding("needs-you", "disk", text, do)


def _has_low_goodput(facts: Facts, ahead: Forecast) -> Finding | None:
    bound = facts.bounds.alerts.goodput_below
    if not bound or ahead.goodput_24h is None or ahead.goodput_24h >= bound or not _is_under_way(facts):
        return None
    text = f"goodput of the last 24 hours is {100 * ahead.goodput_24h:.0f}%, below the bound of {100 * bound:g}%"
    return Finding("attention", "goodput", text, "see where the time went in 'jadeberta status'")


def _is_behind_plan(facts: Facts, ahead: Forecast) -> Finding | None:
    """Even the earliest end of the range comes after the day of the plan."""
    planned = planned_end(facts)
    if planned is None or ahead.ends is None or not _is_under_way(facts):
        return None
    late = ahead.ends - planned
    if late <= (ahead.margin_s or 0.0):
        return None
    text = f"behind the plan by {format_days(math.ceil(late / DAY_S) * DAY_S)}, which was to be done by {facts.bounds.alerts.done_by}"
    return Finding("attention", "behind-plan", text)


Rule = Callable[[Facts, Forecast], Finding | None]
RULES: dict[str, Rule] = {
    "done": _is_done,
    "stopped": _is_stopped,
    "fruitless": _is_fruitless,
    "hang": _hangs,
    "not-continued": _is_not_continued,
    "held": _is_held,
    "checkpoint-old": _has_old_checkpoint,
    "disk": _is_disk_full,
    "goodput": _has_low_goodput,
    "behind-plan": _is_behind_plan,
}
"""The rules by the reason that they give; of two findings of one level the earlier rule makes the sentence."""


def fruitless_attempts(facts: Facts) -> int:
    """Counts the latest attempts in a row that ended by a failure and left no checkpoint newer than all before."""
    known, count = -1, 0
    for history, attempt in zip(facts.histories, facts.result.attempts, strict=False):
        newest = max((int(finite(e, "step") or 0) for e in history.events if e.get("event") == "save"), default=-1)
        if newest > known:
            known, count = newest, 0
        elif attempt.ended == "running":
            pass  # it has not ended yet
        # A person's stop, preemption and the time limit say nothing about the run.
        elif attempt.failed or attempt.ended == "lost_rank":
            count += 1
    return count


def newest_verified(facts: Facts) -> tuple[int | None, float | None]:
    """Returns step and unix time of the newest checkpoint that was read back as written; (None, None) where there is none."""
    events = list(_events(facts))
    # Ledgers of old versions have no event for it.
    kinds = ("verified", "resume") if any(e.get("event") == "verified" for e in events) else ("save", "resume")
    for row in events:
        if row.get("event") in kinds and not row.get("faults") and not row.get("error") and finite(row, "time") is not None:
            return int(finite(row, "step") or 0), time_of(row)
    return None, None


def days_left(facts: Facts) -> float | None:
    """Returns the days until the run's own growth has filled the disk; None where it does not grow, or too little is known."""
    disk, result, bounds = facts.disk, facts.result, facts.bounds
    rows = result.steps + result.lost_steps
    if disk is None or not result.step_s or not result.goodput or not rows or facts.state == "done":
        return None
    steps_a_day = DAY_S * result.goodput / result.step_s
    kept_every = facts.goal.every_steps if bounds.keep_last == 0 else bounds.keep_every
    growth = steps_a_day * disk.metrics / rows + (steps_a_day / kept_every * disk.checkpoint if kept_every else 0.0)
    # The next checkpoint is written before an old one is removed.
    return max(0.0, disk.free - disk.checkpoint) / growth if growth > 0 else None


def planned_end(facts: Facts) -> float | None:
    """Returns the unix time by which the run is planned to be done; None without a plan."""
    return end_of_day(facts.bounds.alerts.done_by)


def _is_under_way(facts: Facts) -> bool:
    """Whether the run goes on and is old enough to be judged by its goodput."""
    began = next((one.started for one in facts.result.attempts if one.started is not None), None)
    on = facts.state in ("running", "starting up", "queued")
    return on and began is not None and facts.now - began >= LEAST_AGE_S


def _is_abandoned(facts: Facts) -> bool:
    """Whether nothing lives and nothing is queued of a run that is to go on."""
    state = facts.state
    if state in ("done", "running", "queued", "starting up", "cancelled"):
        return False
    if state in ("stopped", "stop"):
        status, _ = _final_status(facts)
        if status is not None and not is_retryable(status):
            return False  # it was ended on purpose
    return state == NOT_CONTINUED or facts.last is None or facts.now - facts.last > GRACE_S


def _final_status(facts: Facts) -> tuple[int | None, str]:
    """Status, None where none is recorded, and reason with which the last attempt ended: of the decision on its job, else of its ledger."""
    row: JsonRow = (facts.histories[-1].ending if facts.histories else None) or {}
    status = finite(row, "status")
    if facts.jobs.ended and facts.jobs.ends:
        row = facts.jobs.ends[-1]
        # The decision may name the job's status alone; one of the run that no new attempt mends says more.
        status = finite(row, "status") if status is None or is_retryable(int(status)) else status
    return (None if status is None else int(status)), plain(row.get("reason")) or "no reason was recorded"


def _cause(facts: Facts) -> str:
    """Why the last attempt ended, as far as it is known, and what Slurm says."""
    jobs = facts.jobs
    slurm = "" if jobs.job is None or not jobs.note else f" ({plain(jobs.note)})"
    if facts.state == NOT_CONTINUED:
        return f"Slurm has no job that goes on with it, though one was to; {_final_status(facts)[1]}"
    if jobs.ended and jobs.ends:
        return _final_status(facts)[1] + slurm
    last: Attempt | None = next((one for one in reversed(facts.result.attempts) if one.ended != "running"), None)
    if jobs.state and not jobs.works and not jobs.waits:
        return f"its job {jobs.job} ended in Slurm as {plain(jobs.state)}"
    if last is None:
        return f"its job has written nothing{slurm}"
    _, why = _final_status(facts)
    ended = f"attempt {last.number} was killed or failed" if last.ended == "killed" else f"attempt {last.number} ended ({why})"
    return f"{ended} and nothing has started it again{slurm}"


def _again(facts: Facts, how: str = "") -> str:
    """What to do to let a run go on."""
    if facts.jobs.job is not None:
        return f"submit its job again{f' {how}' if how else ''}; it resumes by itself"
    return f"start it again with the same command{f', {how}' if how else ''}; it resumes by itself"


def _events(facts: Facts) -> Iterator[JsonRow]:
    """All events of the ledger, the newest first."""
    for history in reversed(facts.histories):
        yield from reversed(history.events)
