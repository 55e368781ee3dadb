"""`ledger.jsonl`: the events of a run, one JSON object a line, only ever appended to."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from jadeberta.cluster.environment import host_name
from jadeberta.utils.json_lines import JsonRow, ends_within_line, finite, read_jsonl

logger = logging.getLogger(__name__)
ENDING_EVENTS = ("requeue", "stop", "hang", "lost_rank", "done")
"""Events after which the ranks of an attempt end."""


class Ledger:
    """Appends events; each is on the disk when `write` returns."""

    def __init__(self, path: Path, attempt: int, mend: bool = True) -> None:
        """Opens nothing yet; makes the directory.

        Args:
            path: the file.
            attempt: number of this start of the job, written into every row.
            mend: end a last line that a kill has cut short. One process of a job does it, before the others write.
        """
        self.path, self.attempt = path, attempt
        self.listener: Callable[[JsonRow], None] | None = None
        """Gets every event that this process writes from now on; it raises nothing."""
        self._cut = False
        path.parent.mkdir(parents=True, exist_ok=True)
        if not mend:
            return
        # A kill within a line leaves no newline: the next event would be glued to it and lost.
        if ends_within_line(path):
            try:
                with open(path, "ab") as f:
                    f.write(b"\n")
            except OSError:
                self._cut = True  # the disk is full: the next event tries again

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event with time, attempt, host and process id.

        On a disk that takes nothing the event goes to the log instead, and the run goes on.
        """
        row = {
            "time": time.time(), "event": event, "attempt": self.attempt,
            "life": self.attempt,  # old spelling of attempt, kept for readers
            "host": host_name(os.environ), "pid": os.getpid(), **fields,
        }  # fmt: skip
        try:
            with open(self.path, "ab") as f:
                line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
                f.write(b"\n" + line if self._cut else line)
                f.flush()
                os.fsync(f.fileno())
            self._cut = False
        except OSError as e:
            self._cut = True  # part of the line may be in the file: it must end before the next
            logger.warning("ledger cannot be written (%s): %s %s", e.strerror, event, fields)
        if self.listener is not None:
            self.listener(row)


COMMON_FIELDS = ("time", "event", "attempt", "life", "pid")
"""Fields that every event has; `in_words` leaves them out, as a viewer shows them beside it."""
LONGEST_FIELD = 200


def in_words(row: JsonRow) -> str:
    """Returns an event as one line: its name, and its fields as "key: value"; long ones are cut."""
    told = [str(row.get("event"))]
    for key, value in row.items():
        if key not in COMMON_FIELDS and value not in (None, "", [], {}):
            text = (
                value if isinstance(value, str) else orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()
            )
            text = " ".join(text.split())
            told.append(f"{key}: {text if len(text) <= LONGEST_FIELD else text[:LONGEST_FIELD] + ' ...'}")
    return ", ".join(told)


def held_out(row: JsonRow) -> dict[str, float]:
    """Returns the figures of an `evaluation` event as curves: `held_out/accuracy/<corpus>` and so on; empty for other events."""
    corpora = row.get("corpora") if row.get("event") == "evaluation" else None
    if not isinstance(corpora, dict):
        return {}
    return {
        f"held_out/{key}/{name}": value
        for name, figures in corpora.items()
        if isinstance(figures, dict)
        for key in figures
        if key != "masked_tokens" and (value := finite(figures, key)) is not None
    }


def next_attempt(path: Path) -> int:
    """Number of the attempt that begins now: 0 for a new run, one more after every start in the ledger at `path`."""
    return sum(row.get("event") == "start" for row in read_jsonl(path))
