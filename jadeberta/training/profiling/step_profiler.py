"""The file PROFILE: torch's profiler over the next steps of some ranks, and on CUDA a snapshot of the device's memory.

What is computed stays as it is. Nothing here ends a run: a trace that cannot be taken or written costs a sentence.
"""

import contextlib
import errno
import gzip
import logging
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jadeberta.utils.files import atomic_path

logger = logging.getLogger(__name__)

STEPS = 3
"""Steps that a request profiles."""
REQUEST_BYTES = 1 << 16
"""More of the file PROFILE is not read."""
MEMORY_ENTRIES = 200_000
"""Allocations and releases that the memory's history holds at most; older ones are dropped."""


def read_request(path: Path, world_size: int) -> list[int]:
    """Returns the ranks that the file PROFILE names, rank 0 where it names none.

    Args:
        path: of the file.
        world_size: ranks of the job.

    Raises:
        ValueError: it holds something else than ranks of this job; the sentence says what would be right.
    """
    try:
        # A pipe would be waited for; a folder, or a link to nothing, asks as an empty file does.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            content = file.read(REQUEST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        content = b""
    words = content.decode(errors="replace").replace(",", " ").split()
    if words == ["all"]:
        return list(range(world_size))
    ranks: set[int] = set()
    for word in words:
        first, dash, last = word.partition("-")
        bounds = [int(part) for part in (first, last if dash else first) if part.isdecimal() and len(part) < 10]
        if len(bounds) != 2 or not bounds[0] <= bounds[1] < world_size:
            raise ValueError(
                f"{path}: {word[:40]!a} names no rank of this job; write numbers from 0 to {world_size - 1}, such as 0 3 8-15, or all, "
                "or leave the file empty for rank 0"
            )
        ranks.update(range(bounds[0], bounds[1] + 1))
    return sorted(ranks) or [0]


class StepProfiler:
    """Profiles the steps of one rank. Every rank has one and calls it after each step, so that all know whether one is at work."""

    def __init__(self, run_dir: Path, rank: int, device: torch.device) -> None:
        """Starts nothing; the traces go into the folder `profiles` of the run directory."""
        self.folder, self.rank, self.device = run_dir / "profiles", rank, device
        self.is_on = False
        """Whether steps of some rank are being profiled."""
        self._first = self._done = 0
        self._profile: Any = None
        self.ranks: list[int] = []
        """Those that are profiled."""

    def begin(self, step: int, ranks: Sequence[int]) -> None:
        """Profiles the steps after `step` of these ranks."""
        self.is_on, self._first, self._done, self.ranks = True, step + 1, 0, list(ranks)
        if self.rank not in self.ranks:
            return
        try:
            if self.device.type == "cuda":
                torch.cuda.memory._record_memory_history(max_entries=MEMORY_ENTRIES)
            self._profile = torch.profiler.profile(activities=self._kinds(), record_shapes=True, acc_events=True)
            self._profile.start()
        except Exception as e:  # drivers and other profilers that are attached fail in many ways
            self._profile = None
            self._end_memory_history()
            logger.warning("rank %s: the profiler cannot be started (%s: %s)", self.rank, type(e).__name__, e)

    def _kinds(self) -> list[torch.profiler.ProfilerActivity]:
        kinds = torch.profiler.ProfilerActivity
        return [kinds.CPU, *[kinds.CUDA] * (self.device.type == "cuda")]

    def is_last(self) -> bool:
        """Counts a step that is done; whether it was the last one to profile."""
        self._done += 1
        return self._done == STEPS

    def end(self) -> int:
        """Writes what this rank has profiled; returns the number of steps, 0 where no step was done since `begin`."""
        steps, self.is_on = self._done, False
        profile, self._profile = self._profile, None
        if profile is not None:
            try:
                profile.stop()
                if steps:
                    self._write(profile)
            except Exception as e:
                what = e.strerror if isinstance(e, OSError) and e.strerror else f"{type(e).__name__}: {e}"
                logger.warning(
                    "%s: the trace of rank %s cannot be written (%s); the training goes on", self.folder, self.rank, what
                )
            finally:
                self._end_memory_history()
        return steps

    def _end_memory_history(self) -> None:
        if self.device.type == "cuda":
            with contextlib.suppress(Exception):
                torch.cuda.memory._record_memory_history(enabled=None)

    def _write(self, profile: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        name = f"step-{self._first:08d}-rank-{self.rank:05d}"
        if self.device.type == "cuda":
            # First: the export of the trace allocates.
            with atomic_path(self.folder / f"{name}.memory.pickle", durable=False) as temporary:
                torch.cuda.memory._dump_snapshot(str(temporary))
        with atomic_path(self.folder / f"{name}.json.gz", durable=False) as temporary:
            plain = temporary.with_name(f"{temporary.name}.json")
            try:
                profile.export_chrome_trace(str(plain))
                _require_whole(plain)
                with open(plain, "rb") as source, gzip.open(temporary, "wb", compresslevel=3) as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
            finally:
                with contextlib.suppress(OSError):
                    plain.unlink(missing_ok=True)


def _require_whole(trace: Path) -> None:
    """Raises OSError where a trace ends early: torch's library writes what the disk takes and says nothing."""
    with open(trace, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 16))
        if not file.read().rstrip().endswith(b"}"):
            raise OSError(errno.EIO, "the disk did not take all of it")
