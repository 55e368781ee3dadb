"""Which rank is to blame for a hang: a pure function of the heartbeats of all ranks, and the sentence about it."""

import re
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""Content of heartbeat/rank-*.json. Its key `place` is the section of the step."""
SILENT_S = 10.0
"""Seconds: a heartbeat so much older than the newest, and not renewed while the watchdog looked, is that of a lost host."""
# States of proc(5) in which a process cannot go on by itself.
STOPPED = {"T": "stopped by a signal", "t": "stopped by a debugger", "Z": "dead", "X": "dead"}
SECTIONS = {"data": (0, 0, 0), "all-reduce": (2, 0, 0), "update": (3, 0, 0), "metrics": (4, 0, 0)}
AFTER_STEP = {"save": 1, "eval": 2}


def section_order(section: str) -> tuple[int, int, int] | None:
    """Sort key of a section within a step; None for a section without a known order."""
    if micro := re.fullmatch(r"(forward|backward) (\d+)", section):
        return 1, int(micro[2]), int(micro[1] == "backward")
    return SECTIONS.get(section)


def progress_key(record: Record) -> tuple[int, int, int]:
    """Sort key of a rank by phase and step."""
    began = {"start": 0, "end": 2}.get(record["phase"], 1)
    return began, record["step"], AFTER_STEP.get(record["phase"], 0)


def silences(before: dict[int, Record], now: dict[int, Record], own_rank: int) -> dict[int, float]:
    """Seconds for which each rank's record was not renewed, 0 where it was renewed while this rank looked.

    The ranks of an attempt begin together, so their uptimes can be compared. Unix times cannot: hosts differ, and clocks are set.

    Args:
        before: records of the attempt by rank, when the hang was found.
        now: the same a little later.
        own_rank: of the watchdog that looks.
    """
    newest = max(r["uptime_s"] for r in now.values())
    renewed = {rank for rank, r in now.items() if rank == own_rank or before.get(rank, {}).get("uptime_s") != r["uptime_s"]}
    return {rank: 0.0 if rank in renewed else newest - r["uptime_s"] for rank, r in now.items()}


def suspects(records: list[Record], world_size: int) -> tuple[list[tuple[int, str]], str]:
    """Finds the ranks to blame.

    The surest sign decides: a stopped process, then a lost host, then a rank that never began, then the ranks that are behind the
    others; of these one that waits in the kernel before the rest.

    Args:
        records: content of heartbeat/rank-*.json in order of rank, each with `silent_s`, seconds for which it was not renewed.
        world_size: ranks of the job; 0 where missing records prove nothing.

    Returns:
        (rank, host) of each rank to blame, empty where none stands out; the reason in words.
    """

    def blame(guilty: list[Record], reason: str) -> tuple[list[tuple[int, str]], str]:
        return [(r["rank"], r["host"]) for r in guilty], reason

    if stopped := [r for r in records if r["state"] in STOPPED]:
        return blame(stopped, f"the process is {STOPPED[stopped[0]['state']]} (state {stopped[0]['state']})")
    if silent := [r for r in records if r.get("silent_s", 0) > SILENT_S and r["phase"] != "end"]:
        return blame(silent, f"no heartbeat for {silent[0]['silent_s']:.0f} s while others went on; the host is lost")
    known = {r["rank"] for r in records}
    if missing := [{"rank": rank, "host": "unknown host"} for rank in range(world_size) if rank not in known]:
        return blame(missing, "it has not begun, there is no heartbeat of it")
    least = min(progress_key(r) for r in records)
    behind = [r for r in records if progress_key(r) == least]
    orders = [section_order(r["place"]) for r in behind]
    if any(order is None for order in orders):  # a save's sections have no order: the number of heartbeats has one
        orders = [(r["beats"], 0, 0) for r in behind]
    behind = [r for r, order in zip(behind, orders, strict=True) if order == min(o for o in orders if o)]
    if waiting := [r for r in behind if r["state"] == "D"]:
        return blame(waiting, "the process waits in the kernel, for a disk, a device or a mount (state D)")
    if len(records) == 1:
        return blame(records, "it is the only rank" if world_size == 1 else "no other rank's heartbeat can be read")
    if len(behind) == len(records):
        return [], f"every rank waits at {records[0]['place']}: the interconnect or the file system between them"
    ahead = max(records, key=progress_key)
    if progress_key(ahead) == least:
        ahead = next(r for r in records if r not in behind)
    return blame(behind, f"it is behind the others, such as rank {ahead['rank']} at {position_of(ahead)}")


def position_of(record: Record) -> str:
    """Phase, step and section of a rank, in words."""
    return f"phase {record['phase']}, step {record['step']}, section {record['place']}"


def describe_hang(hang: Record, run_dir: Path) -> str:
    """The sentence for the terminal about a hang.

    Args:
        hang: fields of the ledger's event `hang`.
        run_dir: directory of the run, where the stacks are.
    """
    named = [f"rank {s['rank']} on {s['host']}" for s in hang["suspects"][:4]]
    more = len(hang["suspects"]) - len(named)
    who = ", ".join(named) + (f" and {more} more" if more else "") or "no single rank stands out"
    return (
        f"HANG: {who}: {hang['reason']}; {position_of(hang)}; rank {hang['found_by']} has waited {hang['seconds']:.1f} s, "
        f"the limit is {hang['limit_s']:g} s; stacks of every rank in {run_dir}/logs/stacks-rank-*.txt"
    )
