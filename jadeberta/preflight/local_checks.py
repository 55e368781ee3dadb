"""Checks that a rank runs by itself before the rendezvous; their results are written to a file, so a rank that never arrives is
diagnosed too."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import orjson

from jadeberta.cluster.environment import Process, host_name
from jadeberta.config import Recipe
from jadeberta.errors import JadebertaError
from jadeberta.preflight.host_info import check_device, job_key, stale_processes, versions
from jadeberta.preflight.process_limits import check_limits
from jadeberta.preflight.results import Fault, LocalResults
from jadeberta.preflight.storage_info import checkpoint_directories, disk_space, index_hash, missing_shards
from jadeberta.preflight.timeouts import TimedOut, call_with_timeout
from jadeberta.utils.files import write_atomically

CHECK_S = 10.0
"""Time limit of a check, seconds. Each takes milliseconds, on a cold network disk a second or two; a longer one hangs."""


def run_local_checks(recipe: Recipe, process: Process, env: Mapping[str, str]) -> LocalResults:
    """Runs all local checks of a rank; a check that fails or hangs becomes a fault and does not stop the others."""
    from jadeberta.utils.memory import available_memory

    results = LocalResults(process.rank, process.local_rank, host_name(env), os.getpid())
    results.information["kernel"] = os.uname().release
    results.memory_free_bytes = available_memory()
    try:
        results.versions |= call_with_timeout(CHECK_S, versions)
    except (OSError, TimedOut) as e:
        results.faults.append(Fault("program", f"its own files cannot be read ({_reason(e)})"))
    _check_shards(recipe, process, results)
    for key, directory in checkpoint_directories(recipe).items():
        try:
            results.disks[key] = call_with_timeout(CHECK_S, disk_space, directory)
        except (OSError, TimedOut) as e:
            results.faults.append(Fault(key, f"{key} {directory}: cannot be written to ({_reason(e)})"))
    try:
        call_with_timeout(2 * CHECK_S, check_device, recipe.run.device, results)
    except (RuntimeError, OSError, TimedOut) as e:  # torch raises the first
        results.device = ""
        results.faults.append(Fault("device", f"the GPU of local rank {process.local_rank} cannot be used ({_reason(e)})"))
    # Once per host: its ranks see the same processes, and have the same limits.
    if process.local_rank == 0:
        faults, warnings = check_limits(process.world_size, results.device == "cuda")
        results.faults += faults
        results.warnings += warnings
        results.warnings += stale_processes()
    return results


def _check_shards(recipe: Recipe, process: Process, results: LocalResults) -> None:
    where = f"data.shards {recipe.data.shards}"
    try:
        results.index_sha256 = call_with_timeout(CHECK_S, index_hash, recipe.data.shards)
        # Once per host: its ranks see the same files.
        missing = call_with_timeout(CHECK_S, missing_shards, recipe.data.shards) if process.local_rank == 0 else []
    except (JadebertaError, OSError, TimedOut) as e:
        results.faults.append(Fault("shards", f"{where}: {_reason(e)}"))
        return
    if missing:
        more = f", and {len(missing) - 1} more files differ from index.json" if missing[1:] else ""
        sentence = f"{where}: {missing[0]}{more}"
        if recipe.data.damaged != "stop":
            results.warnings.append(f"{sentence}; training excludes them")
        else:
            results.faults.append(Fault("shards", sentence))


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(text.splitlines()), type(error).__name__).rstrip(".")


class RankFiles:
    """The files with the local results of the ranks, one per rank, in a directory for each attempt."""

    def __init__(self, run_dir: Path, env: Mapping[str, str], rank: int) -> None:
        self.directory = run_dir / "preflight" / job_key(env)
        self._path = self.directory / f"rank-{rank:05d}.json"

    def write(self, results: LocalResults) -> None:
        """Writes this rank's file atomically; a failure is added to the results as a fault."""
        try:
            call_with_timeout(CHECK_S, self._write, orjson.dumps(results))
        except (OSError, TimedOut) as e:
            if not any(fault.kind == "run.dir" for fault in results.faults):
                results.faults.append(Fault("run.dir", f"run.dir: {self._path} cannot be written ({_reason(e)})"))

    def _write(self, content: bytes) -> None:
        write_atomically(self._path, content)

    def remove_others(self) -> None:
        """Removes the files of earlier attempts."""
        for directory in self.directory.parent.glob("*"):
            if directory != self.directory:
                shutil.rmtree(directory, ignore_errors=True)

    def remove(self) -> None:
        """Removes the files of this attempt: the allocation is fit, and the report has their content."""
        with contextlib.suppress(OSError, TimedOut):
            call_with_timeout(CHECK_S, shutil.rmtree, self.directory.parent, True)

    def read(self) -> dict[int, LocalResults]:
        """Reads the files of all ranks, by rank; empty if the directory cannot be read."""
        try:
            return call_with_timeout(CHECK_S, self._read)
        except (OSError, TimedOut):
            return {}

    def _read(self) -> dict[int, LocalResults]:
        files = sorted(self.directory.glob("rank-*.json"))
        results = [LocalResults.from_json(orjson.loads(path.read_bytes())) for path in files]
        return {each.rank: each for each in results}
