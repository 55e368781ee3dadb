"""Sections of the page below the curves: hours, speed, hosts, data, checkpoints, settings; from the figures of a run alone."""

import time
from itertools import pairwise
from typing import Any

from jadeberta.report.html_page import Markup, escape, table
from jadeberta.report.report_figures import Figures
from jadeberta.report.step_speed import LEVELS
from jadeberta.report.svg_charts import heat_map, keys, stacked_bars, timeline
from jadeberta.status.goodput import PARTS
from jadeberta.utils.durations import format_duration

PART_CLASSES = {name: f"h{place}" for place, name in enumerate(PARTS)}
ENDED_CLASSES = {"running": "h0", "done": "h0", "requeue": "h3", "stop": "h2", "hang": "h7", "killed": "h1", "lost_rank": "h6"}
MOST_ATTEMPTS = 300
LABELS = 8
"""Dates below a picture of the whole run."""


def stamp(at: float | None) -> str:
    """Returns a unix time as local date and time; empty where there is none or no calendar has it."""
    try:
        return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return ""


def sections(run: Figures, place: int) -> str:
    """Returns everything below the curves.

    Args:
        run: figures of the run.
        place: of the run on the page, from 0.
    """
    parts = (_hours, _speed, _hosts, _data, _checkpoints)
    return "".join(part(run) for part in parts) + _settings(run, place)


def _number(value: float | None, form: str = ",.2f") -> str:
    return "" if value is None else format(value, form)


def _dates(begin: float, end: float) -> list[tuple[float, str]]:
    """Places, as shares of the width, and dates below a picture of the whole run."""
    return [(n / LABELS, stamp(begin + (end - begin) * n / LABELS)[5:]) for n in range(LABELS)]


def _hours(run: Figures) -> str:
    found = run["hours"]
    if not found or not found["days"]:
        return ""
    whole = {name: seconds for name, seconds in found["whole"].items() if seconds > 0}
    wall = sum(whole.values()) or 1.0
    bars, labels = [], []
    for day in found["days"]:
        when = stamp(day["begin"])
        labels.append(when[5:10] if len(found["days"]) > 2 else when[5:])
        bars.append(
            [
                (PART_CLASSES[name], day["seconds"][name], f"from {when}: {PARTS[name]} {format_duration(day['seconds'][name])}")
                for name in PARTS
                if day["seconds"].get(name)
            ]
        )
    names = [name for name in PARTS if name in whole]
    shares = ", ".join(f"{PARTS[name]} {100 * whole[name] / wall:.1f}%" for name in names)
    rows = [[stamp(day["begin"]), *(f"{day['seconds'].get(name, 0.0) / 3600:,.2f}" for name in names)] for day in found["days"]]
    share_rows = [(PARTS[name], f"{whole[name] / 3600:,.2f}", f"{100 * whole[name] / wall:.2f}") for name in names]
    return (
        "<section><h2>Where every hour went</h2><div class=pair>"
        + table(("part", "hours", "%"), share_rows)
        + f"<div><h3>By day</h3>{stacked_bars(labels, bars, f'Hours by day. Of the whole run: {shares}.')}"
        + f"{keys([(PART_CLASSES[name], PARTS[name]) for name in names])}</div></div>"
        + f"<details class=numbers><summary>Numbers by day</summary>{table(['day from', *(PARTS[n] for n in names)], rows)}</details>"
        + _attempts(run)
        + _causes(found["causes"])
        + "</section>"
    )


def _attempts(run: Figures) -> str:
    attempts = [one for one in run["hours"]["attempts"] if one["started"] is not None and one["last"] is not None]
    begin, end = run["began"], run["at"]
    if not attempts or begin is None or end <= begin:
        return ""
    spans, wide = [], end - begin
    for one in attempts:
        shown = (
            f"attempt {one['number']}: {one['ended']}, {stamp(one['started'])} to {stamp(one['last'])}, steps {one['first_step']} to "
            f"{one['last_step']}"
        )
        trained = one["trained_from"] if one["trained_from"] is not None else one["last"]
        low, middle, high = (min(1.0, max(0.0, (t - begin) / wide)) for t in (one["started"], trained, one["last"]))
        spans.append(("h5", low, max(low, middle), shown))
        spans.append((ENDED_CLASSES.get(one["ended"], "h9"), max(low, middle), max(high, middle), shown))
    ends = list(dict.fromkeys(one["ended"] for one in attempts))
    rows = [
        (
            one["number"], one["ended"], one["host"], stamp(one["started"]), format_duration(max(0.0, one["last"] - one["started"])),
            one["ranks"], _number(one["first_step"], ",d"), _number(one["last_step"], ",d"), f"{one['lost_steps']:,}",
            _number(one["gpu_kwh"]), _number(one["cpu_kwh"]),
        )
        for one in reversed(attempts[-MOST_ATTEMPTS:])
    ]  # fmt: skip
    headers = (
        "attempt",
        "ended",
        "host of rank 0",
        "began",
        "lasted",
        "ranks",
        "from step",
        "to step",
        "lost steps",
        "GPU kWh",
        "CPU kWh",
    )
    return (
        f"<h3>By attempt</h3>{timeline(spans, _dates(begin, end), f'{len(attempts)} attempts along the time of the run.')}"
        + keys(
            [
                *((ENDED_CLASSES.get(name, "h9"), f"ended: {name}" if name != "running" else name) for name in ends),
                ("h5", "starting up"),
            ]
        )
        + f"<details class=numbers><summary>Numbers by attempt</summary>{table(headers, rows, left=4)}</details>"
    )


def _causes(causes: list[dict[str, Any]]) -> str:
    if not causes:
        return ""
    whole = sum(one["lost_steps_s"] + one["down_s"] for one in causes) or 1.0
    rows = []
    for one in causes:
        cost = one["lost_steps_s"] + one["down_s"]
        hand = f"{one['by_hand']} times" if one["by_hand"] else "no" if one["by_itself"] else "not recorded"
        rows.append(
            (one["cause"], f"{one['count']:,}", f"{100 * cost / whole:.1f}", f"{cost / 3600:,.2f}", f"{one['lost_steps_s'] / 3600:,.2f}",
             f"{one['down_s'] / 3600:,.2f}", hand)
        )  # fmt: skip
    headers = (
        "cause",
        "count",
        "% of the lost hours",
        "hours lost",
        "in steps taken again",
        "until the next step",
        "hand needed",
    )
    return f"<h3>What cost hours</h3>{table(headers, rows)}"


def _speed(run: Figures) -> str:
    found, warm = run["speed"], run["heat"]
    if not found or not found["hours"]:
        return ""
    whole = found["all"]
    text = (
        f"Step time: median {whole['median']:.3f} s, 95% below {whole['p95']:.3f} s, 99% below {whole['p99']:.3f} s; "
        f"{whole['data_wait']:.2f}% of it waiting for data."
    )
    return f"<section><h2>Speed</h2><p>{escape(text)}</p>{_heat(warm) if warm and warm['hosts'] else ''}</section>"


def _heat(warm: dict[str, Any]) -> str:
    words = [
        f"below {100 * LEVELS[0]:.0f}%",
        *(f"{100 * low:.0f} to {100 * high:.0f}%" for low, high in pairwise(LEVELS)),
        f"above {100 * LEVELS[-1]:.0f}%",
    ]
    slow = [
        (host, sum(level >= 4 for level in row), sum(level >= 0 for level in row))
        for host, row in zip(warm["hosts"], warm["levels"], strict=True)
    ]
    rows = [(host, f"{count:,}", f"{100 * many / count:.0f}" if count else "") for host, many, count in slow]
    left_out = f" The {len(slow)} slowest of {warm['of']} hosts." if warm["of"] > len(slow) else ""
    summary = "Step time by host and time. Slowest: " + ", ".join(
        f"{host} in {100 * many / count:.0f}% of its time" for host, many, count in sorted(slow, key=lambda s: -s[1])[:3] if count
    )
    picture = heat_map(warm["hosts"], warm["levels"], _dates(warm["columns"][0], warm["columns"][-1]), summary)
    return (
        f"<h3>Host by time</h3><p class=muted>Median step time of the attempts on a host, as a share of the run's median, "
        f"{warm['median_s']:.3f} s. All ranks take a step together: a host is slow where every attempt with it is.{left_out}</p>"
        f"{picture}{keys([(f'g{n}', text) for n, text in enumerate(words)])}<details class=numbers><summary>Numbers</summary>"
        f"{table(('host', 'columns with steps', '% of them above 110%'), rows)}</details>"
    )


def _hosts(run: Figures) -> str:
    if not run["hosts"]:
        return ""
    rows = []
    for one in run["hosts"]:
        measured = [_number(one["preflight"].get(key), ",.0f") for key in ("tflops", "link_mb_per_s", "write_mb_per_s")]
        rows.append(
            (one["host"], f"{one['hours']:,.1f}", one["attempts"], one["hangs"], one["exclusions"], _number(one["waited_h"] or None),
             *measured, one["unfit"])
        )  # fmt: skip
    measures = ("TFLOP/s", "link MB/s", "write MB/s", "unfit because")
    headers = ("host", "hours", "attempts", "hangs", "exclusions", "hours waited for", *measures)
    inner = table(headers, rows)
    if len(rows) > 24:
        inner = f"<details><summary>{len(rows)} hosts</summary>{inner}</details>"
    return f"<section><h2>Hosts</h2>{inner}{_slow_ranks(run)}{_slow_network(run)}</section>"


def _slow_ranks(run: Figures) -> str:
    if not run["slow_ranks"]:
        return "<p>No minute is recorded in which all ranks waited for a slow one.</p>"
    because = {"compute": "it computes more slowly", "data": "it waits longer for its data"}
    rows = [
        (
            one["host"], one["rank"], because[one["cause"]], one["attempt"], stamp(one["since"]), stamp(one["until"]),
            format_duration(one["slow_s"]), f"{100 * one['lost_s'] / one['slow_s']:.0f}", _number(one["lost_s"] / 3600),
        )
        for one in run["slow_ranks"]
    ]  # fmt: skip
    headers = ("host", "rank", "because", "attempt", "since", "last", "slow for", "% of it lost", "hours lost")
    note = "<p class=muted>Hours lost are those in which all other ranks waited for this one.</p>"
    return f"<h3>Slow ranks</h3>{note}{table(headers, rows, left=3)}"


def _slow_network(run: Figures) -> str:
    if not run["slow_network"]:
        return ""
    rows = [
        (
            ", ".join(one["hosts"]), one["attempt"], stamp(one["since"]), stamp(one["until"]), format_duration(one["slow_s"]),
            f"{100 * one['lost_s'] / one['slow_s']:.0f}", _number(one["lost_s"] / 3600),
        )
        for one in run["slow_network"]
    ]  # fmt: skip
    headers = ("network between", "attempt", "since", "last", "slow for", "% of it lost", "hours lost")
    note = "<p class=muted>All ranks waited in collectives, and none of them stood out as slow. This does not tell which link it is.</p>"
    return f"<h3>Slow network</h3>{note}{table(headers, rows)}"


def _data(run: Figures) -> str:
    found = run["data"]
    if not found:
        return ""
    proof = found["proof"]
    parts = [f"<p>{escape(found['note'])}</p>"] if found["note"] else []
    if found["corpora"]:
        rows = [(one["corpus"], f"{one['rows']:,}", f"{one['repeats']:g}") for one in found["corpora"]]
        parts.append(table(("corpus", "rows", "times in an epoch"), rows))
    if proof["again"]:
        differ = proof["again"] - proof["same"]
        said = (
            f"{proof['again']:,} steps were taken again after a restart, and all of them saw the same samples (batch_hash)."
            if not differ
            else f"{proof['again']:,} steps were taken again after a restart, and {differ:,} of them saw OTHER samples (batch_hash)."
        )
        parts.append(f"<p{' class=notes' if differ else ''}>{escape(said)}</p>")
    if proof["after_rollback"]:
        parts.append(f"<p>{proof['after_rollback']:,} more follow a roll-back, which skips data; they are not compared.</p>")
    if found["excluded"]:
        shown = [
            (stamp(one["time"]), _number(one["step"], ",.0f"), one["file"], _number(one["rows"], ",.0f"), one["reason"])
            for one in found["excluded"]
        ]
        parts.append(table(("time", "step", "file", "rows", "reason"), shown, "Excluded data", left=5))
    else:
        parts.append("<p>No row was excluded.</p>")
    return f"<section><h2>Data</h2>{''.join(parts)}</section>"


def _checkpoints(run: Figures) -> str:
    rows = [
        (
            f"{row['step']:,}",
            stamp(row["written"]),
            stamp(row["verified"]) or "not recorded",
            row["kept"],
            _number(row["stall_s"]),
            _number(row["write_s"]),
        )
        for row in run["checkpoints"] or []
    ]
    headers = ("step", "written", "read back", "kept", "training waited, s", "until valid, s")
    inner = table(headers, rows, left=4) if rows else "<p>There is no checkpoint yet.</p>"
    return f"<section><h2>Checkpoints</h2>{inner}</section>"


def _settings(run: Figures, place: int) -> str:
    parts = ["<section class=settings><h2>Settings</h2>"]
    if run["program"]:
        parts.append(table(("program", "value"), run["program"], left=2))
    changed = [(attempt, stamp(at), words) for attempt, at, words in run["changes"] or []]
    parts.append(
        table(("attempt", "time", "changed"), changed, "Changes between attempts", left=3)
        if changed
        else "<p>No change between attempts is recorded.</p>"
    )
    if run["settings"]:
        keys = [(Markup(f"<code>{escape(key)}</code>"), value) for key, value in run["settings"]]
        identifier = f"filter-{place}"
        parts.append(
            f"<details><summary>All {len(keys)} keys of the recipe</summary><label for={identifier}>Filter </label>"
            f"<input id={identifier} class=filter type=search>{table(('key', 'value'), keys, left=2)}</details>"
        )
    return "".join(parts) + "</section>"
