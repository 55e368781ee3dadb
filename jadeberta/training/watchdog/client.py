"""The trainer's side of the watchdog: says what it is doing, and ends with status 12 when it is told that the job hangs.

The judge is another process (`watchdog.py`), because a trainer that is stopped or holds the interpreter's lock cannot judge itself.
A beat costs microseconds and waits for nothing, a reader never takes half a beat, and a watchdog that dies is replaced.
"""

import contextlib
import faulthandler
import hashlib
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from jadeberta.errors import ConfigError, HangError

if TYPE_CHECKING:  # the watchdog reads this file and must stay light
    from jadeberta.config import WatchdogConfig

PHASES = ("start", "first_step", "step", "save", "eval", "end")
"""In the order in which a rank goes through them; `save` and `eval` come after the step whose number they carry."""
HANG = b"H"
"""What the watchdog sends to a trainer that is to end."""
REPLACEMENTS = 10
"""Watchdogs that are replaced in one process's life; a machine that kills more than that will not keep the next."""
LOOK_S = 1.0
"""Between two looks at whether the watchdog is alive: a forked loader can hold the other end of the socket open."""

_PHASE_NUMBER = {phase: number for number, phase in enumerate(PHASES)}
_BEAT = struct.Struct("<QddqIB32s")
_CHECKED = _BEAT.size + 4
_SLOTS = (0, 128)
_KEEPER = struct.Struct("<i")
_KEEPER_AT = 256
_TRAINERS_OWN = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that the training process answers, in its main thread; a signal to the whole group must end no helper."""


class Beat(NamedTuple):
    """What a trainer last said."""

    number: int
    """Beats since the process began."""
    since: float
    """CLOCK_MONOTONIC when it entered this phase and step."""
    place_since: float
    step: int
    beats: int
    """Beats in this phase and step: how far a rank is where its places have no known order."""
    phase: str
    place: str


def write_beat(memory: mmap.mmap, beat: Beat) -> None:
    """Writes into the older of two slots, each with a checksum: a trainer stopped in mid-write leaves the other whole."""
    body = _BEAT.pack(*beat[:5], _PHASE_NUMBER[beat.phase], beat.place.encode()[:32])
    at = _SLOTS[beat.number & 1]
    memory[at : at + _CHECKED] = body + zlib.crc32(body).to_bytes(4, "little")


def read_beat(memory: mmap.mmap) -> Beat | None:
    """The newest whole beat; None where both slots were being written."""
    newest = None
    for at in _SLOTS:
        slot = memory[at : at + _CHECKED]
        if zlib.crc32(slot[:-4]).to_bytes(4, "little") != slot[-4:]:
            continue
        number, since, place_since, step, beats, phase, place = _BEAT.unpack(slot[:-4])
        text = place.rstrip(b"\0").decode(errors="replace")
        beat = Beat(number, since, place_since, step, beats, PHASES[phase], text)
        if newest is None or beat.number > newest.number:
            newest = beat
    return newest


def keeper_thread(memory: mmap.mmap) -> int:
    """Kernel's number of the trainer's thread that listens to the watchdog; 0 before there is one."""
    return _KEEPER.unpack_from(memory, _KEEPER_AT)[0]


def hang_path(run_dir: Path) -> Path:
    """Where the ranks tell each other that the job hangs."""
    return run_dir / "heartbeat" / "hang.json"


def record_path(run_dir: Path, rank: int) -> Path:
    """Where a rank's last beat can be read by all."""
    return run_dir / "heartbeat" / f"rank-{rank:05d}.json"


def stacks_path(run_dir: Path, rank: int) -> Path:
    """Where a rank's stacks go."""
    return run_dir / "logs" / f"stacks-rank-{rank:05d}.txt"


def digest(path: Path) -> str:
    """Of a file's bytes; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def say(line: str) -> None:
    """Not through sys.stderr, whose lock a thread that hangs in a print may hold; nor at all where nobody takes it."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(LOOK_S * 1000):
            os.write(2, f"{line}\n".encode())


class Heart:
    """A rank's heartbeat and its watchdog. SIGUSR2 writes the stacks of all threads and changes nothing else."""

    def __init__(self, run_dir: Path, rank: int, world_size: int, limits: "WatchdogConfig") -> None:
        """To be made in the main thread, before anything that can hang.

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
        self._post = {
            "run_dir": str(self.run_dir),
            "rank": rank,
            "world_size": world_size,
            "limits": {"end": 0.0} | {phase: getattr(limits, f"{phase}_s") for phase in PHASES if phase != "end"},
            "trainer": os.getpid(),
            "started": time.time(),
            # Taken once: to a watchdog that replaces another, a hang of this very life must not look old.
            "earlier_hang": digest(hang_path(self.run_dir)),
        }
        self._memory_fd = os.memfd_create("jadeberta-heartbeat")
        os.ftruncate(self._memory_fd, mmap.PAGESIZE)
        self._memory = mmap.mmap(self._memory_fd, mmap.PAGESIZE)
        self._count = self._beats = 0
        self._in: tuple[str, int] = ("", -1)
        self._since = 0.0
        self._stopping = False
        self.beat("start", 0, "start")
        self._socket, self._process = self._start_watchdog()
        self._keeper = threading.Thread(target=self._keep, name="heart", daemon=True)
        self._keeper.start()

    def beat(self, phase: str, step: int, place: str) -> None:
        """Says what this rank does from now on; called from one thread only.

        The limit counts the time in one phase and step; a new place in it does not start it anew.

        Args:
            phase: one of PHASES.
            step: counted from 1 as in metrics.jsonl; of a save or an evaluation, the step just made.
            place: up to 32 bytes. In a step: data, forward 1, backward 1, forward 2 ... all-reduce, update, metrics.
        """
        now = time.monotonic()
        if self._in != (phase, step):
            self._in, self._since, self._beats = (phase, step), now, 0
        self._count += 1
        self._beats += 1
        write_beat(self._memory, Beat(self._count, self._since, now, step, self._beats, phase, place))

    def stop(self) -> None:
        """The work is done: the heartbeat says `end` and the watchdog goes."""
        self._stopping = True
        self.beat("end", self._in[1], "end")
        try:
            self._socket.shutdown(socket.SHUT_WR)  # reaches the watchdog although loaders may hold copies of this end
            self._process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._keeper.join(2 * LOOK_S)

    def _start_watchdog(self) -> tuple[socket.socket, subprocess.Popen]:
        ours, theirs = socket.socketpair()
        ours.settimeout(LOOK_S)
        post = self._post | {"memory": self._memory_fd, "socket": theirs.fileno()}
        command = [sys.executable, "-P", "-m", "jadeberta.training.watchdog", orjson.dumps(post).decode()]
        roots = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_TRAINERS_OWN, signal.SIGUSR2))  # inherited by the child
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(self._memory_fd, theirs.fileno()),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots))},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        return ours, process

    def _keep(self) -> None:
        """Ends the process when the watchdog says so, and replaces a watchdog that died."""
        # A signal that lands in this thread would not wake the main one from a call that blocks.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TRAINERS_OWN)
        _KEEPER.pack_into(self._memory, _KEEPER_AT, threading.get_native_id())
        for _ in range(REPLACEMENTS):
            self._listen()
            if self._stopping:
                return
            self._process.kill()
            status = self._process.wait()
            self._say(f"its watchdog ended with status {status} and is replaced")
            time.sleep(LOOK_S)  # a machine short of memory gets a moment
            if self._stopping:
                return
            try:
                old = self._socket
                self._socket, self._process = self._start_watchdog()
                old.close()
            except OSError as e:
                self._say(f"no watchdog can be started ({e.strerror})")
        self._listen()
        if not self._stopping:
            self._say(f"{REPLACEMENTS} watchdogs were replaced; the training goes on without one, a hang will not be seen")

    def _listen(self) -> None:
        """Returns when the watchdog is gone."""
        while True:
            try:
                word = self._socket.recv(1)
            except TimeoutError:
                if self._process.poll() is not None:
                    return
            except OSError:
                return
            else:
                if word == HANG:
                    self._say(f"ended by its watchdog because the job hangs; stacks in {stacks_path(self.run_dir, self.rank)}")
                    os._exit(HangError.exit_status)
                return

    def _say(self, what: str) -> None:
        say(f"rank {self.rank} on {socket.gethostname()}: {what}")
