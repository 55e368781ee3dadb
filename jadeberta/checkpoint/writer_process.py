"""The process that writes checkpoints beside the training: `python -m jadeberta.checkpoint.writer_process DESCRIPTOR BYTES`.

Takes one JSON command a line on standard input and answers each with one line. A process of its own, because a thread that hashes and
writes would take the interpreter from the training's. Knows bytes and names, no tensors, and dies with the training process.
"""

import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from jadeberta.checkpoint.commit import Files, discard, prepare, prune, publish, require_space, write_file
from jadeberta.checkpoint.manifest import directory_name, verify
from jadeberta.errors import CheckpointError
from jadeberta.utils.files import sync_directory
from jadeberta.utils.processes import end_with_parent

NICENESS = 19


class Writer:
    """Answers the commands; every answer carries `error`, null or a sentence."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.trusted: set[str] = set()
        """Names of checkpoints whose bytes this process has read back and found right."""

    def write(self, command: dict[str, Any]) -> dict[str, Any]:
        """Writes this rank's files; `files` in the answer are their sizes and hashes."""
        step = command["step"]
        directory = prepare(Path(command["root"]), step, command["need"])
        if not command["staging"]:
            return {"files": self._write_files(directory, command)}
        # Onto the node's own disk first; the shared file system gets a copy of what lies there safely.
        staging = Path(command["staging"])
        staging.mkdir(parents=True, exist_ok=True)
        require_space(staging, sum(size for _, _, size in command["images"]))
        staged = staging / directory.name
        staged.mkdir(exist_ok=True)
        try:
            files = self._write_files(staged, command)
            sync_directory(staged)
            for name, (_, sha) in files.items():
                if _copy(staged / name, directory / name) != sha:
                    raise CheckpointError(f"{staged / name}: is not what was written there; look at the disk of this node.")
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return {"files": files}

    def _write_files(self, directory: Path, command: dict[str, Any]) -> Files:
        files = {}
        for name, offset, size in command["images"]:
            files[name] = write_file(directory / name, self.memory[offset : offset + size])
        for name, text in command["texts"].items():
            files[name] = write_file(directory / name, text.encode())
        for source in map(Path, command["copies"]):
            files[source.name] = write_file(directory / source.name, source.read_bytes())
        return files

    def publish(self, command: dict[str, Any]) -> dict[str, Any]:
        """Commits what all ranks have written."""
        files = {name: (size, sha) for name, (size, sha) in command["files"].items()}
        self.trusted.discard(directory_name(command["step"]))  # of an undone one with this name
        publish(Path(command["root"]), command["step"], files)
        return {}

    def discard(self, command: dict[str, Any]) -> dict[str, Any]:
        discard(Path(command["root"]), command["step"])
        return {}

    def verify(self, command: dict[str, Any]) -> dict[str, Any]:
        """Reads a checkpoint back, from the disk as far as the kernel lets us, and says what is wrong with it."""
        directory = Path(command["root"]) / directory_name(command["step"])
        for path in directory.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        return {"faults": self._verify(directory)}

    def _verify(self, directory: Path) -> list[str]:
        faults = verify(directory)
        if not faults:
            self.trusted.add(directory.name)
        return faults

    def trust(self, command: dict[str, Any]) -> dict[str, Any]:
        """Another process of the run has read this checkpoint."""
        self.trusted.add(directory_name(command["step"]))
        return {}

    def prune(self, command: dict[str, Any]) -> dict[str, Any]:
        """Removes what newer trusted checkpoints cover; reads those that it does not know."""
        removed = prune(
            Path(command["root"]),
            command["keep_last"],
            command["keep_every"],
            lambda directory: directory.name in self.trusted or not self._verify(directory),
        )
        return {"removed": [directory.name for directory in removed]}


def _copy(source: Path, target: Path) -> str:
    """Writes and flushes a copy; returns the sha256 of what was read."""
    with open(source, "rb") as f:
        whole = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) if source.stat().st_size else b""
        return write_file(target, whole)[1]


def serve(writer: Writer) -> None:
    """Answers commands until the training process closes the pipe."""
    operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        name: getattr(writer, name) for name in ("write", "publish", "discard", "verify", "trust", "prune")
    }
    for line in sys.stdin.buffer:
        command = orjson.loads(line)
        began, error, result = time.monotonic(), None, {}
        try:
            result = operations[command["op"]](command)
        except OSError as e:
            error = f"{e.filename or ''}: {e.strerror or e}".lstrip(": ")
        except CheckpointError as e:
            error = str(e)
        except Exception as e:  # whatever it is, training must hear of it and go on
            error = f"{type(e).__name__}: {e}"
        answer = {"op": command["op"], "step": command.get("step"), "error": error, "seconds": time.monotonic() - began, **result}
        sys.stdout.buffer.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()


def main() -> None:
    parent = int(sys.argv[3])
    end_with_parent(parent)
    os.nice(NICENESS)
    memory = mmap.mmap(int(sys.argv[1]), int(sys.argv[2]), prot=mmap.PROT_READ)
    serve(Writer(memoryview(memory)))
    os._exit(0)


if __name__ == "__main__":
    main()
