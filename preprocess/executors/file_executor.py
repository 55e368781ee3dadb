"""Executor for processes that share the tasks of a command through files: no MPI, any number of them, which may join and leave.

All run the same command and get the same results, so they make the same calls of `map` in the same order. Each call is a folder. A process
claims a task by creating a file that must not exist yet; the task is done when its result lies beside that file. A process that joins late
reads the results of the finished calls and joins the open one. The tasks of a dead process (`liveness.py`) are claimed by any other. So
nobody waits for a process that has not started, and the last one alive can finish alone.
"""

import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from jadeberta.shards import ConfigError, GroupLock, InputError, JadebertaError
from jadeberta.utils.files import write_atomically
from preprocess.document_files import write_json
from preprocess.executors.counters import Counters, Weigh
from preprocess.executors.executor import MPI_VARIABLES, Executor, Result, Task, missing_source, name_of, portable_error
from preprocess.executors.file_claims import Decision, TaskState, decide, read_states, unclaimed
from preprocess.executors.liveness import LivenessMonitor, LivenessWriter
from preprocess.executors.progress import clear
from preprocess.executors.task_queue import STALL_SECONDS
from preprocess.executors.task_results import dump, load
from preprocess.workdir import pool_dir, progress_dir
from preprocess.written_files import remove_leftovers

LONGEST_NAME = 100
"""Characters of a pool's name, which is part of a file's."""
SILENCE_SECONDS = 60.0
"""A process whose liveness file does not change for this long is taken for dead."""
DEATHS = 5
"""Number of processes that may die at one task; after that the task is at fault, for example because it does not fit into memory."""
POLL_SECONDS = 0.2, 2.0
"""First and longest pause between two listings of a call's folder while other processes hold the open tasks."""


class FileExecutor(Executor):
    """One process of a pool."""

    def __init__(self, out: Path, name: str, stage: str, silence: float = SILENCE_SECONDS, holds: bool = True) -> None:
        """Joins the pool, or creates it.

        Args:
            out: output directory; the state of the pool is in `work/pool/<name>-<stage>` under it.
            name: the same for all processes of a pool and never used again, such as the number of a job.
            stage: the command that all of them run.
            silence: seconds without a renewed liveness file after which a process is taken for dead; the same for all.
            holds: whether to keep other jobs out of `out`.

        Raises:
            ConfigError: the name cannot be a file's, MPI is there too, or another job works in `out`.
        """
        if not re.fullmatch(rf"[\w.-]{{1,{LONGEST_NAME}}}", name) or len(name.encode()) > 2 * LONGEST_NAME:
            raise ConfigError(
                f"--pool {name[:40]}: a pool's name may hold letters, digits, -, _ and dots, at most {LONGEST_NAME} of them."
            )
        if seen := [variable for variable in MPI_VARIABLES if variable in os.environ]:
            raise ConfigError(f"--pool {name}: {seen[0]} is set, so MPI shares the work already. Leave one of the two out.")
        self.rank = int(os.environ.get("SLURM_PROCID", "0"))
        self.counters = Counters()
        self._raised: BaseException | None = None
        pools = pool_dir(out)

        def tidy() -> None:
            for other in pools.glob("*"):
                if not other.name.startswith(f"{name}-"):
                    shutil.rmtree(other, ignore_errors=True)  # the lock is ours, so no process of that pool is alive
            remove_leftovers(out)
            # A process that was killed behind the call that clears them left its file: that call is done and not made again.
            clear(progress_dir(out))

        # Tidy up before other processes of this pool join: their temporary files would look like leftovers.
        self._lock = GroupLock(out / "work", "--out", name, prepare=tidy) if holds else None
        self._folder = pools / f"{name}-{stage}"
        self._workers = self._folder / "workers"
        self._workers.mkdir(parents=True, exist_ok=True)
        self._me = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._liveness = LivenessWriter(self._workers / f"{self._me}.beat", silence)
        self._monitor = LivenessMonitor(silence)
        self._description = _describe_process()
        write_json(self._workers / f"{self._me}.json", {"process": self._description})
        self._calls = 0
        # The cause of a failure from before this process joined may be gone by now, so those tasks are tried once more.
        self._failed_before = {path.relative_to(self._folder) for path in self._folder.glob("call-*/*.failed-*")}

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of processes that have joined so far."""
        return len(list(self._workers.glob("*.json")))

    def abort(self, status: int) -> NoReturn:
        """Ends this process; others take over its tasks."""
        self.leave()
        sys.exit(status)

    def leave(self) -> None:
        """Leaves the pool: the others know that this process holds no task any more."""
        self._liveness.stop()
        if self._lock is not None:
            self._lock.release()

    def reports(self, error: BaseException) -> bool:
        """Returns whether this process prints an error: its own in any case, one of another process only on rank 0."""
        return self.is_root or error is not self._raised

    def finish(self) -> None:
        """Writes the file that `require_finished` looks for."""
        write_json(self._folder / "finished.json", {"processes": self.size})

    def run_on_all(self, work: Callable[[], Result]) -> list[tuple[str, Result]]:
        """Returns the results of the process that joined first and of this one.

        Raises:
            Exception: the error of `work()` here; the other processes go on.
        """
        mine = (self._description, work())
        first = self.run_on_root(lambda: mine)
        return [first, mine]

    def run_on_root(self, work: Callable[[], Result]) -> Result:
        """Runs `work()` in one process and returns its result in every process.

        Raises:
            Exception: the error of `work()`, in every process.
        """
        return self.map([None], lambda _: work())[0]

    def map(
        self,
        tasks: Iterable[Task],
        work: Callable[[Task], Result],
        weigh: Weigh[Task] = lambda task: 1,
        ready: Callable[[Task], bool] = lambda task: True,
    ) -> list[Result]:
        """Returns `[work(task) for task in tasks]` in every process; each task is done by one of them.

        Args:
            tasks: the same in every process.
            work: does one task.
            weigh: see `Executor.map`.
            ready: see `Executor.map`.

        Raises:
            Exception: the first error in the order of the tasks that any process has met.
        """
        listed, folder = list(tasks), self._folder / f"call-{self._calls:03d}"
        self._calls += 1
        self.counters.open_call([weigh(task) for task in listed])
        folder.mkdir(exist_ok=True)
        forgiven = {
            (int(task), int(attempt))
            for path in self._failed_before
            if path.parts[0] == folder.name
            for task, _, attempt in [path.name.partition(".failed-")]
        }
        claimed: set[str] = set()  # a file server's client may list the folder as it was some seconds ago
        unready = {number for number, task in enumerate(listed) if not ready(task)}
        pause, longest = POLL_SECONDS
        idle_since = time.monotonic()
        while True:
            # Before the folder is listed: an error that is noted in between is seen at the next turn.
            seen_errors, seen = _errors(folder), time.monotonic()
            states = read_states({*(path.name for path in folder.iterdir()), *claimed}, len(listed))
            decision = decide(states, forgiven, unready=unready)
            if decision.kind == "wait":
                held = ((number, state) for number, state in enumerate(states) if state.attempt >= 0 and not state.done)
                dead = {number for number, state in held if self._is_dead(folder, number, state)}
                unready = {number for number in unready if not ready(listed[number])}
                decision = decide(states, forgiven, dead, unready)
            if decision.kind == "done":
                return [_read(folder / f"{number:05d}.done") for number in range(len(listed))]
            if decision.kind == "failed":
                self._raised = _read(folder / f"{decision.task:05d}.failed-{decision.attempt}")
                raise self._raised
            if decision.kind == "claim":
                # The next tasks are claimed without another listing, which takes the longer the more tasks there are: whether another
                # process was faster says the claim itself, and one file says whether there was an error.
                for choice in (decision, *unclaimed(states, decision, unready)):
                    if choice is not decision and _errors(folder) != seen_errors:
                        break
                    claimed.add(f"{choice.task:05d}.claim-{choice.attempt}")
                    if self._claim(folder, choice):
                        self._work(folder, choice, states[choice.task], listed[choice.task], work)
                    elif time.monotonic() - seen > longest:
                        break
                pause, idle_since = POLL_SECONDS[0], time.monotonic()
            else:
                if any(not state.done and state.attempt >= 0 for state in states):
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > STALL_SECONDS:
                    raise missing_source(listed[min(unready)])
                # Nothing to claim: list the folder again, less and less often, as each listing is work for the file server.
                time.sleep(pause)
                pause = min(2 * pause, longest)

    def _is_dead(self, folder: Path, number: int, state: TaskState) -> bool:
        """Returns whether the holder of a task is dead and left the task open."""
        claim = folder / f"{number:05d}.claim-{state.attempt}"
        holder = claim.read_text().strip()
        # The claim is empty until its process has written its name; if it died before, the claim itself is watched.
        if not self._monitor.is_dead(self._workers / f"{holder}.beat" if holder else claim):
            return False
        # The process may have finished the task, and left, after the folder was listed.
        ended = (f"{number:05d}.done", f"{number:05d}.failed-{state.attempt}")
        return not any((folder / name).exists() for name in ended)

    def _claim(self, folder: Path, decision: Decision) -> bool:
        """Returns whether this process got the claim; the file system lets only one process create the file."""
        try:
            with open(folder / f"{decision.task:05d}.claim-{decision.attempt}", "xb") as f:
                f.write(f"{self._me}\n".encode())
                f.flush()
                os.fsync(f.fileno())
        except FileExistsError:
            return False
        return True

    def _work(self, folder: Path, decision: Decision, state: TaskState, task: Task, work: Callable[[Task], Result]) -> None:
        deaths, failed = decision.attempt - len(state.failures), False
        self.counters.begin(decision.task, name_of(task))
        try:
            if deaths >= DEATHS:
                last = self._name_of(folder / f"{decision.task:05d}.claim-{state.attempt}")
                raise InputError(
                    f"{name_of(task)}: {deaths} processes died at it, at last {last}. Look into its log: memory may be too small."
                )
            content = dump(work(task))
        except Exception as e:
            content, failed = dump(None, portable_error(e, self._description)), True
        self.counters.end()
        if (folder / f"{decision.task:05d}.claim-{decision.attempt + 1}").exists():
            return  # this process was taken for dead: another one does the task, and its result is the same
        write_atomically(folder / f"{decision.task:05d}.{f'failed-{decision.attempt}' if failed else 'done'}", content)
        if failed:
            _note_error(folder)

    def _name_of(self, claim: Path) -> str:
        """Returns the process that made a claim, as its user knows it."""
        path = self._workers / f"{claim.read_text().strip()}.json"
        found = re.search(r'"process": "(.*)"', path.read_text()) if path.is_file() else None
        return found[1] if found else "one that left no name"


def require_finished(out: Path, name: str, stage: str) -> None:
    """Checks that a pool's command has ended well.

    Raises:
        JadebertaError: it has not.
    """
    folder = pool_dir(out) / f"{name}-{stage}"
    if not (folder / "finished.json").is_file():
        problem = f"the processes of pool {name} have not finished '{stage}'"
        raise JadebertaError(f"{out}: {problem}. Their logs say why; submit the job again to go on.")


def _describe_process() -> str:
    """Returns this process as its user knows it: array task, task of the job, process id and host."""
    env = os.environ
    where = f"process {os.getpid()} on {socket.gethostname()}"
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"array task {env['SLURM_ARRAY_TASK_ID']} (task {env.get('SLURM_PROCID', '0')}, {where})"
    return f"task {env['SLURM_PROCID']} ({where})" if "SLURM_PROCID" in env else where


def _read(path: Path) -> Any:
    return load(path.read_bytes(), path)


def _note_error(folder: Path) -> None:
    """Tells the other processes of a call that a task has failed; they list the folder to see which."""
    with open(folder / "errors", "ab") as f:
        f.write(b"\n")
        f.flush()
        os.fsync(f.fileno())


def _errors(folder: Path) -> int:
    """Returns a number that grows with the errors of a call."""
    try:
        return (folder / "errors").stat().st_size
    except FileNotFoundError:
        return 0
