"""Executor: the ranks that share the tasks of a stage. MPI where mpirun or srun started the job, one rank otherwise.

`file_executor.py` is the one for processes without MPI. Promises that each task goes to the rank that is free first, rank 0 among them,
and that an error on one rank ends the stage on all of them instead of leaving the others waiting in a collective. Ranks that wait sleep:
a core that polls for a message is a core that does not work.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jadeberta.shards import ConfigError, InputError, JadebertaError, OutputError
from preprocess.executors.counters import Counters, Weigh
from preprocess.executors.system_errors import remedy_for, system_errno
from preprocess.executors.task_queue import END, WAIT, TaskQueue

Task = TypeVar("Task")
Result = TypeVar("Result")

# Set by Open MPI's mpirun, by MPICH's and Intel's Hydra, and by srun --mpi=pmix|pmi2 for each task of a job.
MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
ASK, ANSWER = 1, 2
"""MPI tags of requests for a task, and of rank 0's answers."""
SERVE_POLL_SECONDS = 0.003
"""Pause of rank 0 between two polls for requests. It works meanwhile, and every poll takes Python's lock from its work."""
WAIT_POLL_SECONDS = 0.0005, 0.005
"""First and longest pause of a rank that polls for a message: it looks into its own memory and disturbs nobody."""
SWITCH_SECONDS = 0.001
"""Time after which the work of rank 0 yields Python's lock to a request, in place of 0.005: other ranks are idle meanwhile."""
NOT_READY_SECONDS = 0.001, 0.05
"""First and longest pause of a rank that no task is ready for: each try is a request to rank 0."""


class Executor:
    """The ranks of one command. With one rank no MPI library is loaded."""

    guard: Callable[[], None] | None = None
    """Raises where this rank must not write any more; called before each piece of work."""

    def __init__(self) -> None:
        """Raises:
        ConfigError: the MPI library cannot be called from several threads.
        """
        self._mpi: Any = None
        self._task_comm: Any = None
        self.rank, self.size = 0, 1
        self.counters = Counters()
        if any(name in os.environ for name in MPI_VARIABLES):
            from mpi4py import MPI

            self._mpi = MPI.COMM_WORLD
            self.rank, self.size = self._mpi.rank, self._mpi.size
            # Rank 0 answers requests in a thread of its own while it is in a collective itself.
            if self.size > 1 and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
                raise ConfigError(
                    f"{MPI.Get_library_version().splitlines()[0]}: this MPI library allows no calls from several threads. "
                    "Use one that does, or share the work by files (--pool NAME; MPI=none on Slurm)."
                )
            # Requests for tasks have a communicator of their own, so that no collective receives them.
            self._task_comm = self._mpi.Dup()

    @property
    def is_root(self) -> bool:
        """Whether this rank prints what is the same on all."""
        return self.rank == 0

    def reports(self, error: BaseException) -> bool:
        """Returns whether this rank prints an error that ends the command: every rank raises the same one, out of a collective."""
        return self.is_root

    def count(self, **amounts: float) -> None:
        """Adds what was just done to this rank's counters; see `Counters.count`."""
        self.counters.count(**amounts)  # type: ignore[arg-type]

    def leave(self) -> None:
        """Ends the part of this rank in the work."""

    def finish(self) -> None:
        """Notes that the command has ended well, for executors whose processes can come and go."""

    def abort(self, status: int) -> NoReturn:
        """Ends this rank and all others, which may be waiting for it in a collective; for errors that one rank alone has met."""
        if self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            self._mpi.Abort(status)
        sys.exit(status)

    def run_on_root(self, work: Callable[[], Result]) -> Result:
        """Runs `work()` on rank 0 and returns its result on every rank.

        Raises:
            Exception: the error of `work()`, on every rank.
        """
        outcome = None
        if self.is_root:
            self.counters.begin_single_rank_work()
            outcome = self._attempt(work)
            self.counters.end_single_rank_work()
        if self._mpi is not None:
            # Collective: every rank calls run_on_root in the same order. Without the sleeping barrier the others would poll.
            self._barrier()
            outcome = self._mpi.bcast(outcome)
        assert outcome is not None
        result, error = outcome
        if error is not None:
            raise error
        return result

    def run_on_all(self, work: Callable[[], Result]) -> list[tuple[str, Result]]:
        """Runs `work()` on every rank and returns [(name of the rank, its result)], the same list on every rank.

        Raises:
            Exception: the error of the first rank that failed, on every rank.
        """
        outcomes = self._allgather(self._attempt(work))
        for _, error in outcomes:
            if error is not None:
                raise error
        return [(f"rank {rank}", result) for rank, (result, _) in enumerate(outcomes)]

    def map(
        self,
        tasks: Iterable[Task],
        work: Callable[[Task], Result],
        weigh: Weigh[Task] = lambda task: 1,
        ready: Callable[[Task], bool] = lambda task: True,
    ) -> list[Result]:
        """Returns `[work(task) for task in tasks]` on every rank; each task is done by one rank, and they are begun in order.

        Args:
            tasks: the same on every rank.
            work: does one task.
            weigh: how long a task takes relative to the others, for the estimate of the time left.
            ready: whether a task can be begun; one that cannot waits until another task has made it ready.

        Raises:
            Exception: on every rank the first error in the order of the tasks, once all ranks have stopped.
        """
        listed = list(tasks)
        self.counters.open_call([weigh(task) for task in listed])
        done: list[tuple[int, Result]] = []
        error: tuple[int, BaseException] | None = None
        queue = self._open_queue(len(listed), lambda number: ready(listed[number]))
        pause, longest = NOT_READY_SECONDS
        while (number := queue.take()) != END:
            if number == WAIT:
                time.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            self.counters.begin(number, name_of(listed[number]))
            result, failure = self._attempt(lambda n=number: work(listed[n]))  # type: ignore[misc]
            self.counters.end()
            pause = NOT_READY_SECONDS[0]
            queue.finish(failure is not None)
            if failure is None:
                done.append((number, result))
            else:
                error = (number, failure)
        # Collective, after the last task: a rank that failed comes here too, so that nobody waits for it.
        gathered = self._allgather((done, error))
        if errors := sorted((e for _, e in gathered if e is not None), key=lambda e: e[0]):
            raise error[1] if error is not None and error[0] == errors[0][0] else errors[0][1]
        results = dict(pair for pairs, _ in gathered for pair in pairs)
        if missing := [listed[number] for number in range(len(listed)) if number not in results]:
            raise missing_source(missing[0])
        return [results[number] for number in range(len(listed))]

    def _attempt(self, work: Callable[[], Result]) -> tuple[Any, Exception | None]:
        """Returns (result, None), or (None, error) with an error that every rank can raise."""
        try:
            if self.guard is not None:
                self.guard()
            return work(), None
        except Exception as e:
            return None, portable_error(e, f"rank {self.rank}")

    def _open_queue(self, count: int, is_ready: Callable[[int], bool]) -> "_RootQueue | _RemoteQueue":
        if self.is_root:
            return _RootQueue(TaskQueue(count, is_ready), self._task_comm, self.size - 1)
        return _RemoteQueue(self._task_comm)

    def _barrier(self) -> None:
        """Sleeps until all ranks have come here: MPI's own barrier keeps the core busy while it waits."""
        request, (pause, longest) = self._mpi.Ibarrier(), WAIT_POLL_SECONDS
        while not request.Test():
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def _allgather(self, value: Any) -> list[Any]:
        """Returns the `value` of every rank, in rank order, on every rank."""
        if self._mpi is None:
            return [value]
        self._barrier()
        return list(self._mpi.allgather(value))


class _RootQueue:
    """The queue on rank 0, which works on tasks itself; a thread hands out tasks to the other ranks meanwhile."""

    def __init__(self, queue: TaskQueue, mpi: Any, others: int) -> None:
        self._queue, self._lock = queue, threading.Lock()
        if others:
            sys.setswitchinterval(SWITCH_SECONDS)
            threading.Thread(target=self._serve, args=(mpi, others), daemon=True).start()

    def take(self) -> int:
        with self._lock:
            return self._queue.take()

    def finish(self, failed: bool) -> None:
        with self._lock:
            self._queue.finish(failed)

    def _serve(self, mpi: Any, others: int) -> None:
        """Answers requests until every other rank has got the answer END."""
        from mpi4py import MPI

        status = MPI.Status()
        try:
            while others:
                if not mpi.iprobe(MPI.ANY_SOURCE, ASK, status):
                    time.sleep(SERVE_POLL_SECONDS)
                    continue
                finished, failed = mpi.recv(source=status.source, tag=ASK)
                if finished:
                    self.finish(failed)
                answer = self.take()
                mpi.send(answer, status.source, ANSWER)
                others -= answer == END
        except BaseException:
            MPI.COMM_WORLD.Abort(1)  # without answers the other ranks would wait forever
            raise


class _RemoteQueue:
    """The queue on another rank, which requests its tasks from rank 0."""

    def __init__(self, mpi: Any) -> None:
        self._mpi, self._finished, self._failed = mpi, False, False

    def take(self) -> int:
        self._mpi.send((self._finished, self._failed), 0, ASK)
        self._finished = self._failed = False
        # Sleep between polls: recv itself would keep the core busy.
        pause, longest = WAIT_POLL_SECONDS
        while not self._mpi.iprobe(0, ANSWER):
            time.sleep(pause)
            pause = min(2 * pause, longest)
        answer: int = self._mpi.recv(source=0, tag=ANSWER)
        return answer

    def finish(self, failed: bool) -> None:
        self._finished, self._failed = True, failed


def name_of(task: object) -> str:
    """Returns the name of a task for logs: its corpus and name, its path, or its text."""
    if isinstance(task, Path):
        return f"{task.parent.name}/{task.name}"
    if isinstance(task, tuple):
        return " ".join(map(str, task))[:200]
    corpus, name = getattr(task, "corpus", ""), getattr(task, "name", "")
    return f"{corpus}: {name}" if corpus and name else str(getattr(task, "path", task))[:200]


def missing_source(task: object) -> InputError:
    """Returns the error for a task that never became ready although all others are done."""
    return InputError(f"{name_of(task)}: its input did not appear under work/. Run the same command again.")


def portable_error(error: Exception, who: str) -> Exception:
    """Makes an error that can be sent to every rank: ours stay as they are, others become text, as their class may not be picklable."""
    if isinstance(error, JadebertaError):
        return error
    # Libraries hide a full disk in exceptions of their own.
    number = system_errno(error)
    if reason := os.strerror(number) if number else getattr(error, "strerror", None):
        # Memory may be lacking where no file is read or written.
        where = getattr(error, "filename", None) or ("" if number == errno.ENOMEM else "reading or writing")
        what = f"{where}: {reason}" if where else reason
        return OutputError(f"{what}, on {who}. {remedy_for(number)}, and run the same command again.")
    text = RuntimeError(f"{who}: {type(error).__name__}: {error}")
    text.__cause__ = error
    return text
