"""The figures at the head of a report, each with that of a day before. Pure functions."""

from dataclasses import dataclass

import numpy as np

from jadeberta.checkpoint.manifest import directory_name
from jadeberta.report.checkpoint_rows import verified_steps
from jadeberta.report.report_curves import accuracies, standing_evaluations
from jadeberta.report.run_facts import RunFacts
from jadeberta.status.eta import training_left_s
from jadeberta.status.forecast_end import productive_in
from jadeberta.status.verdict_words import clock, format_bytes, format_date, format_end
from jadeberta.utils.durations import DAY_S, format_duration
from jadeberta.utils.json_lines import JsonRow, time_of


@dataclass
class Tile:
    """One figure."""

    label: str
    value: str
    before: str = ""
    """The same a day before, in words."""
    note: str = ""


def tiles(facts: RunFacts) -> list[Tile]:
    """Returns the tiles of a run; a figure that is not known says so."""
    return [
        _progress(facts), _end(facts), _accuracy(facts), _speed(facts), _goodput(facts), _checkpoint(facts), _gpu_hours(facts),
        _energy(facts), _disk(facts),
    ]  # fmt: skip


def _progress(facts: RunFacts) -> Tile:
    step, goal = facts.goodput.step, facts.seen.goal.max_steps
    known = facts.standing.time[np.isfinite(facts.standing.time)]
    made = [int(((known > facts.at - days * DAY_S) & (known <= facts.at - (days - 1) * DAY_S)).sum()) for days in (1, 2)]
    before = f"{made[0]:,} steps in the last 24 h" + (f"; the day before {made[1]:,}" if made[1] else "")
    if not goal:
        return Tile("Progress", f"step {step:,}", before, "the recipe does not say how many")
    return Tile("Progress", f"{100 * step / goal:.1f}%", before, f"step {step:,} of {goal:,}; {facts.goodput.tokens:,} tokens")


def _end(facts: RunFacts) -> Tile:
    verdict, now = facts.verdict, facts.seen.now
    if facts.seen.state == "done":
        return Tile("Done", clock(facts.last, now))
    if verdict is None or verdict.ends is None:
        return Tile("Expected end", "not known yet")
    # A plan ends with its day, at the midnight after it.
    planned = "" if verdict.planned is None else f"planned: {format_date(verdict.planned - 1, now)}"
    return Tile(
        "Expected end", format_end(verdict.ends, verdict.margin_s or 0.0, now), planned, "if it goes on as in its last days"
    )


def _accuracy(facts: RunFacts) -> Tile:
    rows = standing_evaluations(facts)
    if not rows:
        return Tile("Held-out accuracy", "not measured", note="no evaluation has stayed yet")
    newest, before = _mean(rows[-1]), [_mean(row) for row in rows if time_of(row) <= facts.at - DAY_S]
    what = f"mean of {len(accuracies(rows[-1]))} corpora at step {int(rows[-1]['step']):,}"
    return Tile("Held-out accuracy", f"{newest:.4f}", f"{newest - before[-1]:+.4f} since yesterday" if before else "", what)


def _mean(event: JsonRow) -> float:
    values = list(accuracies(event).values())
    return sum(values) / len(values) if values else float("nan")


def _speed(facts: RunFacts) -> Tile:
    steps = facts.standing
    found: list[tuple[float | None, float | None]] = []
    for days in (1, 2):
        own = (steps.time > facts.at - days * DAY_S) & (steps.time <= facts.at - (days - 1) * DAY_S) & (steps.seconds > 0)
        weights = steps.seconds[own]
        pair = []
        for values in (steps.tokens_per_second[own], steps.mfu[own]):
            known = np.isfinite(values)
            pair.append(float(np.average(values[known], weights=weights[known])) if known.any() else None)
        found.append((pair[0], pair[1]))
    (rate, mfu), (rate_before, _) = found
    if rate is None:
        return Tile("Speed", "not known")
    change = "" if not rate_before else f"{round(100 * (rate / rate_before - 1), 1) + 0.0:+.1f}% since yesterday"
    shown = "MFU not known" if mfu is None else f"MFU {100 * mfu:.1f}%"
    return Tile("Speed", f"{rate:,.0f} tokens/s", change, f"{shown}; in steps of the last 24 h")


def _goodput(facts: RunFacts) -> Tile:
    began = facts.began
    if began is None or facts.at - began < 1:
        return Tile("Goodput", "not known yet")
    shares = []
    for days in (1, 2):
        low, high = max(began, facts.at - days * DAY_S), facts.at - (days - 1) * DAY_S
        shares.append(float(productive_in(facts.histories, np.array([low, high]))[0]) / (high - low) if high > low else None)
    before = "" if shares[1] is None else f"the day before {100 * shares[1]:.1f}%"
    return Tile("Goodput, 24 h", f"{100 * (shares[0] or 0):.1f}%", before, f"{100 * facts.goodput.goodput:.1f}% of the whole run")


def _checkpoint(facts: RunFacts) -> Tile:
    verified = verified_steps(facts)
    there = {path.name for path in facts.checkpoints}
    good = [(at, step) for step, at in verified.items() if directory_name(step) in there]
    if not good:
        return Tile("Verified checkpoint", "none", note=f"{len(facts.checkpoints)} directories of checkpoints")
    at, step = max(good, key=lambda one: one[1])
    return Tile("Verified checkpoint", f"step {step:,}", f"{format_duration(max(0.0, facts.seen.now - at))} ago")


def gpu_hours(facts: RunFacts) -> float:
    """Returns the hours of all ranks' devices in the attempts so far."""
    lasted = [(h, (h.last or 0.0) - (h.started or 0.0)) for h in facts.histories if h.started is not None]
    return sum(facts.world_size(h) * max(0.0, seconds) / 3600 for h, seconds in lasted)


def _gpu_hours(facts: RunFacts) -> Tile:
    spent = gpu_hours(facts)
    left = training_left_s(facts.goodput, facts.seen.goal)
    if left is None or not facts.histories or facts.goodput.wall_s <= 0:
        return Tile("Device-hours", f"{spent:,.1f}")
    # Between two attempts no device is held.
    held = facts.goodput.productive_s / max(1e-9, facts.goodput.wall_s - facts.goodput.down_s)
    ahead = facts.world_size(facts.histories[-1]) * left / max(held, 0.01) / 3600
    return Tile("Device-hours", f"{spent:,.1f}", note=f"about {ahead:,.1f} to come")


def _energy(facts: RunFacts) -> Tile:
    energy = facts.goodput.energy
    known = [kwh for kwh in (energy.gpu_kwh, energy.cpu_kwh) if kwh is not None]
    if not known:
        return Tile("Energy", "not measured")
    used, step, goal = sum(known), facts.goodput.step, facts.seen.goal.max_steps
    ahead = f"about {used * (goal - step) / step:,.1f} kWh to come" if goal and 0 < step < goal else ""
    return Tile("Energy", f"{used:,.1f} kWh", ahead, energy.in_words())


def _disk(facts: RunFacts) -> Tile:
    disk, days = facts.seen.disk, None if facts.verdict is None else facts.verdict.disk_days
    if disk is None:
        return Tile("Disk", "not known")
    room = "" if not disk.checkpoint else f"a checkpoint takes {format_bytes(disk.checkpoint)}"
    if days is None:
        return Tile("Disk", f"{format_bytes(disk.free)} free", note=room)
    shown = f"{days:,.0f} days" if days < 1000 else "over 1,000 days"
    return Tile("Disk lasts", shown, f"{format_bytes(disk.free)} free", room)
