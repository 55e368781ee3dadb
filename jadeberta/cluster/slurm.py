"""What Slurm says of a job: pure functions over what `scontrol` and `squeue` print, and one that asks them.

Knows nothing of runs. An answer that does not come is a sentence, never an error: a status is asked for anywhere.
"""

import re
import subprocess
import time
from dataclasses import dataclass

ANSWER_S = 5.0
"""A controller that is busy or gone must not keep whoever asks for a status."""
RUNNING, CANCELLED = "RUNNING", "CANCELLED"
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD")
"""States of a job that has no hosts yet, or none any more and will get some again (squeue's manual page, JOB STATE CODES)."""
WORKING = (RUNNING, "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
"""States of a job that holds hosts. Every state in neither list is that of a job that has ended."""
NOTHING = ("", "(null)", "None", "N/A", "Unknown")
"""How Slurm writes that a field has no value."""


def has_ended(state: str) -> bool:
    """Whether a job in this state has ended and will not run again."""
    return state not in (*WAITING, *WORKING)


@dataclass(frozen=True)
class Job:
    """A job as Slurm knows it at one moment."""

    job: int
    array: str | None
    """Array job and task, such as 11_3."""
    name: str
    state: str
    reason: str
    """Why it waits; empty where it does not."""
    partition: str
    hosts: str
    """In Slurm's short form, node[1-2]; empty while it waits."""
    excluded: str
    """Hosts that it is not to get, in the same form."""
    restarts: int
    starts: float | None
    """Unix time at which it began, or is expected to begin; None where Slurm does not say."""
    ends: float | None
    """Unix time of its time limit, or of its end; None where there is none."""

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def works(self) -> bool:
        return self.state in WORKING


def parse_job(text: str, job: int) -> Job | None:
    """One job out of what `scontrol show job -o` prints; None where it is not in it.

    Args:
        text: a line a job; values may hold spaces. For an array's own number Slurm tells of all its tasks.
        job: its number, which a task of an array has of its own.
    """
    told = next((fields for line in text.splitlines() if (fields := _fields(line)).get("JobId") == str(job)), None)
    if told is None:
        return None
    array, task = (told.get(key, "") for key in ("ArrayJobId", "ArrayTaskId"))
    state = told.get("JobState", "UNKNOWN").split()[0]
    return Job(
        job=job,
        array=f"{array}_{task}" if array and task else None,
        name=told.get("JobName", ""),
        state=state,
        reason=told.get("Reason", "") if state in WAITING else "",
        partition=told.get("Partition", ""),
        hosts=told.get("NodeList", ""),
        excluded=told.get("ExcNodeList", ""),
        restarts=int(told["Restarts"]) if told.get("Restarts", "").isdigit() else 0,
        starts=_unix_time(told.get("StartTime", "")),
        ends=_unix_time(told.get("EndTime", "")),
    )


def _fields(line: str) -> dict[str, str]:
    """KEY=value of a line, without those that say that there is no value; the first of each key."""
    keys = list(re.finditer(r"(?:^|\s)([A-Z][\w/:]*)=", line))
    fields: dict[str, str] = {}
    ends = [key.start() for key in keys[1:]] + [len(line)]
    for key, end in zip(keys, ends, strict=False):
        value = line[key.end() : end].strip()
        if value not in NOTHING:
            fields.setdefault(key[1], value)
    return fields


def _unix_time(text: str) -> float | None:
    """Slurm writes the local time of whoever asks."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Answer:
    """What came of asking for a job."""

    job: Job | None = None
    why: str = ""
    """A sentence where there is no job."""
    forgotten: bool = False
    """Slurm did answer, and knows no such job any more."""


def ask(job: int, timeout: float = ANSWER_S) -> Answer:
    """A job as Slurm knows it now."""
    printed, why = _call(("scontrol", "show", "job", "-o", str(job)), timeout)
    found = parse_job(printed, job)
    if found is not None:
        return Answer(found)
    if not why or "Invalid job id" in why:
        return Answer(None, f"Slurm has forgotten job {job}; it ended some time ago.", forgotten=True)
    return Answer(None, why)


def ask_following(name: str, after: int, timeout: float = ANSWER_S) -> Job | None:
    """The next job of this user and name after some job: in a chain it goes on. None where there is none."""
    listing = ("squeue", "--noheader", "--me", f"--name={name}", "--states=PENDING,RUNNING", "--format=%A")
    numbers = [int(word) for word in _call(listing, timeout)[0].split() if word.isdigit()]
    later = min((number for number in numbers if number > after), default=None)
    return None if later is None else ask(later, timeout).job


def _call(command: tuple[str, ...], timeout: float) -> tuple[str, str]:
    """What a command prints, and where it fails a sentence about it."""
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
