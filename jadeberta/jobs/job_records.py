"""jobs.jsonl of a run directory: a row where an attempt of a Slurm job begins, and one where it ends and its future is decided.

The one place that names the file and its fields. An attempt is one start of a job: a requeued job makes several. An attempt that Slurm
killed leaves no row at its end, and any row may have been truncated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jadeberta.training.ledger import Ledger
from jadeberta.utils.json_lines import JsonRow, read_jsonl, time_of

JOBS_FILE = "jobs.jsonl"


@dataclass(frozen=True)
class BeginFields:
    """Fields of a row `begin`, beside those of `cluster.environment.slurm_job` (job, array, restarts, name, partition, hosts)."""

    step: int
    """Step of the newest checkpoint; -1: there is none."""
    blamed: list[str]
    """Hosts of the attempt before that are down now, where Slurm ended that attempt."""
    users_exclusions: list[str]
    """Hosts that the user excluded; no later attempt may use them again."""


@dataclass(frozen=True)
class EndFields:
    """Fields of a row `end`."""

    job: int | None
    status: int
    """Exit status of srun; 128 and more: a signal."""
    state: str
    """State of the job in Slurm when its ranks had ended."""
    step: int
    """Step of the newest checkpoint; -1: there is none."""
    action: str
    """Decision on the job: see `requeue_policy.Decision`."""
    reason: str
    blamed: list[str]
    """Hosts that hung, were lost, did not answer or were slow for too long (`watchdog.slow_rank`)."""
    excluded: list[str]
    """Hosts that the next attempt must not use."""


@dataclass(frozen=True)
class JobRecords:
    """Rows of jobs.jsonl, oldest first."""

    rows: list[JsonRow]

    @classmethod
    def read(cls, run_dir: Path) -> "JobRecords":
        """Reads the records of a run directory; none where no Slurm job has begun there."""
        return cls(read_jsonl(run_dir / JOBS_FILE))

    @property
    def begins(self) -> list[JsonRow]:
        return rows_of("begin", self.rows)

    @property
    def ends(self) -> list[JsonRow]:
        return rows_of("end", self.rows)

    @property
    def newest_begin(self) -> JsonRow:
        """Where the newest attempt began; empty where none has begun."""
        return self.begins[-1] if self.begins else {}

    @property
    def newest_end(self) -> JsonRow:
        """The newest row `end`, which may be of an attempt before the newest; empty where there is none."""
        return self.ends[-1] if self.ends else {}

    @property
    def newest(self) -> JsonRow:
        """The newest row; empty where there is none."""
        return self.rows[-1] if self.rows else {}

    @property
    def began(self) -> float:
        """Unix time at which the newest attempt began; 0 where none has begun."""
        # Hosts with different clocks may have written the rows: the last row need not have the latest time.
        return max((time_of(row) for row in self.begins), default=0.0)

    @property
    def has_ended(self) -> bool:
        """Whether the newest attempt has a row `end`."""
        return self.newest.get("event") == "end"


def rows_of(event: str, rows: Iterable[JsonRow]) -> list[JsonRow]:
    """Returns the rows of one event, begin or end."""
    return [row for row in rows if row.get("event") == event]


def append_begin(run_dir: Path, records: JobRecords, job: dict[str, Any], fields: BeginFields) -> None:
    """Appends the row of an attempt that begins now.

    Args:
        run_dir: run directory.
        records: the rows before.
        job: as `cluster.environment.slurm_job` returns it.
        fields: the rest of the row.
    """
    Ledger(run_dir / JOBS_FILE, len(records.begins)).write("begin", **job, **vars(fields))


def append_end(run_dir: Path, records: JobRecords, fields: EndFields) -> None:
    """Appends the row of an attempt that ends now; arguments as those of `append_begin`."""
    # The number is that of the newest begin; without any (a deleted file) it is 0.
    Ledger(run_dir / JOBS_FILE, max(0, len(records.begins) - 1)).write("end", **vars(fields))
