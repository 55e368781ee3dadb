"""The process that writes checkpoints beside the training: `python -m jadeberta.checkpoint.writer_process DESCRIPTOR BYTES PARENT`.

Reads commands on standard input and answers each, in order (`writer_messages.py`). It is a process of its own because a thread that
hashes and writes would take the interpreter from the training. Knows bytes and names, no tensors, and ends with the training process.
"""

import contextlib
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jadeberta.checkpoint.commit import Files, discard, prepare, prune, publish, require_space, write_file
from jadeberta.checkpoint.manifest import directory_name, verify
from jadeberta.checkpoint.staging import StagingFolder
from jadeberta.checkpoint.writer_messages import (
    Answer,
    Command,
    DiscardCommand,
    PruneCommand,
    PublishCommand,
    TrustCommand,
    VerifyCommand,
    WriteCommand,
    answer_to,
    decode_command,
    encode,
)
from jadeberta.errors import CheckpointError
from jadeberta.utils.processes import end_with_parent

NICENESS = 19
"""Lowest priority: the training's own processes go first."""


class Writer:
    """Carries out the commands of one rank."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.trusted: set[str] = set()
        """Names of checkpoints that a process of this run has read back and found right."""

    def answer(self, command: Command) -> Answer:
        """Carries out a command and answers it; a failure is an answer with `error` set."""
        began, error, result = time.monotonic(), None, {}
        try:
            result = self._carry_out(command)
        except OSError as e:
            error = f"{e.filename or ''}: {e.strerror or e}".lstrip(": ")
        except CheckpointError as e:
            error = str(e)
        except Exception as e:  # whatever it is, the training must be informed and go on
            error = f"{type(e).__name__}: {e}"
        return answer_to(command, time.monotonic() - began, error, **result)

    def _carry_out(self, command: Command) -> dict[str, Any]:
        """Returns what the answer carries beside error and time."""
        match command:
            case WriteCommand():
                return {"files": self._write(command)}
            case PublishCommand():
                # A roll-back may have undone an older checkpoint of this name, which was trusted.
                self.trusted.discard(directory_name(command.step))
                publish(Path(command.root), command.step, command.files)
            case DiscardCommand():
                discard(Path(command.root), command.step)
            case VerifyCommand():
                return {"faults": self._read_back(Path(command.root) / directory_name(command.step))}
            case TrustCommand():
                self.trusted.add(directory_name(command.step))
            case PruneCommand():
                removed = prune(Path(command.root), command.keep_last, command.keep_every, self._is_trusted)
                return {"removed": [directory.name for directory in removed]}
        return {}

    def _write(self, command: WriteCommand) -> Files:
        directory = prepare(Path(command.root), command.step, command.space_needed)
        if not command.staging:
            return self._write_files(lambda name, content: write_file(directory / name, content), command)
        # The node's own disk first; the shared file system then gets a copy of what is already safe there.
        with StagingFolder(Path(command.staging), Path(command.root), command.rank) as staged:
            require_space(staged.path, sum(file.size for file in command.files))
            files = self._write_files(staged.write, command)
            staged.sync()
            for name, (_, sha) in files.items():
                # The copy is hashed while it is read: a bad disk of the node must not give a checkpoint with a right hash.
                if staged.copy(name, directory / name) != sha:
                    raise CheckpointError(f"{staged.path / name}: is not what was written there; look at the disk of this node.")
        return files

    def _write_files(self, write: Callable[[str, Any], tuple[int, str]], command: WriteCommand) -> Files:
        files = {}
        for file in command.files:
            files[file.name] = write(file.name, self.memory[file.offset : file.offset + file.size])
        for name, text in command.texts.items():
            files[name] = write(name, text.encode())
        return files

    def _read_back(self, directory: Path) -> list[str]:
        """Reads a checkpoint from the disk, not from the page cache as far as the kernel allows, and returns its faults."""
        for path in directory.iterdir():
            # A file that does not belong there may be gone, locked up, or a pipe; those that do are read below.
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)
        return self._verify(directory)

    def _is_trusted(self, directory: Path) -> bool:
        return directory.name in self.trusted or not self._verify(directory)

    def _verify(self, directory: Path) -> list[str]:
        faults = verify(directory)
        if not faults:
            self.trusted.add(directory.name)
        return faults


def serve(writer: Writer) -> None:
    """Answers commands until the training process closes the pipe."""
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(encode(writer.answer(decode_command(line))))
        sys.stdout.buffer.flush()


def main() -> None:
    """Command line of the process: the memory's descriptor, its size in bytes, and the id of the training process."""
    descriptor, size, parent = map(int, sys.argv[1:4])
    end_with_parent(parent)
    os.nice(NICENESS)
    memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
    serve(Writer(memoryview(memory)))
    os._exit(0)


if __name__ == "__main__":
    main()
