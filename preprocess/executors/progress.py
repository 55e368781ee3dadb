"""What all ranks of a command are doing, for the one line that it shows and for `status` in another terminal.

Every rank keeps a small file under `work/progress`, which it rewrites and holds a lock on; the kernel takes the lock away when the process
ends, however it ends. So who reads the files knows at once who is alive, on whichever machine, and compares no clocks.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import orjson

from jadeberta.shards import is_held
from preprocess.executors.counters import FOR_ALL, Account, State, state_of

INTERVAL_SECONDS = 2.0
"""Between two renewals of a rank's file, and of the line on a terminal."""
PAGE_BYTES = 4096
"""Of a rank's file; a state takes some hundred."""
LOG_SECONDS = 60.0
"""Between two lines in a log."""
SHORTEST_SECONDS = 3.0
"""After less of a call its rate says nothing of the time left."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One rank as its file shows it."""

    name: str
    alive: bool
    state: State


@dataclass(frozen=True)
class Summary:
    """All ranks together."""

    stage: str
    share: float
    """Of the call that is open, from 0 to 1."""
    pieces: int
    pieces_done: int
    ranks: int
    alive: int
    rates: dict[str, float]
    """documents, sentences and bytes a second."""
    left_seconds: float | None
    alone: bool
    """All pieces are done, and one rank does what the others wait for."""


def summarise(seen: Iterable[Seen]) -> Summary | None:
    """What ranks have done together of the newest call that one of them is in; None where none is known.

    What a dead rank had finished counts, what it was at does not.
    """
    ranks = [rank for rank in seen if rank.state.stage]
    if not ranks:
        return None
    newest = max(ranks, key=lambda rank: (rank.alive, -rank.state.call_seconds)).state
    there = [rank for rank in ranks if (rank.state.stage, rank.state.call) == (newest.stage, newest.call)]
    done = sum(rank.state.weight_done + rank.alive * rank.state.piece_weight_done for rank in there)
    seconds = max(rank.state.call_seconds for rank in there)
    rates: Counter[str] = Counter()
    for rank in there:
        rates.update(rank.state.rates if rank.alive else {})
    share = min(1.0, done / newest.weight) if newest.weight else 1.0
    alive = sum(rank.alive for rank in ranks)
    known = alive and share > 0 and seconds >= SHORTEST_SECONDS
    left = seconds * (1 - share) / share if known else None
    pieces_done = sum(rank.state.pieces_done for rank in there)
    alone = any(rank.alive and rank.state.piece == FOR_ALL for rank in there)
    return Summary(newest.stage, share, newest.pieces, pieces_done, len(ranks), alive, dict(rates), left, alone)


def describe(summary: Summary) -> str:
    """One line: how far, how fast, how many, how long yet."""
    rates = summary.rates
    unit = "sentences" if rates.get("sentences") else "documents"
    left = "time left not known yet" if summary.left_seconds is None else f"{clock(summary.left_seconds)} left"
    if summary.alone:
        return f"{summary.stage}: {FOR_ALL}, {summary.alive} of {summary.ranks} ranks alive"
    return (
        f"{summary.stage}: {summary.share:.1%}, {summary.pieces_done:,} of {summary.pieces:,} pieces, "
        f"{rates.get(unit, 0):,.0f} {unit}/s, {rates.get('bytes', 0) / 1e6:.1f} MB/s, "
        f"{summary.alive} of {summary.ranks} ranks alive, {left}"
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def read_ranks(folder: Path, own: Path | None = None) -> list[Seen]:
    """All ranks that left a file.

    Args:
        folder: of the files.
        own: that of this process, which is left out: to close it would give back the lock on it.
    """
    seen = []
    for path in sorted(folder.glob("*.json")):
        if path == own:
            continue
        with contextlib.suppress(OSError, orjson.JSONDecodeError, TypeError), open(path, "rb") as f:
            seen.append(Seen(path.stem, is_held(f.fileno()), state_of(orjson.loads(f.read()))))
    return seen


def clear(folder: Path) -> None:
    """Removes the files of ranks that are no more."""
    for rank in read_ranks(folder):
        if not rank.alive:
            (folder / f"{rank.name}.json").unlink(missing_ok=True)


class Reporter:
    """Renews the file of this rank, and shows the line of all where it is asked to, from here to `stop`."""

    def __init__(self, folder: Path, rank: int, account: Account, show: Callable[[str], None] | None = None) -> None:
        """Args:
        folder: of the files of all ranks.
        rank: of this process.
        account: what it does.
        show: takes the line of all ranks; None where another rank shows it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank-{rank:05d}-{socket.gethostname()}-{os.getpid()}.json"
        self._account, self._show = account, show
        unnamed = self._path.with_suffix(".new")
        self._file = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        self._write(account.state())
        unnamed.rename(self._path)  # so nobody reads an empty one
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            # A full disk must not end the work: the line is only for those who look on.
            with contextlib.suppress(OSError):
                state = self._account.state()
                self._write(state)
                if self._show is not None:
                    ranks = [Seen(self._path.stem, True, state), *read_ranks(self._path.parent, own=self._path)]
                    if (summary := summarise(ranks)) is not None:
                        self._show(describe(summary))

    def _write(self, state: State) -> None:
        # Always one page: a reader never meets the end of what stood there before.
        os.pwrite(self._file, orjson.dumps(asdict(state)).ljust(PAGE_BYTES), 0)

    def stop(self) -> None:
        """Takes the file of this rank away."""
        self._stopping.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        os.close(self._file)


class Screen(logging.StreamHandler[TextIO]):
    """Log lines, and below them on a terminal the one line of progress; in a log it is a line like the others, now and then."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        # What mpirun gives its ranks for a terminal has no width, and may end in a log.
        self._terminal, self._line, self._silent = stream.isatty() and width_of(stream) > 0, "", 0.0
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def show(self, line: str) -> None:
        """Renews the line of progress."""
        if self._terminal:
            with self.lock or contextlib.nullcontext():
                self._line = line
                self._draw()
            return
        self._silent += INTERVAL_SECONDS
        if self._silent >= LOG_SECONDS:
            self._silent = 0.0
            log.info(line)

    def close_line(self) -> None:
        """Takes the line of progress away."""
        if self._line:
            self._line = ""
            self._draw()

    def emit(self, record: logging.LogRecord) -> None:
        if self._line:
            self.stream.write("\r\x1b[K")
        super().emit(record)
        if self._line:
            self._draw()

    def _draw(self) -> None:
        self.stream.write(f"\r\x1b[K{self._line[: max(20, width_of(self.stream)) - 1]}")
        self.stream.flush()


def width_of(stream: TextIO) -> int:
    """Columns of a terminal, where COLUMNS does not say it; 0: not known."""
    return int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(stream.fileno()).columns
