"""How fast the steps of a run were: percentiles by hour, what they waited for, and which hosts were slow when. Pure functions."""

from typing import Any

import numpy as np

from jadeberta.cluster.hostlist import expand
from jadeberta.report.hours_by_cause import borders_of, windows_of
from jadeberta.report.report_curves import plain
from jadeberta.report.run_facts import RunFacts
from jadeberta.status.attempts import AttemptHistory
from jadeberta.utils.json_lines import finite

HOUR_S = 3600.0
HEAT_HOSTS, HEAT_COLUMNS = 64, 120
"""Most rows and columns of the heat map; of more hosts, those with the slowest hours."""
LEVELS = (0.9, 0.97, 1.03, 1.1, 1.25, 1.5)
"""Borders of the heat map's colours: step time as a share of the run's median."""


def speed(facts: RunFacts) -> dict[str, Any]:
    """Returns medians, 95th and 99th percentiles of the step time by hour, shares of the data wait, seconds of saves; and `all`."""
    borders = borders_of(facts, HOUR_S)
    steps = facts.standing
    steps = steps[(steps.seconds > 0) & np.isfinite(steps.time)]
    if len(borders) < 2 or not len(steps):
        return {"hours": [], "all": {}}
    place = windows_of(borders, steps.time)
    order = np.argsort(place, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
    rows = np.full((5, len(borders) - 1), np.nan)
    for group in groups:
        seconds, waited = steps.seconds[group], np.nan_to_num(steps.data_wait_s[group])
        rows[:3, place[group[0]]] = np.percentile(seconds, (50, 95, 99))
        rows[3, place[group[0]]] = 100 * waited.sum() / seconds.sum()
    rows[4] = 0.0
    for event in facts.events:
        if event.get("event") in ("save", "save_failed") and (stall := finite(event, "stall_s")):
            rows[4, windows_of(borders, event["time"])] += stall
    hours = (borders[1:] - (facts.began or 0.0)) / HOUR_S
    whole = np.percentile(steps.seconds, (50, 95, 99)).tolist()
    share = 100 * float(np.nansum(steps.data_wait_s)) / float(steps.seconds.sum())
    names = ("median", "p95", "p99", "data_wait", "save_stall")
    return {
        "hours": plain(hours),
        "width_s": float(borders[1] - borders[0]),
        **{name: plain(row) for name, row in zip(names, rows, strict=True)},
        "all": {"median": whole[0], "p95": whole[1], "p99": whole[2], "data_wait": share},
    }


def hosts_of(facts: RunFacts, history: AttemptHistory) -> list[str]:
    """Returns the hosts of an attempt: those of its job, else those that its events name."""
    for event in history.events:
        slurm = event.get("slurm")
        if event.get("event") == "start" and isinstance(slurm, dict) and slurm.get("hosts"):
            named = slurm["hosts"]
            return expand(named) if isinstance(named, str) else [str(host) for host in named] if isinstance(named, list) else []
    return list(dict.fromkeys(str(e["host"]) for e in history.events if e.get("host") and e.get("event") != "hang"))


def heat(facts: RunFacts) -> dict[str, Any]:
    """Returns the step time of each host by time, as a share of the run's median.

    All ranks of an attempt take a step together, so its hosts have the same value: a host is slow where every attempt with it is.
    """
    began = facts.began
    if began is None or not len(facts.standing):
        return {"hosts": [], "columns": []}
    borders = borders_of(facts, max(HOUR_S, (facts.at - began) / HEAT_COLUMNS))
    steps = facts.standing
    good = (steps.seconds > 0) & np.isfinite(steps.time)
    if len(borders) < 2 or not good.any():
        return {"hosts": [], "columns": []}
    middle = float(np.median(steps.seconds[good]))
    rows: dict[str, np.ndarray] = {}
    for history in facts.histories:
        own = history.steps
        own = own[(own.seconds > 0) & np.isfinite(own.time)]
        if not len(own):
            continue
        place = windows_of(borders, own.time)
        values = np.full(len(borders) - 1, np.nan)
        for column in np.unique(place):
            values[column] = np.median(own.seconds[place == column]) / middle
        for host in hosts_of(facts, history):
            row = rows.setdefault(host, np.full(len(borders) - 1, np.nan))
            row[:] = np.fmax(row, values)
    names = sorted(rows)
    if len(names) > HEAT_HOSTS:
        names = sorted(sorted(names, key=lambda host: -float(np.nanmean(rows[host])))[:HEAT_HOSTS])
    levels = [[-1 if np.isnan(v) else int(np.searchsorted(LEVELS, v)) for v in rows[host]] for host in names]
    return {"hosts": names, "of": len(rows), "columns": [float(b) for b in borders], "levels": levels, "median_s": middle}
