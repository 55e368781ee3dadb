"""Who is to blame for a hang: a pure function of the heartbeats of all ranks, and the words for it."""

import re
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""What heartbeat/rank-*.json holds."""
SILENT_S = 10.0
"""A heartbeat this much older than the newest, and not renewed while one looked, is that of a lost host."""
STOPPED = {"T": "stopped by a signal", "t": "stopped by a debugger", "Z": "dead", "X": "dead"}
SECTIONS = {"data": (0, 0, 0), "all-reduce": (2, 0, 0), "update": (3, 0, 0), "metrics": (4, 0, 0)}
AFTER_STEP = {"save": 1, "eval": 2}


def section_order(place: str) -> tuple[int, int, int] | None:
    """Sorts the places of a step; None for a place without a known order."""
    if micro := re.fullmatch(r"(forward|backward) (\d+)", place):
        return 1, int(micro[2]), int(micro[1] == "backward")
    return SECTIONS.get(place)


def progress(record: Record) -> tuple[int, int, int]:
    """Sorts ranks by phase and step."""
    began = {"start": 0, "end": 2}.get(record["phase"], 1)
    return began, record["step"], AFTER_STEP.get(record["phase"], 0)


def suspects(records: list[Record], world_size: int) -> tuple[list[tuple[int, str]], str]:
    """Who is to blame: (rank, host) of each, none where no rank stands out, and the reason in words.

    Args:
        records: of heartbeat/rank-*.json in order of rank, each with `silent_s`, for how long it has not been renewed.
        world_size: 0 where the records that are missing say nothing.
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
    least = min(progress(r) for r in records)
    behind = [r for r in records if progress(r) == least]
    orders = [section_order(r["place"]) for r in behind]
    if any(order is None for order in orders):
        orders = [(r["beats"], 0, 0) for r in behind]
    behind = [r for r, order in zip(behind, orders, strict=True) if order == min(o for o in orders if o)]
    if waiting := [r for r in behind if r["state"] == "D"]:
        return blame(waiting, "the process waits in the kernel, for a disk, a device or a mount (state D)")
    if len(records) == 1:
        return blame(records, "it is the only rank" if world_size == 1 else "no other rank's heartbeat can be read")
    if len(behind) == len(records):
        return [], f"every rank waits at {records[0]['place']}: the interconnect or the file system between them"
    ahead = max(records, key=progress)
    if progress(ahead) == least:
        ahead = next(r for r in records if r not in behind)
    return blame(behind, f"it is behind the others, such as rank {ahead['rank']} at {standing(ahead)}")


def standing(record: Record) -> str:
    return f"phase {record['phase']}, step {record['step']}, section {record['place']}"


def sentence(hang: Record, run_dir: Path) -> str:
    """What a hang's ledger fields say, for the terminal."""
    named = [f"rank {s['rank']} on {s['host']}" for s in hang["suspects"][:4]]
    more = len(hang["suspects"]) - len(named)
    who = ", ".join(named) + (f" and {more} more" if more else "") or "no single rank stands out"
    return (
        f"HANG: {who}: {hang['reason']}; {standing(hang)}; rank {hang['found_by']} has waited {hang['seconds']:.1f} s, "
        f"the limit is {hang['limit_s']:g} s; stacks of every rank in {run_dir}/logs/stacks-rank-*.txt"
    )
