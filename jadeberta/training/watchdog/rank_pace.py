"""Each rank's own time in a step beside the others': which rank everybody waits for, and whether it computes or reads more slowly; or
that all wait for the network.

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
NETWORK_SHARE = 0.5
"""Share of a step that every rank must spend on neither data nor computing before the network is named; a healthy one takes less."""
NETWORK_OVER_RANK = 3.0
"""How many times more the network must cost than the slowest rank before it is named instead of that rank."""
BACKWARD = 3.0
"""Most that a backward pass takes, in forward passes of the same micro-batch: two, and one more where activations are recomputed."""
_SPENT = struct.Struct("<Qdddd")
MOST_HOSTS = 8
"""Most hosts that a sentence names."""
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
    last_forward_s: float = 0.0
    """The last forward pass of each step, from which its backward pass is reckoned."""


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
                for name in ("step_s", "data_s", "compute_s", "last_forward_s")
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
        what = f"it {cause_in_words(self.cause)}"
        share = 100 * self.lost_s / self.step_s
        return f"rank {self.rank} on {self.host}: the others wait {self.lost_s:.3g} s of each step ({share:.0f}%), because {what}"


def cause_in_words(cause: object) -> str:
    """Returns why a rank is slow (`WaitedFor.cause`) as the end of a sentence about it."""
    return "computes more slowly" if cause == "compute" else "waits longer for its data"


@dataclass(frozen=True)
class NetworkWait:
    """All ranks wait in collectives, and none of them is slow: what lies between their hosts is."""

    hosts: tuple[str, ...]
    """All of the attempt: collectives hold up all ranks alike, so that no figure of theirs tells which link it is."""
    lost_s: float
    """Seconds of each step that every rank spends on neither data nor computing, at least."""
    step_s: float
    """Duration of a step."""

    def in_words(self) -> str:
        """Returns it as a row of a table."""
        named = ", ".join(self.hosts[:MOST_HOSTS]) + (
            f" and {len(self.hosts) - MOST_HOSTS} more" * (len(self.hosts) > MOST_HOSTS)
        )
        share = 100 * self.lost_s / self.step_s
        return (
            f"the network between {named}: all ranks wait {self.lost_s:.3g} s of each step ({share:.0f}%) in collectives, and none of "
            "them stands out as slow"
        )


class Pace(NamedTuple):
    """Means of a step on one rank, seconds."""

    rank: int
    host: str
    step_s: float
    data_s: float
    compute_s: float
    last_forward_s: float | None
    """None in a heartbeat of an older version."""

    @property
    def own_s(self) -> float:
        """What the rank does alone, as far as it is measured."""
        return self.data_s + self.compute_s

    @property
    def waits_s(self) -> float:
        """What is left of a step when also its last backward pass is done, at the least; 0 where that is not known."""
        return 0.0 if self.last_forward_s is None else self.step_s - self.own_s - BACKWARD * self.last_forward_s


def rows_of(records: Iterable[JsonRow]) -> list[Pace]:
    """Returns the pace of every record that has one."""
    rows = []
    for record in records:
        found = record.get("pace")
        pace: JsonRow = found if isinstance(found, dict) else {}
        rank, step, data, compute = finite(record, "rank"), *(finite(pace, key) for key in ("step_s", "data_s", "compute_s"))
        if rank is not None and step is not None and data is not None and compute is not None and step > 0:
            forward = finite(pace, "last_forward_s")
            forward = None if forward is None else max(0.0, forward)
            rows.append(Pace(int(rank), str(record.get("host")), step, max(0.0, data), max(0.0, compute), forward))
    return rows


def waited_for(records: Iterable[JsonRow]) -> WaitedFor | None:
    """Finds the rank whose own part of a step is longer than the others'; None where no rank stands out.

    Args:
        records: heartbeats of the ranks of one attempt.
    """
    rows = rows_of(records)
    if len(rows) < 2:
        return None
    slow = max(rows, key=lambda row: row.own_s)
    others = [row for row in rows if row is not slow]
    lost = slow.own_s - median(row.own_s for row in others)
    step = median(row.step_s for row in rows)
    if lost < LEAST_SHARE * step:
        return None
    more_data = slow.data_s - median(row.data_s for row in others)
    return WaitedFor(slow.rank, slow.host, round(lost, 6), round(step, 6), "data" if 2 * more_data >= lost else "compute")


def judge_pace(records: Iterable[JsonRow]) -> tuple[WaitedFor | None, NetworkWait | None]:
    """Finds what all ranks wait for: a rank, or, on several hosts, the network between them; at most one of the two.

    Args:
        records: heartbeats of the ranks of one attempt.
    """
    records = list(records)
    rows, slow = rows_of(records), waited_for(records)
    hosts = tuple(sorted({row.host for row in rows}))
    if len(hosts) < 2:
        return slow, None
    # The rank that comes last to a collective waits for nobody: what it still spends there is the network's.
    lost, step = min(row.waits_s for row in rows), median(row.step_s for row in rows)
    # Ranks always differ a little: beside a wait that costs far more, that is no reason to blame a host.
    if lost < NETWORK_SHARE * step or (slow is not None and lost < NETWORK_OVER_RANK * slow.lost_s):
        return slow, None
    return None, NetworkWait(hosts, round(lost, 6), round(step, 6))


def summary(records: Iterable[JsonRow]) -> dict[str, Any]:
    """Returns the fields of a row of ranks.jsonl; empty where fewer than two ranks have a pace.

    Args:
        records: heartbeats of the ranks of one attempt.
    """
    records = list(records)
    rows = rows_of(records)
    if len(rows) < 2:
        return {}
    slow, network = judge_pace(records)
    columns = {name: [getattr(row, name) for row in rows] for name in ("step_s", "data_s", "compute_s")}
    spread = {name: [round(f, 6) for f in (min(values), median(values), max(values))] for name, values in columns.items()}
    step = max((int(s) for record in records if (s := finite(record, "step")) is not None), default=0)
    found = {"waits_for": None if slow is None else vars(slow), "network": None if network is None else vars(network)}
    return {"time": time.time(), "step": step, "ranks": len(rows), **spread, **found}
