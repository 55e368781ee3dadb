"""Why the ranks of a job ended, told in files: a launcher's status tells of signals that it sent itself, and of one rank alone."""

import time
from pathlib import Path

import orjson

from jadeberta.utils.files import write_atomically

LAST_WORDS = "JADEBERTA_LAST_WORDS"
"""Variable that names the folder; slurm/attempt.sh sets it, to LAST_WORDS_FOLDER of the run directory."""
LAST_WORDS_FOLDER = "logs/last-words"


def leave_last_words(folder: Path, rank: int, status: int, reason: str) -> None:
    """Writes `rank-N.json`; on a disk that takes nothing, nothing."""
    try:
        content = orjson.dumps({"time": time.time(), "rank": rank, "status": status, "reason": reason})
        write_atomically(folder / f"rank-{rank:05d}.json", content)
    except OSError:
        return


def read_last_words(folder: Path, since: float) -> tuple[int | None, str]:
    """Status and reason of the lowest rank that has said something since then, unix time; None where none has."""
    for path in sorted(folder.glob("rank-*.json")):
        try:
            words = orjson.loads(path.read_bytes())
            if words["time"] >= since:
                return int(words["status"]), str(words["reason"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
    return None, ""
