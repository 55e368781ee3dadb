"""The hosts of a run: how long each worked, what happened there, and what the last preflight measured. Pure functions."""

from typing import Any

from jadeberta.report.run_facts import RunFacts
from jadeberta.report.slow_rows import slow_ranks
from jadeberta.report.step_speed import hosts_of
from jadeberta.utils.json_lines import JsonRow, finite, names_in

MOST_ROWS = 500


def host_rows(facts: RunFacts) -> list[dict[str, Any]]:
    """Returns hours, attempts, hangs, exclusions, hours that all others waited for it, and preflight figures of each host.

    Those with hangs and exclusions come first, then those that were waited for longest.
    """
    found: dict[str, dict[str, Any]] = {}

    def row(host: object) -> dict[str, Any]:
        empty = {"host": str(host), "hours": 0.0, "attempts": 0, "hangs": 0, "exclusions": 0, "waited_h": 0.0}
        empty |= {"preflight": {}, "unfit": ""}
        return found.setdefault(str(host), empty)

    for history in facts.histories:
        begin, end = history.started, history.last
        for host in hosts_of(facts, history):
            row(host)["attempts"] += 1
            row(host)["hours"] += max(0.0, end - begin) / 3600 if begin is not None and end is not None else 0.0
        for event in history.events:
            if event.get("event") == "hang" and event.get("host"):
                row(event["host"])["hangs"] += 1
    before: set[str] = set()
    for end_row in facts.records.ends:
        now = set(names_in(end_row, "excluded"))
        for host in now - before:  # an exclusion holds for several attempts
            row(host)["exclusions"] += 1
        before = now
    for slow in slow_ranks(facts):
        row(slow.host)["waited_h"] += slow.lost_s / 3600
    measured = facts.preflight.get("hosts")
    for each in measured if isinstance(measured, list) else []:
        if isinstance(each, dict) and each.get("host"):
            row(each["host"])["preflight"] = _figures(each)
    unfit = facts.preflight.get("unfit")
    for host, reasons in unfit.items() if isinstance(unfit, dict) else ():
        row(host)["unfit"] = "; ".join(map(str, reasons)) if isinstance(reasons, list) else str(reasons)
    return sorted(found.values(), key=lambda one: (-one["hangs"] - one["exclusions"], -one["waited_h"], one["host"]))[:MOST_ROWS]


def _figures(host: JsonRow) -> dict[str, float | None]:
    """What the preflight measured of a host, in the units of the table."""
    gemm, link = finite(host, "gemm_flops_per_second"), finite(host, "link_bandwidth_bytes_per_s")
    writes = host.get("write_bytes_per_second")
    rates = [rate for key in writes if (rate := finite(writes, key)) is not None] if isinstance(writes, dict) else []
    return {
        "tflops": None if gemm is None else gemm / 1e12,
        "link_mb_per_s": None if link is None else link / 1e6,
        "write_mb_per_s": min(rates) / 1e6 if rates else None,
    }
