"""What one rank finds out by itself, before it meets the others: a rank that never meets them has still said what it saw."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import orjson

from jadeberta.cluster.environment import Process, host_name
from jadeberta.config import Recipe
from jadeberta.errors import JadebertaError
from jadeberta.preflight.host_info import job_key, look_at_device, stale_processes, versions
from jadeberta.preflight.results import Fault, Findings
from jadeberta.preflight.storage_info import checkpoint_directories, index_hash, look_at_disk, missing_shards
from jadeberta.preflight.timeouts import TimedOut, bounded
from jadeberta.utils.files import write_atomically

LOOK_S = 10.0
"""A check that is not back by then hangs: each takes milliseconds, on a cold network disk a second or two."""


def look_around(recipe: Recipe, process: Process, env: Mapping[str, str]) -> Findings:
    """Everything that one rank sees alone; what fails or hangs becomes a fault and does not keep the rest from being looked at."""
    from jadeberta.utils.memory import available_memory

    found = Findings(process.rank, process.local_rank, host_name(env), os.getpid())
    found.information["kernel"] = os.uname().release
    found.memory_free_bytes = available_memory()
    try:
        found.versions |= bounded(LOOK_S, versions)
    except (OSError, TimedOut) as e:
        found.faults.append(Fault("program", f"its own files cannot be read ({_reason(e)})"))
    _look_at_shards(recipe, process, found)
    for key, directory in checkpoint_directories(recipe).items():
        try:
            found.disks[key] = bounded(LOOK_S, look_at_disk, directory)
        except (OSError, TimedOut) as e:
            found.faults.append(Fault(key, f"{key} {directory}: cannot be written to ({_reason(e)})"))
    try:
        bounded(2 * LOOK_S, look_at_device, recipe.run.device, found)
    except (RuntimeError, OSError, TimedOut) as e:  # torch raises the first
        found.device = ""
        found.faults.append(Fault("device", f"the GPU of local rank {process.local_rank} cannot be used ({_reason(e)})"))
    if process.local_rank == 0:
        found.warnings += stale_processes()
    return found


def _look_at_shards(recipe: Recipe, process: Process, found: Findings) -> None:
    where = f"data.shards {recipe.data.shards}"
    try:
        found.index_sha256 = bounded(LOOK_S, index_hash, recipe.data.shards)
        # Once a host: its ranks see the same files.
        missing = bounded(LOOK_S, missing_shards, recipe.data.shards) if process.local_rank == 0 else []
    except (JadebertaError, OSError, TimedOut) as e:
        found.faults.append(Fault("shards", f"{where}: {_reason(e)}"))
        return
    if missing:
        told = f"{where}: {missing[0]}" + (
            f", and {len(missing) - 1} files more are not as index.json says" if missing[1:] else ""
        )
        if recipe.data.damaged != "stop":
            found.warnings.append(f"{told}; training leaves them out")
        else:
            found.faults.append(Fault("shards", told))


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(text.splitlines()), type(error).__name__).rstrip(".")


class Book:
    """The files in which ranks leave what they found, one each, in a directory of this start's own."""

    def __init__(self, run_dir: Path, env: Mapping[str, str], rank: int) -> None:
        self.directory = run_dir / "preflight" / job_key(env)
        self._path = self.directory / f"rank-{rank:05d}.json"

    def write(self, found: Findings) -> None:
        """Leaves this rank's file, whole or not at all; a disk that does not take it is told of in the findings."""
        try:
            bounded(LOOK_S, self._write, orjson.dumps(found))
        except (OSError, TimedOut) as e:
            if not any(fault.kind == "run.dir" for fault in found.faults):
                found.faults.append(Fault("run.dir", f"run.dir: {self._path} cannot be written ({_reason(e)})"))

    def _write(self, content: bytes) -> None:
        write_atomically(self._path, content)

    def remove_others(self) -> None:
        """Removes what earlier starts have left."""
        for directory in self.directory.parent.glob("*"):
            if directory != self.directory:
                shutil.rmtree(directory, ignore_errors=True)

    def remove(self) -> None:
        """Removes the files of this start: all is well, and the account holds what they hold."""
        with contextlib.suppress(OSError, TimedOut):
            bounded(LOOK_S, shutil.rmtree, self.directory.parent, True)

    def read(self) -> dict[int, Findings]:
        """What ranks have left, by rank; empty where the directory cannot be read."""
        try:
            return bounded(LOOK_S, self._read)
        except (OSError, TimedOut):
            return {}

    def _read(self) -> dict[int, Findings]:
        files = sorted(self.directory.glob("rank-*.json"))
        found = [Findings.of(orjson.loads(path.read_bytes())) for path in files]
        return {each.rank: each for each in found}
