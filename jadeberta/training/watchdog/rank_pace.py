"""Each rank's own time in a step beside the others': which rank everybody waits for, and whether it computes or reads more slowly.

The trainer adds up its times in the page of its heartbeat, its watchdog puts the last whole minute into its record, and whoever reads the
records of all ranks can compare. The training sends no message for it. Imports nothing heavy.
"""

import mmap
import struct
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from jadeberta.utils.json_lines import JsonRow, finite

WINDOW_S = 60.0
"""Seconds of steps that a record is about."""
LEAST_SHARE = 0.03
"""Share of a step that the others must wait for a rank before it is named; less is noise between equal GPUs."""
_SPENT = struct.Struct("<Qddd")
_SLOTS = (512, 576)
"""Places in the page of the heartbeat, whose first 260 bytes are its own."""


class Spent(NamedTuple):
    """What a rank has spent in the steps of this attempt, seconds."""

    steps: int = 0
    step_s: float = 0.0
    """All of the steps, the waits for data included."""
    data_s: float = 0.0
    """Waits for data."""
    compute_s: float = 0.0
    """Forward passes, and all backward passes but the last of each step: what no other rank has a part in (under ZeRO 1 and 2)."""


def write_spent(memory: mmap.mmap, spent: Spent) -> None:
    """Writes into the older of two slots."""
    # A reader in between finds the other slot whole; the checksum tells which.
    body = _SPENT.pack(*spent)
    at = _SLOTS[spent.steps & 1]
    memory[at : at + _SPENT.size + 4] = body + zlib.crc32(body).to_bytes(4, "little")


def read_spent(memory: mmap.mmap) -> Spent | None:
    """The newest whole sums; None where there are none yet."""
    newest = None
    for at in _SLOTS:
        slot = memory[at : at + _SPENT.size + 4]
        if any(slot) and zlib.crc32(slot[:-4]).to_bytes(4, "little") == slot[-4:]:
            spent = Spent(*_SPENT.unpack(slot[:-4]))
            newest = spent if newest is None or spent.steps > newest.steps else newest
    return newest


class PaceWindow:
    """The means of a step over the last whole window."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._begin: tuple[float, Spent] | None = None
        self._last: dict[str, Any] = {}

    def add(self, now: float, spent: Spent | None) -> dict[str, Any]:
        """Returns `steps` and the means of a step, seconds; empty until the first window with a step is complete.

        Args:
            now: time of a clock that is never set.
            spent: the sums of this rank now.
        """
        if spent is None:
            return {}
        if self._begin is None:
            self._begin = (now, spent)
        began, before = self._begin
        steps = spent.steps - before.steps
        if now - began >= self._window_s and steps > 0:  # a step may take longer than the window
            means = {
                name: round((getattr(spent, name) - getattr(before, name)) / steps, 6)
                for name in ("step_s", "data_s", "compute_s")
            }
            self._last, self._begin = {"steps": steps, **means}, (now, spent)
        return self._last


@dataclass(frozen=True)
class WaitedFor:
    """The rank that all others wait for."""

    rank: int
    host: str
    lost_s: float
    """Seconds of each step that the others wait for it."""
    step_s: float
    """Duration of a step."""
    cause: str
    """compute: its GPU, processor or their clocks are slower; data: its loader, disk or file system is."""

    def in_words(self) -> str:
        """Returns it as a row of a table."""
        what = "it computes more slowly" if self.cause == "compute" else "it waits longer for its data"
        share = 100 * self.lost_s / self.step_s
        return f"rank {self.rank} on {self.host}: the others wait {self.lost_s:.3g} s of each step ({share:.0f}%), because {what}"


def rows_of(records: Iterable[JsonRow]) -> list[tuple[int, str, float, float, float]]:
    """Returns rank, host, and the seconds of a step, of its data and of its computing, of every record that has them."""
    rows = []
    for record in records:
        found = record.get("pace")
        pace: JsonRow = found if isinstance(found, dict) else {}
        rank, step, data, compute = finite(record, "rank"), *(finite(pace, key) for key in ("step_s", "data_s", "compute_s"))
        if rank is not None and step is not None and data is not None and compute is not None and step > 0:
            rows.append((int(rank), str(record.get("host")), step, max(0.0, data), max(0.0, compute)))
    return rows


def waited_for(records: Iterable[JsonRow]) -> WaitedFor | None:
    """Finds the rank whose own part of a step is longer than the others'; None where no rank stands out.

    Args:
        records: heartbeats of the ranks of one attempt.
    """
    rows = rows_of(records)
    if len(rows) < 2:
        return None
    slow = max(rows, key=lambda row: row[3] + row[4])
    others = [row for row in rows if row is not slow]
    lost = slow[3] + slow[4] - median(row[3] + row[4] for row in others)
    step = median(row[2] for row in rows)
    if lost < LEAST_SHARE * step:
        return None
    more_data = slow[3] - median(row[3] for row in others)
    return WaitedFor(slow[0], slow[1], round(lost, 6), round(step, 6), "data" if 2 * more_data >= lost else "compute")


def summary(records: Iterable[JsonRow]) -> dict[str, Any]:
    """Returns the fields of a row of ranks.jsonl; empty where fewer than two ranks have a pace.

    Args:
        records: heartbeats of the ranks of one attempt.
    """
    records = list(records)
    rows = rows_of(records)
    if len(rows) < 2:
        return {}
    slow = waited_for(records)
    columns = {"step_s": [r[2] for r in rows], "data_s": [r[3] for r in rows], "compute_s": [r[4] for r in rows]}
    spread = {name: [round(f, 6) for f in (min(values), median(values), max(values))] for name, values in columns.items()}
    step = max((int(s) for record in records if (s := finite(record, "step")) is not None), default=0)
    return {"time": time.time(), "step": step, "ranks": len(rows), **spread, "waits_for": None if slow is None else vars(slow)}
