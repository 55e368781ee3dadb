"""What Slurm says about a job: parsers of the output of `scontrol` and `squeue`, and functions that call them.

Knows nothing about runs. A missing answer is a sentence, never an error, because `jadeberta status` also runs outside a cluster.
"""

import re
import subprocess
import time
from dataclasses import dataclass

ANSWER_S = 5.0
"""Time limit of a call, seconds: a controller that is busy or gone must not block `jadeberta status`."""
RUNNING, CANCELLED = "RUNNING", "CANCELLED"
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD")
"""States of a job that has no hosts yet, or none any more and will get some again (squeue's manual page, JOB STATE CODES)."""
WORKING = (RUNNING, "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
"""States of a job that holds hosts. Every state in neither list is that of a job that has ended."""
NOTHING = ("", "(null)", "None", "N/A", "Unknown")
"""Values by which Slurm says that a field has none."""


def has_ended(state: str) -> bool:
    """Whether a job in this state has ended and will not run again."""
    return state not in (*WAITING, *WORKING)


@dataclass(frozen=True)
class SlurmJob:
    """A job as Slurm reports it at one moment."""

    job: int
    array: str | None
    """Array job and task, such as 11_3."""
    name: str
    state: str
    reason: str
    """Reason for which it waits; empty where it does not wait."""
    partition: str
    hosts: str
    """Hosts in Slurm's short form, such as node[1-2]; empty while it waits."""
    excluded: str
    """Hosts that it must not get, in the same form."""
    restarts: int
    starts: float | None
    """Unix time at which it started, or is expected to start; None where Slurm does not say."""
    ends: float | None
    """Unix time of its time limit, or of its end; None where it has none."""

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def works(self) -> bool:
        return self.state in WORKING


def parse_job(text: str, job: int) -> SlurmJob | None:
    """Finds one job in the output of `scontrol show job -o`; None where it is not there.

    Args:
        text: one line per job; values may hold spaces. For the number of an array Slurm prints all its tasks.
        job: job number; each task of an array has its own.
    """
    fields = next((found for line in text.splitlines() if (found := _fields(line)).get("JobId") == str(job)), None)
    if fields is None:
        return None
    array, task = (fields.get(key, "") for key in ("ArrayJobId", "ArrayTaskId"))
    state = fields.get("JobState", "UNKNOWN").split()[0]
    return SlurmJob(
        job=job,
        array=f"{array}_{task}" if array and task else None,
        name=fields.get("JobName", ""),
        state=state,
        reason=fields.get("Reason", "") if state in WAITING else "",
        partition=fields.get("Partition", ""),
        hosts=fields.get("NodeList", ""),
        excluded=fields.get("ExcNodeList", ""),
        restarts=int(fields["Restarts"]) if fields.get("Restarts", "").isdigit() else 0,
        starts=_unix_time(fields.get("StartTime", "")),
        ends=_unix_time(fields.get("EndTime", "")),
    )


def _fields(line: str) -> dict[str, str]:
    """Splits a line of KEY=value, without the keys that have no value; of a key that comes twice the first counts."""
    # Values may hold spaces, so a value ends where the next key begins: a capital letter after a space, up to an equal sign.
    keys = list(re.finditer(r"(?:^|\s)([A-Z][\w/:]*)=", line))
    fields: dict[str, str] = {}
    ends = [key.start() for key in keys[1:]] + [len(line)]
    for key, end in zip(keys, ends, strict=False):
        value = line[key.end() : end].strip()
        if value not in NOTHING:
            fields.setdefault(key[1], value)
    return fields


def _unix_time(text: str) -> float | None:
    """Parses a time of Slurm, which prints the local time of the caller."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class SlurmAnswer:
    """Result of a query."""

    job: SlurmJob | None = None
    why: str = ""
    """A sentence that says why there is no job."""
    forgotten: bool = False
    """Whether Slurm answered that it has no such job any more."""


def query_job(job: int, timeout: float = ANSWER_S) -> SlurmAnswer:
    """Asks Slurm for a job by its number."""
    printed, why = _call(("scontrol", "show", "job", "-o", str(job)), timeout)
    found = parse_job(printed, job)
    if found is not None:
        return SlurmAnswer(found)
    # Slurm forgets jobs after MinJobAge, five minutes by default.
    if not why or "Invalid job id" in why:
        return SlurmAnswer(None, f"Slurm has forgotten job {job}; it ended some time ago.", forgotten=True)
    return SlurmAnswer(None, why)


def find_next_job(name: str, after: int, timeout: float = ANSWER_S) -> SlurmJob | None:
    """Asks Slurm for the next job of a chain; None where there is none.

    Args:
        name: job name, the same for all jobs of the chain; only jobs of this user count.
        after: job number; the result has the lowest higher one.
        timeout: seconds for each call.
    """
    listing = ("squeue", "--noheader", "--me", f"--name={name}", "--states=PENDING,RUNNING", "--format=%A")
    numbers = [int(word) for word in _call(listing, timeout)[0].split() if word.isdigit()]
    later = min((number for number in numbers if number > after), default=None)
    return None if later is None else query_job(later, timeout).job


def _call(command: tuple[str, ...], timeout: float) -> tuple[str, str]:
    """Returns what a command prints, and a sentence where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except OSError:
        return "", f"{command[0]} is not on this host: ask on a login node for what Slurm knows."
    except subprocess.TimeoutExpired:
        return "", f"Slurm did not answer in {timeout:g} s."
    if done.returncode == 0:
        return done.stdout, ""
    last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return done.stdout, f"Slurm does not answer: {last}"
