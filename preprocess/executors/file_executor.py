"""Processes that share the work of a command through files alone: no MPI, any number of them, which come and go as they like.

All run the same command with the same results of shared work, so they come to the same calls of `map` in the same order. Each call is a
folder; a piece of it is claimed by making a file that must be new, and done when its result lies beside it. A process that comes late reads
the results of the calls behind it and joins at the one that is open; one that died (`heartbeat.py`) is replaced at the pieces it held
by any other. So nobody waits for a process that has not started, and the last one alive can finish alone.
"""

import os
import pickle
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
from jadeberta.utils.files import atomic_file
from preprocess.document_files import write_json
from preprocess.executors.counters import Account, Weigh
from preprocess.executors.executor import MPI_VARIABLES, Comm, Piece, Result, fit_to_travel, missing_source, name_of
from preprocess.executors.file_claims import PieceState, Step, next_step, read_states
from preprocess.executors.liveness import Heartbeat, Watch
from preprocess.executors.task_queue import STALL_SECONDS
from preprocess.workdir import pool_dir, remove_leftovers

SILENCE_SECONDS = 60.0
"""Without a sign of life for so long a process is taken for dead."""
DEATHS = 5
"""So many processes may die at one piece; after that the piece itself is to blame, say because it does not fit into memory."""
POLL_SECONDS = 0.2, 2.0
"""First and longest time between two looks at a call of which others hold what is left."""


class Pool(Comm):
    """One process of a pool."""

    def __init__(self, out: Path, name: str, stage: str, silence: float = SILENCE_SECONDS, holds: bool = True) -> None:
        """Joins the pool or founds it.

        Args:
            out: directory that the work is about; the pool lives in `work/pool/<name>-<stage>` under it.
            name: the same for all processes of a pool and never used again, such as the number of a job.
            stage: the command that all of them run.
            silence: seconds without a sign of life after which a process is taken for dead; the same for all.
            holds: whether another job is to be kept out of `out`.

        Raises:
            ConfigError: the name cannot be a file's, MPI is there too, or another job works in `out`.
        """
        if not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"--pool {name}: a pool's name may hold letters, digits, -, _ and dots.")
        if seen := [variable for variable in MPI_VARIABLES if variable in os.environ]:
            raise ConfigError(f"--pool {name}: {seen[0]} is set, so MPI shares the work already. Leave one of the two out.")
        self.rank = int(os.environ.get("SLURM_PROCID", "0"))
        self.account = Account()
        self._raised: BaseException | None = None
        pools = pool_dir(out)

        def tidy() -> None:
            for other in pools.glob("*"):
                if not other.name.startswith(f"{name}-"):
                    shutil.rmtree(other, ignore_errors=True)  # nobody of that pool is alive
            remove_leftovers(out)

        # Before the others of this pool come in: what they write would look like leftovers.
        self._lock = GroupLock(out / "work", "--out", name, prepare=tidy) if holds else None
        self._folder = pools / f"{name}-{stage}"
        self._workers = self._folder / "workers"
        self._workers.mkdir(parents=True, exist_ok=True)
        self._me = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._heartbeat = Heartbeat(self._workers / f"{self._me}.beat", silence)
        self._watch = Watch(silence)
        self._seat = _seat()
        write_json(self._workers / f"{self._me}.json", {"process": self._seat})
        self._calls = 0
        # What failed before this process came may have been mended since, so it is tried once more.
        self._failed_before = {path.relative_to(self._folder) for path in self._folder.glob("call-*/*.failed-*")}

    @property
    def size(self) -> int:  # type: ignore[override]
        """Processes that have joined so far."""
        return len(list(self._workers.glob("*.json")))

    def abort(self, status: int) -> NoReturn:
        """Ends this process; others do what it leaves."""
        self.leave()
        sys.exit(status)

    def leave(self) -> None:
        """Tells the others that this process holds nothing any more."""
        self._heartbeat.stop()
        if self._lock is not None:
            self._lock.release()

    def tells(self, error: BaseException) -> bool:
        """Whether this process prints an error: the first of each task of a job one that all meet, any process one of its own."""
        return self.is_root or error is not self._raised

    def finish(self) -> None:
        """Notes for `require_finished` that the command has ended well."""
        write_json(self._folder / "finished.json", {"processes": self.size})

    def everywhere(self, work: Callable[[], Result]) -> list[tuple[str, Result]]:
        """The result of the process that came first, and this one's; an error is raised here alone, and the others go on."""
        mine = (self._seat, work())
        first = self.run_on_root(lambda: mine)
        return [first, mine]

    def run_on_root(self, work: Callable[[], Result]) -> Result:
        """The result of `work()` done by one process, in every process; its error is raised in every process."""
        return self.map([None], lambda _: work())[0]

    def map(
        self,
        pieces: Iterable[Piece],
        work: Callable[[Piece], Result],
        weigh: Weigh[Piece] = lambda piece: 1,
        ready: Callable[[Piece], bool] = lambda piece: True,
    ) -> list[Result]:
        """`[work(piece) for piece in pieces]` in every process, each piece worked on by one of them; see `Comm.map`.

        Raises the first error in the order of the pieces that any process has met.
        """
        listed, folder = list(pieces), self._folder / f"call-{self._calls:03d}"
        self._calls += 1
        self.account.open_call([weigh(piece) for piece in listed])
        folder.mkdir(exist_ok=True)
        forgiven = {
            (int(piece), int(attempt))
            for path in self._failed_before
            if path.parts[0] == folder.name
            for piece, _, attempt in [path.name.partition(".failed-")]
        }
        claimed: set[str] = set()  # a file server's client may list a folder as it was some seconds ago
        unready = {number for number, piece in enumerate(listed) if not ready(piece)}
        pause, longest = POLL_SECONDS
        idle_since = time.monotonic()
        while True:
            states = read_states({*(path.name for path in folder.iterdir()), *claimed}, len(listed))
            step = next_step(states, forgiven, unready=unready)
            if step.kind == "wait":
                held = ((number, state) for number, state in enumerate(states) if state.attempt >= 0 and not state.done)
                dead = {number for number, state in held if self._is_dead(folder, number, state)}
                unready = {number for number in unready if not ready(listed[number])}
                step = next_step(states, forgiven, dead, unready)
            if step.kind == "done":
                return [_read(folder / f"{number:05d}.done") for number in range(len(listed))]
            if step.kind == "failed":
                self._raised = _read(folder / f"{step.piece:05d}.failed-{step.attempt}")
                raise self._raised
            if step.kind == "claim":
                if self._claim(folder, step):
                    self._work(folder, step, states[step.piece], listed[step.piece], work)
                claimed.add(f"{step.piece:05d}.claim-{step.attempt}")
                pause, idle_since = POLL_SECONDS[0], time.monotonic()
            else:
                if any(not state.done and state.attempt >= 0 for state in states):
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > STALL_SECONDS:
                    raise missing_source(listed[min(unready)])
                time.sleep(pause)
                pause = min(2 * pause, longest)

    def _is_dead(self, folder: Path, number: int, state: PieceState) -> bool:
        """Whether the process is dead that holds a piece, and left it open."""
        claim = folder / f"{number:05d}.claim-{state.attempt}"
        holder = claim.read_text().strip()
        # Empty until its maker has written its name; where that one died before, nothing is left to watch but the claim.
        if not self._watch.is_dead(self._workers / f"{holder}.beat" if holder else claim):
            return False
        # It may have ended the piece, and left, after the folder was listed.
        ended = (f"{number:05d}.done", f"{number:05d}.failed-{state.attempt}")
        return not any((folder / name).exists() for name in ended)

    def _claim(self, folder: Path, step: Step) -> bool:
        """Whether this process is the one that made the claim; the file system lets one of them make it."""
        try:
            with open(folder / f"{step.piece:05d}.claim-{step.attempt}", "xb") as f:
                f.write(f"{self._me}\n".encode())
                f.flush()
                os.fsync(f.fileno())
        except FileExistsError:
            return False
        return True

    def _work(self, folder: Path, step: Step, state: PieceState, piece: Piece, work: Callable[[Piece], Result]) -> None:
        deaths = step.attempt - len(state.failures)
        outcome: Any
        self.account.begin(step.piece, name_of(piece))
        try:
            if deaths >= DEATHS:
                last = self._name_of(folder / f"{step.piece:05d}.claim-{state.attempt}")
                raise InputError(
                    f"{name_of(piece)}: {deaths} processes died at it, at last {last}. Look into its log: memory may be too small."
                )
            name, outcome = f"{step.piece:05d}.done", work(piece)
        except Exception as e:
            name, outcome = f"{step.piece:05d}.failed-{step.attempt}", fit_to_travel(e, self._seat)
        self.account.end()
        if (folder / f"{step.piece:05d}.claim-{step.attempt + 1}").exists():
            return  # taken for dead in the meantime: the piece is another's, whose result is the same
        with atomic_file(folder / name) as f:
            pickle.dump(outcome, f)

    def _name_of(self, claim: Path) -> str:
        """The process that made a claim, as its user knows it."""
        path = self._workers / f"{claim.read_text().strip()}.json"
        found = re.search(r'"process": "(.*)"', path.read_text()) if path.is_file() else None
        return found[1] if found else "one that left no name"


def require_finished(out: Path, name: str, stage: str) -> None:
    """Raises JadebertaError unless a pool's command has ended well."""
    folder = pool_dir(out) / f"{name}-{stage}"
    if not (folder / "finished.json").is_file():
        problem = f"the processes of pool {name} have not finished '{stage}'"
        raise JadebertaError(f"{out}: {problem}. Their logs say why; submit the job again to go on.")


def _seat() -> str:
    """This process as its user knows it."""
    env = os.environ
    where = f"process {os.getpid()} on {socket.gethostname()}"
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"array task {env['SLURM_ARRAY_TASK_ID']} (task {env.get('SLURM_PROCID', '0')}, {where})"
    return f"task {env['SLURM_PROCID']} ({where})" if "SLURM_PROCID" in env else where


def _read(path: Path) -> Any:
    with open(path, "rb") as f:
        return pickle.load(f)
