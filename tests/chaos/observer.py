"""A run as it is seen from outside: its processes, its checkpoints directory, its records. It needs nothing from the run itself."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from jadeberta.checkpoint.commit import DELETED, TEMPORARY
from jadeberta.checkpoint.manifest import MANIFEST_NAME, STEP_NAME, directory_name, list_checkpoints, step_of, verify
from jadeberta.utils.procfs import process_stat, send_signal
from tests.helpers import ROOT

MARK = "JADEBERTA_CHAOS"
"""Variable that every process of a run inherits, whoever its parent is by now."""
NAME = re.compile(rf"{STEP_NAME.pattern}({re.escape(TEMPORARY)}|{re.escape(DELETED)})?")


@dataclass(frozen=True)
class DirectoryView:
    """The checkpoints directory at one instant."""

    newest: int = 0
    """Step of the newest directory under its final name; 0: none."""
    growing: bool = False
    """A save has begun."""
    manifest: bool = False
    """Its manifest is there; the rename comes next."""
    deleting: frozenset[int] = frozenset()
    """Steps of checkpoints that are being removed, or were when something was killed."""

    @classmethod
    def of(cls, checkpoints: Path) -> "DirectoryView":
        found: dict[str | None, list[int]] = {None: [0], TEMPORARY: [], DELETED: []}
        with contextlib.suppress(FileNotFoundError), os.scandir(checkpoints) as entries:
            for entry in entries:
                if match := NAME.fullmatch(entry.name):
                    found[match[2]].append(int(match[1]))
        manifest = any(os.path.exists(f"{checkpoints}/{directory_name(s)}{TEMPORARY}/{MANIFEST_NAME}") for s in found[TEMPORARY])  # noqa: PTH110
        return cls(max(found[None]), bool(found[TEMPORARY]), manifest, frozenset(found[DELETED]))


class Metrics:
    """The steps that a run has written down; asking costs a stat where nothing is new."""

    def __init__(self, path: Path) -> None:
        self.path, self.steps = path, 0
        """`steps`: lines up to now, those of earlier attempts too."""
        self.last = 0
        """Step of the last line."""
        self._size = 0

    def renew(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if (size := self.path.stat().st_size) != self._size:
                with open(self.path, "rb") as f:
                    f.seek(self._size)
                    lines = f.read(size - self._size).split(b"\n")
                self._size = size - len(lines[-1])  # a line in the making is read again
                for line in filter(None, lines[:-1]):
                    self.steps, self.last = self.steps + 1, orjson.loads(line)["step"]


def processes_of(mark: str, known: dict[int, str] | None = None) -> dict[int, str]:
    """Living processes of a run and their parts in it: launcher, rank N, writer, watchdog, loader or helper.

    Args:
        mark: the run's.
        known: what was seen before; a process whose parent is gone keeps its part.
    """
    seen: dict[int, tuple[int, bytes, bytes]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                environment = Path(entry.path, "environ").read_bytes()
                if (
                    f"{MARK}={mark}\0".encode() in environment
                    and (stat := process_stat(int(entry.name)))
                    and stat.state not in "ZX"
                ):
                    seen[int(entry.name)] = (stat[0], Path(entry.path, "cmdline").read_bytes(), environment)
    return {pid: _part(*seen[pid], seen, (known or {}).get(pid, "helper")) for pid in seen}


def _part(parent: int, command: bytes, environment: bytes, seen: dict[int, tuple[int, bytes, bytes]], before: str) -> str:
    for module, part in (
        ("jobs.local_launcher", "launcher"),
        ("checkpoint.writer_process", "writer"),
        ("training.watchdog", "watchdog"),
    ):
        if f"jadeberta.{module}".encode() in command:
            return part
    if b"jadeberta\0pretrain" not in command or parent not in seen:
        return before
    if seen[parent][1] == command:
        return "loader"  # forked, so it has its rank's command line
    rank = re.search(rb"(?:^|\0)RANK=(\d+)\0", environment)
    return f"rank {rank[1].decode()}" if rank else before


class Job:
    """A run under its launcher, started again whenever the launcher is gone and the run is not done, as a service manager would."""

    def __init__(self, recipe: Path, run_dir: Path, ranks: int = 2, restarts: int = 1000) -> None:
        self.run_dir, self.checkpoints, self.log = run_dir, run_dir / "checkpoints", run_dir.with_suffix(".log")
        self.metrics = Metrics(run_dir / "metrics.jsonl")
        self.mark = f"{os.getpid()}-{run_dir.name}"
        self.parts: dict[int, str] = {}
        self.launchers: list[subprocess.Popen] = []
        self.ranks: list[int] = []
        """Process of rank 0 in every attempt up to now."""
        self.began, self.steps_before, self.orphaned_s = time.monotonic(), 0, 0.0
        """When this attempt was first seen, the lines in the metrics then, and the longest that ranks outlived a launcher."""
        self._command = [
            sys.executable,
            "-m",
            "jadeberta.jobs.local_launcher",
            "--ranks",
            str(ranks),
            "--restarts",
            str(restarts),
        ]
        self._command += ["--", "pretrain", "--config", str(recipe)]
        self._ended: float | None = None

    def renew(self) -> bool:
        """Looks at the processes; starts the launcher where there is none and all of the last one is gone. False once the run is done."""
        launcher = self.launchers[-1] if self.launchers else None
        status = launcher.poll() if launcher else -1
        self.parts = processes_of(self.mark, self.parts)
        if status == 0 and (self.run_dir / "DONE").exists():
            return False
        if status in (0, 2, 3, 10, 13):
            raise AssertionError(f"the job ended with status {status} and without DONE: {self.tail()}")
        if status is not None:
            self._ended = self._ended or time.monotonic()
            if not self.parts:
                self.orphaned_s = max(self.orphaned_s, time.monotonic() - self._ended)
                self._ended = None
                self._start()
        for pid, part in self.parts.items():
            if part == "rank 0" and pid not in self.ranks:
                self.metrics.renew()
                self.ranks.append(pid)
                self.began, self.steps_before = time.monotonic(), self.metrics.steps
        return True

    @property
    def attempt(self) -> int:
        return len(self.ranks)

    @property
    def steps_of_attempt(self) -> int:
        return self.metrics.steps - self.steps_before

    def pids(self, target: str) -> list[int]:
        """What a kill of a target ends: a part, `ranks` (all of them) or `everything`."""
        if target == "everything":
            return sorted(self.parts, key=lambda pid: self.parts[pid] != "launcher")
        return [pid for pid, part in self.parts.items() if part == target or (target == "ranks" and part.startswith("rank "))]

    def trusted(self) -> tuple[int, list[str]]:
        """Step of the newest checkpoint whose every byte is right, 0 where none is; and what is wrong with the others."""
        newest, faults = 0, []
        for directory in list_checkpoints(self.checkpoints):
            found = verify(directory)
            if not found:
                newest = step_of(directory)
            elif directory.exists():  # else it was pruned meanwhile
                faults += found
        return newest, faults

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def end(self) -> None:
        """Kills whatever is left."""
        for pid in processes_of(self.mark):
            send_signal(pid, signal.SIGKILL)
        for launcher in self.launchers:
            launcher.kill()
            launcher.wait()

    def _start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMI"))} | {MARK: self.mark}
        with open(self.log, "ab") as out:
            self.launchers.append(subprocess.Popen(self._command, env=environment, stdout=out, stderr=out, cwd=ROOT))


def left_over(mark: str, seconds: float) -> list[str]:
    """Processes of a run that still live some seconds after its end."""
    end = time.monotonic() + seconds
    while (left := processes_of(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    return [f"{part} (process {pid})" for pid, part in left.items()]
