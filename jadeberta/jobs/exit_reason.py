"""Files in which the ranks of a job say why they ended.

A launcher's exit status is not enough: it covers one rank alone, and may be that of a signal which the launcher itself sent.
"""

import contextlib
import time
from pathlib import Path

import orjson

from jadeberta.utils.files import write_atomically

EXIT_REASONS_VARIABLE = "JADEBERTA_EXIT_REASONS"
"""Environment variable with the folder of the files; slurm/attempt.sh sets it to EXIT_REASONS_FOLDER of the run directory."""
EXIT_REASONS_FOLDER = "logs/exit-reasons"


def write_exit_reason(folder: Path, rank: int, status: int, reason: str) -> None:
    """Writes `rank-N.json`; does nothing where the disk takes no file.

    Args:
        folder: made where it is missing.
        rank: of this process.
        status: exit status with which the rank is about to end.
        reason: one sentence.
    """
    row = {"time": time.time(), "rank": rank, "status": status, "reason": reason}
    try:
        # Not durable: the file is read seconds later, by a process that sees the same file system.
        write_atomically(folder / f"rank-{rank:05d}.json", orjson.dumps(row), durable=False)
    except OSError:
        return


def clear_exit_reasons(folder: Path) -> None:
    """Removes what the ranks of an earlier attempt wrote: clocks differ and are set back, so a time does not tell whose a file is."""
    for path in folder.glob("rank-*.json"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_exit_reason(folder: Path) -> tuple[int | None, str]:
    """Returns exit status and reason of the lowest rank that wrote a file since `clear_exit_reasons`; (None, "") where none did."""
    for path in sorted(folder.glob("rank-*.json")):
        try:
            row = orjson.loads(path.read_bytes())
            return int(row["status"]), str(row["reason"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
    return None, ""
