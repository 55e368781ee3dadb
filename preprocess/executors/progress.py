"""Progress of all ranks of a command, for the line that the command shows and for `status` in another terminal.

Every rank rewrites a small file under `work/progress` and holds a lock on it; the kernel releases the lock when the process ends, however
it ends. So a reader of the files knows at once which ranks are alive, on whichever host, without comparing clocks.
"""

import contextlib
import fcntl
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from jadeberta.shards import is_held
from jadeberta.utils.durations import format_duration
from jadeberta.utils.files import naming
from preprocess.executors.counters import SINGLE_RANK_WORK, Counters, RankState, parse_state

INTERVAL_SECONDS = 2.0
"""Time between two renewals of a rank's file, and of the line on a terminal."""
FIRST_SECONDS = 0.5
"""Time until the first of them."""
PAGE_BYTES = 4096
"""Size of a rank's file; a state takes some hundred bytes."""
SHORTEST_SECONDS = 3.0
"""Length of a call below which its rate is no basis for the time left."""


@dataclass(frozen=True)
class RankStatus:
    """One rank as its file shows it."""

    name: str
    alive: bool
    state: RankState


@dataclass(frozen=True)
class JobProgress:
    """All ranks together."""

    stage: str
    share: float
    """Finished share of the open call, from 0 to 1."""
    tasks: int
    tasks_done: int
    ranks: int
    alive: int
    """Number of ranks that are alive."""
    rates: dict[str, float]
    """Number of documents, sentences and bytes a second."""
    left_seconds: float | None
    """Time left; None: not known yet."""
    is_single_rank_work: bool
    """Whether all tasks are done and one rank does work that the others wait for."""


def summarise(statuses: Iterable[RankStatus]) -> JobProgress | None:
    """Adds up what all ranks have done in the newest call; None where no call is known.

    Tasks that a dead rank had finished count; the task that it was working on does not.
    """
    ranks = [rank for rank in statuses if rank.state.stage]
    if not ranks:
        return None
    # Ranks enter a call one after the other; the one that entered last knows the newest call.
    newest = max(ranks, key=lambda rank: (rank.alive, -rank.state.call_seconds)).state
    there = [rank for rank in ranks if (rank.state.stage, rank.state.call) == (newest.stage, newest.call)]
    done = sum(rank.state.weight_done + rank.alive * rank.state.task_weight_done for rank in there)
    seconds = max(rank.state.call_seconds for rank in there)
    rates: Counter[str] = Counter()
    for rank in there:
        rates.update(rank.state.rates if rank.alive else {})
    share = min(1.0, done / newest.weight) if newest.weight else 1.0
    alive = sum(rank.alive for rank in ranks)
    known = alive and share > 0 and seconds >= SHORTEST_SECONDS
    left = seconds * (1 - share) / share if known else None
    tasks_done = sum(rank.state.tasks_done for rank in there)
    single = any(rank.alive and rank.state.task == SINGLE_RANK_WORK for rank in there)
    return JobProgress(newest.stage, share, newest.tasks, tasks_done, len(ranks), alive, dict(rates), left, single)


def describe(summary: JobProgress) -> str:
    """Returns the progress line: share and tasks done, rates, ranks alive, time left. It fits a terminal of 80 columns."""
    if summary.is_single_rank_work:
        return f"{summary.stage}: {SINGLE_RANK_WORK}, {summary.alive} of {summary.ranks} ranks alive"
    rates = {name: _short(rate) for name, rate in summary.rates.items()}
    if summary.rates.get("sentences"):
        speed = f"{rates['sentences']} sentences/s"
    else:
        speed = f"{rates.get('documents', '0')} docs/s, {rates.get('bytes', '0')}B/s"
    left = "?" if summary.left_seconds is None else format_duration(summary.left_seconds)
    ranks = f"{summary.ranks}" if summary.alive == summary.ranks else f"{summary.alive} of {summary.ranks}"
    return f"{summary.stage} {summary.share:.1%}, {left} left, {summary.tasks_done}/{summary.tasks} tasks, {speed}, {ranks} ranks"


def _short(number: float) -> str:
    """Returns a number in three or four characters and a unit: 940, 1.2k, 34k, 5.1M."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5 or unit == "G":
            break
        number /= 1000
    return f"{number:.1f}{unit}" if unit and number < 9.95 else f"{number:.0f}{unit}"


def read_ranks(folder: Path, own: Path | None = None) -> list[RankStatus]:
    """Returns the status of all ranks that have a file.

    Args:
        folder: where the files are.
        own: file of this process, which is skipped: closing it would release the lock on it.
    """
    statuses = []
    for path in sorted(folder.glob("*.json")):
        if path == own:
            continue
        with contextlib.suppress(OSError, orjson.JSONDecodeError, TypeError), open(path, "rb") as f:
            statuses.append(RankStatus(path.stem, is_held(f.fileno()), parse_state(orjson.loads(f.read()))))
    return statuses


def clear(folder: Path) -> None:
    """Removes the files of dead ranks."""
    for rank in read_ranks(folder):
        if not rank.alive:
            (folder / f"{rank.name}.json").unlink(missing_ok=True)


class ProgressReporter:
    """Renews the file of this rank, and shows the progress line of all ranks, from here to `stop`."""

    def __init__(self, folder: Path, rank: int, counters: Counters, show: Callable[[str], None] | None = None) -> None:
        """Args:
        folder: where the files of all ranks are.
        rank: number of this process.
        counters: those of this process.
        show: shows the progress line; None where another rank shows it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank-{rank:05d}-{socket.gethostname()}-{os.getpid()}.json"
        self._counters, self._show = counters, show
        unnamed = self._path.with_suffix(".new")
        self._file = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        with naming(self._path):
            self._write(counters.state())
        unnamed.rename(self._path)  # after the first write: nobody reads an empty file
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = min(FIRST_SECONDS, INTERVAL_SECONDS)
        while not self._stopping.wait(pause):
            pause = INTERVAL_SECONDS
            # A full disk must not end the work: the line is only for people who watch.
            with contextlib.suppress(OSError):
                state = self._counters.state()
                self._write(state)
                if self._show is not None:
                    ranks = [RankStatus(self._path.stem, True, state), *read_ranks(self._path.parent, own=self._path)]
                    if (summary := summarise(ranks)) is not None:
                        self._show(describe(summary))

    def _write(self, state: RankState) -> None:
        # Always one page: a reader never sees the end of a longer earlier state.
        os.pwrite(self._file, orjson.dumps(asdict(state)).ljust(PAGE_BYTES), 0)

    def stop(self) -> None:
        """Removes the file of this rank."""
        self._stopping.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        os.close(self._file)
