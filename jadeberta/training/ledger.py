"""`ledger.jsonl`: what happened to a run, one JSON object a line, only ever appended to."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from jadeberta.cluster.environment import host_name
from jadeberta.utils.json_lines import read_jsonl


class Ledger:
    """Appends events; each is on the disk when `write` returns."""

    def __init__(self, path: Path, life: int, mend: bool = True) -> None:
        """`mend` ends a line that a kill has cut; one process of a job does it."""
        self.path, self.life = path, life
        self._cut = False
        path.parent.mkdir(parents=True, exist_ok=True)
        if not mend:
            return
        # A kill in mid-line leaves no newline: end that line, or the next event would be lost with it.
        if path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n":
            with open(path, "ab") as f:
                f.write(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event; on a disk that takes nothing it goes to standard error instead, and the run goes on."""
        row = {
            "time": time.time(),
            "event": event,
            "life": self.life,
            "host": host_name(os.environ),
            "pid": os.getpid(),
            **fields,
        }
        try:
            with open(self.path, "ab") as f:
                line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
                f.write(b"\n" + line if self._cut else line)
                f.flush()
                os.fsync(f.fileno())
            self._cut = False
        except OSError as e:
            self._cut = True  # whatever part of the line was written ends before the next
            print(f"ledger cannot be written ({e.strerror}): {event} {fields}", file=sys.stderr, flush=True)


def next_life(path: Path) -> int:
    """Number of the process life that begins now: 0 for a new run, one more after every start."""
    return sum(row.get("event") == "start" for row in read_jsonl(path))
