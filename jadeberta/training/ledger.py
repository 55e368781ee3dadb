"""`ledger.jsonl`: the events of a run, one JSON object a line, only ever appended to."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import orjson

from jadeberta.cluster.environment import host_name
from jadeberta.utils.json_lines import ends_within_line, read_jsonl

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


def next_attempt(path: Path) -> int:
    """Number of the attempt that begins now: 0 for a new run, one more after every start in the ledger at `path`."""
    return sum(row.get("event") == "start" for row in read_jsonl(path))
