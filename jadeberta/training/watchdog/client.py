"""The trainer's side of the watchdog: writes heartbeats, and ends with status 12 when the watchdog finds that the job hangs.

The watchdog is another process (`monitor.py`), because a trainer that is stopped or holds the interpreter's lock cannot judge itself.
A watchdog that dies is replaced.
"""

import faulthandler
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from jadeberta.cluster import energy_counters
from jadeberta.cluster.environment import host_name
from jadeberta.errors import ConfigError, HangError
from jadeberta.training.watchdog.heartbeat import (
    _LISTENER,
    _LISTENER_AT,
    HANG,
    LOOK_S,
    PHASES,
    Heartbeat,
    digest,
    hang_path,
    stacks_path,
    write_heartbeat,
    write_stderr,
)
from jadeberta.training.watchdog.rank_pace import Spent, write_spent
from jadeberta.training.watchdog.slow_rank_rule import SlowRankRule, read_wish
from jadeberta.utils.processes import JOB_SIGNALS, helper_signals_blocked

if TYPE_CHECKING:  # imports of this file must stay light: tests start many trainers
    from jadeberta.config import WatchdogConfig

REPLACEMENTS = 10
"""Watchdogs that a trainer replaces; a machine that kills more of them will not keep the next either."""


class WatchdogClient:
    """A rank's heartbeat and its watchdog process; SIGUSR2 writes the stacks of all threads and changes nothing else."""

    def __init__(
        self,
        run_dir: Path,
        rank: int,
        world_size: int,
        limits: "WatchdogConfig",
        attempt: int = 0,
        attempt_id: str = "",
        gpu: str = "",
        slow_rank: SlowRankRule | None = None,
    ) -> None:
        """Starts the watchdog process; call it in the main thread, before anything that can hang.

        Args:
            run_dir: directory of the run.
            rank: of this process.
            world_size: ranks of the job.
            limits: seconds that each phase may take.
            attempt: number of this start of the job, the same on every rank.
            attempt_id: random, the same on every rank of this attempt and on no other: by it the ranks know each other's heartbeats.
            gpu: UUID of the rank's GPU, whose energy the watchdog measures; empty: it has none.
            slow_rank: what follows where a rank is slow; None: nothing.

        Raises:
            ConfigError: the run directory cannot be written.
        """
        self.rank, self.run_dir = rank, run_dir.absolute()
        path = stacks_path(self.run_dir, rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stacks = open(path, "ab")  # noqa: SIM115 - held for the handler
        except OSError as e:
            raise ConfigError(
                f"run.dir {run_dir}: cannot be written ({e.strerror}). Choose one that every rank can write."
            ) from e
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        self._arguments = {
            "run_dir": str(self.run_dir),
            "rank": rank,
            "world_size": world_size,
            "limits": {"end": 0.0} | {phase: getattr(limits, f"{phase}_s") for phase in PHASES if phase != "end"},
            "trainer_pid": os.getpid(),
            "attempt": attempt,
            "attempt_id": attempt_id,
            "began": time.clock_gettime(time.CLOCK_BOOTTIME),
            "energy": {
                "gpu": gpu,
                "powercap": str(energy_counters.POWERCAP),
                "nvml": energy_counters.NVML,
                "every_s": energy_counters.EVERY_S,
            },
            # Taken once: to a watchdog that replaces another, a hang of this very attempt must not look like an earlier one.
            "earlier_hang": digest(hang_path(self.run_dir)),
            "slow_rank": vars(slow_rank or SlowRankRule()),
        }
        self._memory_fd = os.memfd_create("jadeberta-heartbeat")
        os.ftruncate(self._memory_fd, mmap.PAGESIZE)
        self._memory = mmap.mmap(self._memory_fd, mmap.PAGESIZE)
        self._count = self._beats = 0
        self._in: tuple[str, int] = ("", -1)
        self._since = 0.0
        self._spent = Spent()
        self._stopping = False
        self.beat("start", 0, "start")
        self._socket, self._process = self._start_watchdog()
        self._listener = threading.Thread(target=self._run_listener, name="watchdog client", daemon=True)
        self._listener.start()

    def beat(self, phase: str, step: int, section: str) -> None:
        """Writes what this rank does from now on; called from one thread only.

        The limit counts the time in one phase and step; a new section in it does not start it anew.

        Args:
            phase: one of PHASES.
            step: counted from 1 as in metrics.jsonl; of a save or an evaluation, the step just made.
            section: up to 32 bytes. In a step: data, forward 1, backward 1, forward 2 ... all-reduce, update, metrics.
        """
        now = time.monotonic()
        if self._in != (phase, step):
            self._in, self._since, self._beats = (phase, step), now, 0
        self._count += 1
        self._beats += 1
        write_heartbeat(self._memory, Heartbeat(self._count, self._since, now, step, self._beats, phase, section))

    def enter_section(self, section: str) -> None:
        """Heartbeat of another section of the same phase and step."""
        self.beat(*self._in, section)

    def add_step(self, step_s: float, data_s: float, compute_s: float, last_forward_s: float) -> None:
        """Adds the times of a step that is done to those that the ranks are compared by, seconds; see `rank_pace.Spent`."""
        before = self._spent
        self._spent = Spent(
            before.steps + 1, before.step_s + step_s, before.data_s + data_s, before.compute_s + compute_s,
            before.last_forward_s + last_forward_s,
        )  # fmt: skip
        write_spent(self._memory, self._spent)

    @property
    def wish(self) -> str:
        """What the watchdog asks for a requeue because of; empty where it asks for none."""
        return read_wish(self._memory)

    def stop(self) -> None:
        """Ends the watchdog when the work is done."""
        self._stopping = True
        self.beat("end", self._in[1], "end")
        try:
            self._socket.shutdown(socket.SHUT_WR)  # reaches the watchdog although loaders may hold copies of this end
            self._process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._listener.join(2 * LOOK_S)

    def _start_watchdog(self) -> tuple[socket.socket, subprocess.Popen]:
        """Starts a watchdog; gives this end of the socket to it, and the process."""
        ours, theirs = socket.socketpair()
        ours.settimeout(LOOK_S)
        arguments = self._arguments | {"memory": self._memory_fd, "socket": theirs.fileno()}
        command = [sys.executable, "-P", "-m", "jadeberta.training.watchdog.monitor", orjson.dumps(arguments).decode()]
        roots = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        try:
            with helper_signals_blocked():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(self._memory_fd, theirs.fileno()),
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots))},
                )
        finally:
            theirs.close()
        return ours, process

    def _run_listener(self) -> None:
        """Ends the process when the watchdog says so, and replaces a watchdog that died; the body of the listening thread."""
        # A signal that lands in this thread would not wake the main one from a call that blocks.
        signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
        _LISTENER.pack_into(self._memory, _LISTENER_AT, threading.get_native_id())
        for _ in range(REPLACEMENTS):
            self._wait_for_watchdog()
            if self._stopping:
                return
            self._process.kill()
            status = self._process.wait()
            self._report(f"its watchdog ended with status {status} and is replaced")
            time.sleep(LOOK_S)  # a machine short of memory gets a moment
            if self._stopping:
                return
            try:
                old = self._socket
                self._socket, self._process = self._start_watchdog()
                old.close()
            except OSError as e:
                self._report(f"no watchdog can be started ({e.strerror})")
        self._wait_for_watchdog()
        if not self._stopping:
            self._report(f"{REPLACEMENTS} watchdogs were replaced; the training goes on without one, a hang will not be seen")

    def _wait_for_watchdog(self) -> None:
        """Returns when the watchdog is gone."""
        while True:
            try:
                byte = self._socket.recv(1)
            except TimeoutError:
                if self._process.poll() is not None:
                    return
            except OSError:
                return
            else:
                if byte == HANG:
                    self._report(f"ended by its watchdog because the job hangs; stacks in {stacks_path(self.run_dir, self.rank)}")
                    # Not sys.exit: the main thread hangs, and the interpreter would wait for it.
                    os._exit(HangError.exit_status)
                return

    def _report(self, what: str) -> None:
        write_stderr(f"rank {self.rank} on {host_name(os.environ)}: {what}")
