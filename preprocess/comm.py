"""Ranks that share the work of a stage: MPI where the job was started by mpirun or srun, one rank otherwise; `pool.py` for neither.

Promises that an error on one rank ends the stage on all of them instead of leaving the others waiting in a collective.
"""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from jadeberta.shards import JadebertaError, OutputError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Set by Open MPI's mpirun, by MPICH's and Intel's Hydra, and by srun --mpi=pmix|pmi2 for each task of a job.
MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")


class Comm:
    """The ranks of one command. With one rank no MPI library is loaded."""

    def __init__(self) -> None:
        self._mpi: Any = None
        self.rank, self.size = 0, 1
        if any(name in os.environ for name in MPI_VARIABLES):
            from mpi4py import MPI

            self._mpi = MPI.COMM_WORLD
            self.rank, self.size = self._mpi.rank, self._mpi.size

    @property
    def is_root(self) -> bool:
        """Whether this one prints what is the same on all."""
        return self.rank == 0

    def tells(self, error: BaseException) -> bool:
        """Whether this one prints an error that ends the command: every rank meets the same one, in a collective."""
        return self.is_root

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

    def _allgather(self, value: Any) -> list[Any]:
        """`value` of every rank, in rank order, on every rank."""
        return [value] if self._mpi is None else self._mpi.allgather(value)

    def run_on_root(self, work: Callable[[], Result]) -> Result:
        """The result of `work()` done by rank 0, on every rank; its error is raised on every rank."""
        return self.map([None], lambda _: work())[0]

    def everywhere(self, work: Callable[[], Result]) -> list[tuple[str, Result]]:
        """`work()` done by each of those that share the work, with the names of those whose results this one gets to know.

        The first of them is the same one everywhere. Raises where one that belongs to the list failed.
        """
        # A piece for each rank: map gives number n to rank n.
        return [(f"rank {rank}", result) for rank, result in enumerate(self.map(range(self.size), lambda _: work()))]

    def map(self, pieces: Iterable[Piece], work: Callable[[Piece], Result]) -> list[Result]:
        """`[work(piece) for piece in pieces]` on every rank, each piece worked on by one rank.

        Raises on every rank the first error in the order of the pieces, once all ranks have stopped.
        """
        done: list[tuple[int, Result]] = []
        error: tuple[int, BaseException] | None = None
        for number, piece in list(enumerate(pieces))[self.rank :: self.size]:
            try:
                done.append((number, work(piece)))
            except Exception as e:
                error = (number, fit_to_travel(e, f"rank {self.rank}"))
                break
        gathered = self._allgather((done, error))
        errors = sorted((e for _, e in gathered if e is not None), key=lambda e: e[0])
        if errors:
            raise error[1] if error is not None and error[0] == errors[0][0] else errors[0][1]
        return [result for _, result in sorted((pair for pairs, _ in gathered for pair in pairs), key=lambda pair: pair[0])]


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
