"""The rule `watchdog.slow_rank`: when a host has been slow for so long that the run asks for another attempt without it.

The watchdog of rank 0 follows the ranks' pace and judges; it writes what it asks for into the page of the heartbeat, where the trainer of
rank 0 finds it at its next step. No message is sent, and without the rule nothing is written there. Imports nothing heavy.
"""

import mmap
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jadeberta.training.watchdog.rank_pace import WINDOW_S, WaitedFor, cause_in_words
from jadeberta.utils.durations import format_duration
from jadeberta.utils.json_lines import JsonRow, finite, time_of

if TYPE_CHECKING:  # a watchdog starts with this file
    from jadeberta.config import Recipe

EVENT = "slow_rank"
"""Event of the ledger with which the rule acts, or says why it does not."""
LOOKS = 4
"""Least number of windows in the rule's time: a shorter time has shorter windows."""
_WISH_AT, _WISH_BYTES = 1024, 512
"""Place in the page of the heartbeat: checksum, then UTF-8 up to the first zero."""


@dataclass(frozen=True)
class SlowRankRule:
    """When a host counts as too slow, and whether the run may do anything about it."""

    acts: bool = False
    """False: the ranks' pace is recorded, and that is all."""
    share: float = 0.2
    """Share of a step that the others must wait."""
    seconds: float = 1800.0
    """Time for which they must, without a break."""
    again_s: float = 86400.0
    """Time in which the rule asks for an attempt without some host once: one that is back before could not be left out."""

    @classmethod
    def of(cls, recipe: "Recipe", in_job: bool) -> "SlowRankRule":
        """The rule of a recipe; outside a job of Slurm it never acts, as nothing would start the run again elsewhere."""
        keys, again_s = recipe.watchdog, 3600 * recipe.cluster.excluded_hours
        return cls(in_job and keys.slow_rank == "requeue", keys.slow_rank_share, keys.slow_rank_s, again_s)

    @property
    def window_s(self) -> float:
        """Seconds that a mean is about."""
        return min(WINDOW_S, self.seconds / LOOKS)


class SlowHost:
    """Follows which host is waited for."""

    def __init__(self, rule: SlowRankRule) -> None:
        self.rule = rule
        self._host, self._since, self._has_acted = "", 0.0, False

    def look(self, now: float, slow: WaitedFor | None) -> float | None:
        """Returns for how long one host has been too slow, seconds, at the moment at which that is long enough; None else.

        Args:
            now: time of a clock that is never set.
            slow: the rank that was waited for in the window that ends now.
        """
        if not self.rule.acts or slow is None or slow.lost_s < self.rule.share * slow.step_s:
            self._host = ""
            return None
        # By host: of one that is too hot, now this rank is the slowest and now that one.
        if slow.host != self._host:
            self._host, self._since = slow.host, now - self.rule.window_s
        lasted = now - self._since
        if lasted < self.rule.seconds or self._has_acted:
            return None
        self._has_acted = True
        return lasted


def event_of(slow: WaitedFor, lasted: float, ledger: Iterable[JsonRow], now: float, again_s: float) -> dict[str, Any]:
    """Returns the fields of the event `slow_rank`; `requeue` says whether another attempt is asked for.

    Args:
        slow: the rank.
        lasted: seconds for which its host has been slow.
        ledger: rows of the run so far.
        now: unix time.
        again_s: see `SlowRankRule`.
    """
    earlier = [row for row in ledger if row.get("event") == EVENT and row.get("host") == slow.host and row.get("requeue") is True]
    was_asked = any(0 <= now - time_of(row) < again_s for row in earlier)
    return {**vars(slow), "seconds": round(lasted, 3), "requeue": not was_asked}


def sentence_of(event: JsonRow) -> str:
    """Returns an event `slow_rank` in words."""
    lost, step, lasted = (finite(event, key) or 0.0 for key in ("lost_s", "step_s", "seconds"))
    share = f"{100 * lost / step:.0f}%" if step > 0 else "?"
    cause = cause_in_words(event.get("cause"))
    then = (
        f"the run saves and asks for another attempt without {event.get('host')}"
        if event.get("requeue") is True
        else "the run goes on: an attempt without this host was asked for before, and it is here again"
    )
    return (
        f"rank {event.get('rank')} on {event.get('host')} {cause}: "
        f"the others have waited {share} of each step for {format_duration(lasted)}; {then}"
    )


def write_wish(memory: mmap.mmap, reason: str) -> None:
    """Asks the trainer for a requeue."""
    body = reason.encode()[: _WISH_BYTES - 8].decode(errors="ignore").encode()
    body += bytes(_WISH_BYTES - 4 - len(body))
    memory[_WISH_AT : _WISH_AT + _WISH_BYTES] = zlib.crc32(body).to_bytes(4, "little") + body


def read_wish(memory: mmap.mmap) -> str:
    """What the watchdog asks for a requeue because of; empty where it asks for none."""
    if memory[_WISH_AT : _WISH_AT + 5] == bytes(5):
        return ""
    found = memory[_WISH_AT : _WISH_AT + _WISH_BYTES]
    whole = zlib.crc32(found[4:]).to_bytes(4, "little") == found[:4]  # else it is being written, and is there at the next step
    return found[4:].rstrip(b"\0").decode(errors="replace") if whole else ""
