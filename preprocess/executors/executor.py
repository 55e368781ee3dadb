"""Ranks that share the work of a stage: MPI where the job was started by mpirun or srun, one rank otherwise; `pool.py` for neither.

Promises that each piece goes to the rank that is free first, rank 0 among them, and that an error on one rank ends the stage on all of them
instead of leaving the others waiting in a collective. Ranks that wait sleep: a core that waits for a message is a core that works.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jadeberta.shards import ConfigError, InputError, JadebertaError, OutputError
from preprocess.executors.counters import Account, Weigh
from preprocess.executors.task_queue import END, WAIT, Deck

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Set by Open MPI's mpirun, by MPICH's and Intel's Hydra, and by srun --mpi=pmix|pmi2 for each task of a job.
MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
ASK, ANSWER = 1, 2
POLL_SECONDS = 0.003
"""Between two looks at the questions of other ranks. Rank 0 works meanwhile, and every look takes Python's lock from its work."""
MEET_SECONDS = 0.0005, 0.005
"""First and longest time between two looks of a rank that waits for a message: it looks into its own memory and disturbs nobody."""
SWITCH_SECONDS = 0.001
"""After so long the work of rank 0 gives way to a question, in place of Python's 0.005: others stand idle meanwhile."""
PAUSE_SECONDS = 0.001, 0.05
"""The same of one that no piece is ready for: each look is a question to rank 0."""


class Comm:
    """The ranks of one command. With one rank no MPI library is loaded."""

    def __init__(self) -> None:
        self._mpi: Any = None
        self._dealing: Any = None
        self.rank, self.size = 0, 1
        self.account = Account()
        if any(name in os.environ for name in MPI_VARIABLES):
            from mpi4py import MPI

            self._mpi = MPI.COMM_WORLD
            self.rank, self.size = self._mpi.rank, self._mpi.size
            # Rank 0 answers questions in a thread of its own while it is in a collective itself.
            if self.size > 1 and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
                raise ConfigError(
                    f"{MPI.Get_library_version().splitlines()[0]}: this MPI library allows no calls from several threads. "
                    "Use one that does, or share the work by files (--pool NAME; MPI=none on Slurm)."
                )
            # Questions and answers about pieces on their own, beside the collectives.
            self._dealing = self._mpi.Dup()

    @property
    def is_root(self) -> bool:
        """Whether this one prints what is the same on all."""
        return self.rank == 0

    def tells(self, error: BaseException) -> bool:
        """Whether this one prints an error that ends the command: every rank meets the same one, in a collective."""
        return self.is_root

    def count(self, **amounts: float) -> None:
        """Adds what was just done to this rank's account; see `Account.count`."""
        self.account.count(**amounts)  # type: ignore[arg-type]

    def leave(self) -> None:
        """Ends the part of this rank in the work."""

    def finish(self) -> None:
        """Notes that the command has ended well, where there is anybody to note it for."""

    def abort(self, status: int) -> NoReturn:
        """Ends this rank and all others, which may be waiting for it in a collective; for errors that one rank alone has met."""
        if self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            self._mpi.Abort(status)
        sys.exit(status)

    def run_on_root(self, work: Callable[[], Result]) -> Result:
        """The result of `work()` done by rank 0, on every rank; its error is raised on every rank."""
        outcome = None
        if self.is_root:
            self.account.alone()
            outcome = self._attempt(work)
            self.account.alone(False)
        if self._mpi is not None:
            self._meet()
            outcome = self._mpi.bcast(outcome)
        assert outcome is not None
        result, error = outcome
        if error is not None:
            raise error
        return result

    def everywhere(self, work: Callable[[], Result]) -> list[tuple[str, Result]]:
        """`work()` done by each of those that share the work, with the names of those whose results this one gets to know.

        The first of them is the same one everywhere. Raises where one that belongs to the list failed.
        """
        outcomes = self._allgather(self._attempt(work))
        for _, error in outcomes:
            if error is not None:
                raise error
        return [(f"rank {rank}", result) for rank, (result, _) in enumerate(outcomes)]

    def map(
        self,
        pieces: Iterable[Piece],
        work: Callable[[Piece], Result],
        weigh: Weigh[Piece] = lambda piece: 1,
        ready: Callable[[Piece], bool] = lambda piece: True,
    ) -> list[Result]:
        """`[work(piece) for piece in pieces]` on every rank, each piece worked on by one rank, begun in their order.

        Args:
            pieces: the same on every rank.
            work: what is done with one.
            weigh: how long a piece takes as against the others, for the time left.
            ready: whether a piece can be begun; one that cannot waits until work on another has made it so.

        Raises:
            Exception: on every rank the first error in the order of the pieces, once all ranks have stopped.
        """
        listed = list(pieces)
        self.account.open_call([weigh(piece) for piece in listed])
        done: list[tuple[int, Result]] = []
        error: tuple[int, BaseException] | None = None
        hand = self._hand(len(listed), lambda number: ready(listed[number]))
        pause, longest = PAUSE_SECONDS
        while (number := hand.take()) != END:
            if number == WAIT:
                time.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            self.account.begin(number, name_of(listed[number]))
            result, failure = self._attempt(lambda n=number: work(listed[n]))  # type: ignore[misc]
            self.account.end()
            pause = PAUSE_SECONDS[0]
            hand.finish(failure is not None)
            if failure is None:
                done.append((number, result))
            else:
                error = (number, failure)
        gathered = self._allgather((done, error))
        if errors := sorted((e for _, e in gathered if e is not None), key=lambda e: e[0]):
            raise error[1] if error is not None and error[0] == errors[0][0] else errors[0][1]
        results = dict(pair for pairs, _ in gathered for pair in pairs)
        if missing := [listed[number] for number in range(len(listed)) if number not in results]:
            raise missing_source(missing[0])
        return [results[number] for number in range(len(listed))]

    def _attempt(self, work: Callable[[], Result]) -> tuple[Any, Exception | None]:
        """The result of some work, or its error as every rank can raise it."""
        try:
            return work(), None
        except Exception as e:
            return None, fit_to_travel(e, f"rank {self.rank}")

    def _hand(self, count: int, is_ready: Callable[[int], bool]) -> "_Own | _Far":
        return _Own(Deck(count, is_ready), self._dealing, self.size - 1) if self.is_root else _Far(self._dealing)

    def _meet(self) -> None:
        """Sleeps until all ranks have come here: in a collective itself a rank takes the whole of its core."""
        request, (pause, longest) = self._mpi.Ibarrier(), MEET_SECONDS
        while not request.Test():
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def _allgather(self, value: Any) -> list[Any]:
        """`value` of every rank, in rank order, on every rank."""
        if self._mpi is None:
            return [value]
        self._meet()
        return list(self._mpi.allgather(value))


class _Own:
    """Pieces for rank 0, which a thread beside its work hands out to the others."""

    def __init__(self, deck: Deck, mpi: Any, others: int) -> None:
        self._deck, self._lock = deck, threading.Lock()
        if others:
            sys.setswitchinterval(SWITCH_SECONDS)
            threading.Thread(target=self._deal, args=(mpi, others), daemon=True).start()

    def take(self) -> int:
        with self._lock:
            return self._deck.take()

    def finish(self, failed: bool) -> None:
        with self._lock:
            self._deck.finish(failed)

    def _deal(self, mpi: Any, others: int) -> None:
        """Answers until every other rank has been told that nothing is left."""
        from mpi4py import MPI

        status = MPI.Status()
        try:
            while others:
                if not mpi.iprobe(MPI.ANY_SOURCE, ASK, status):
                    time.sleep(POLL_SECONDS)
                    continue
                finished, failed = mpi.recv(source=status.source, tag=ASK)
                if finished:
                    self.finish(failed)
                answer = self.take()
                mpi.send(answer, status.source, ANSWER)
                others -= answer == END
        except BaseException:
            MPI.COMM_WORLD.Abort(1)  # the others would wait for ever
            raise


class _Far:
    """Pieces for another rank, which asks rank 0 for them."""

    def __init__(self, mpi: Any) -> None:
        self._mpi, self._finished, self._failed = mpi, False, False

    def take(self) -> int:
        self._mpi.send((self._finished, self._failed), 0, ASK)
        self._finished = self._failed = False
        pause, longest = MEET_SECONDS
        while not self._mpi.iprobe(0, ANSWER):
            time.sleep(pause)
            pause = min(2 * pause, longest)
        answer: int = self._mpi.recv(source=0, tag=ANSWER)
        return answer

    def finish(self, failed: bool) -> None:
        self._finished, self._failed = True, failed


def name_of(piece: object) -> str:
    """A piece of work in a few words."""
    if isinstance(piece, Path):
        return f"{piece.parent.name}/{piece.name}"
    if isinstance(piece, tuple):
        return " ".join(map(str, piece))[:200]
    corpus, name = getattr(piece, "corpus", ""), getattr(piece, "name", "")
    return f"{corpus}: {name}" if corpus and name else str(getattr(piece, "path", piece))[:200]


def missing_source(piece: object) -> InputError:
    """The error of a piece that never became ready although all others are done."""
    return InputError(f"{name_of(piece)}: what it is made of did not appear under work/. Run the same command again.")


def fit_to_travel(error: Exception, who: str) -> Exception:
    """An error that every rank can raise: the user's to mend as it is, others as text, as their class may not survive pickling."""
    if isinstance(error, JadebertaError):
        return error
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "writing"
        return OutputError(f"{where}: {error.strerror}, on {who}. Make room or mend the path, and run the same command again.")
    text = RuntimeError(f"{who}: {type(error).__name__}: {error}")
    text.__cause__ = error
    return text
