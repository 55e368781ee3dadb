"""Scrubs the shards of a directory beside the training: `python -m jadeberta.shards.scrub DIRECTORY --rank 0 --world 1`.

Scrubbing hashes whole tar files. It is needed only where shards have no row checksums; otherwise every row is checked when it is read.
The process has the lowest priority, ignores signals meant for the training process, and ends with it. It prints one JSON object a
faulty shard, and one when it is done.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Literal

import orjson

from jadeberta.errors import ResourceError, ShardError
from jadeberta.shards.index import ShardEntry, ShardIndex, find_index
from jadeberta.shards.open_files import retry_io
from jadeberta.shards.reader import ExcludedRows, ShardReader
from jadeberta.utils.files import file_sha256
from jadeberta.utils.paths import path_option
from jadeberta.utils.processes import JOB_SIGNALS, end_with_parent, helper_signals_blocked


class Scrubber:
    """Scrubs a rank's share of the training shards in a process of its own; the rank collects the faults now and then."""

    def __init__(self, reader: ShardReader, rank: int, world_size: int) -> None:
        """Starts the process where some training shard has no checksums.

        The calling thread must live as long as the scrub: the kernel kills the process when the thread that started it ends.
        """
        self.state: Literal["not needed", "running", "done", "broken"] = "not needed"
        """State of the scrub; broken: the process ended before it had read everything."""
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        if all(entry.sums_sha256 for entry in _training_shards(reader.index)):
            return
        command = [sys.executable, "-m", "jadeberta.shards.scrub", str(reader.directory)]
        command += ["--rank", str(rank), "--world", str(world_size), "--parent", str(os.getpid())]
        command += ["--sequence-length", str(reader.sequence_length)]
        with helper_signals_blocked():
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.state = "running"
        os.set_blocking(self._pipe.fileno(), False)

    def faults(self) -> list[ExcludedRows]:
        """Returns the shards found faulty since the last call, each as the record of a whole shard; never waits."""
        if self._process is None:
            return []
        found, ended = [], False
        while not ended:
            try:
                content = os.read(self._pipe.fileno(), 65536)
            except BlockingIOError:
                break
            ended = not content
            # A read may end inside a line; its rest comes with a later read.
            *lines, self._pending = (self._pending + content).split(b"\n")
            for message in map(orjson.loads, lines):
                if "done" in message:
                    self.state = "done"
                else:
                    found.append(ExcludedRows(message["file"], 0, 0, message["reason"], message["sequences"], whole_shard=True))
        if ended and self.state == "running":
            self.state = "broken"
        if self.state != "running":
            self.close()
        return found

    def close(self) -> None:
        """Kills the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._process = None

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout


def shard_reason(path: Path, entry: ShardEntry) -> str | None:
    """Reads a tar file from end to end and says what is wrong with it; None where nothing is.

    Raises:
        ResourceError: the process lacks something, or the file system does not answer.
    """
    try:
        found = retry_io(lambda: file_sha256(path), f"reading {path}")
    except OSError as e:
        return f"{path}: reading it failed ({e.strerror})."
    if found != entry.sha256:
        return f"{path}: sha256 differs from index.json (expected {entry.sha256[:12]}…, found {found[:12]}…)."
    return None


def main() -> None:
    """Command line of the process; exits with status 0 when all shards of this share were read, faulty or not."""
    parser = argparse.ArgumentParser(prog="python -m jadeberta.shards.scrub", description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=path_option, help="holds index.json")
    parser.add_argument(
        "--rank", type=int, default=0, help="share of the training shards: those whose number modulo --world is this"
    )
    parser.add_argument("--world", type=int, default=1, help="number of shares")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="id of the training process; this one ends with it")
    parser.add_argument("--sequence-length", type=int, help="only shards with rows of so many tokens; default: all")
    options = parser.parse_args()
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(options.parent)
    os.nice(19)
    try:
        _scrub(options.directory, options.rank, options.world, options.sequence_length)
    except (ResourceError, ShardError) as e:
        sys.exit(str(e))
    except BrokenPipeError:
        os._exit(1)  # the training process closed its end; an ordinary exit would raise again when it flushes


def _scrub(directory: Path, rank: int, world: int, sequence_length: int | None) -> None:
    index_path = find_index(directory)
    index = ShardIndex.load(index_path)
    try:
        entries = _training_shards(index if sequence_length is None else index.of_length(sequence_length))[rank::world]
    except ValueError as e:
        raise ShardError(f"{index_path}: {e}. Name one of these with --sequence-length.") from e
    for entry in entries:
        if reason := shard_reason(index_path.parent / entry.file, entry):
            _report({"file": entry.file, "reason": reason, "sequences": entry.sequences})
    _report({"done": True, "shards": len(entries), "bytes": sum(entry.bytes for entry in entries)})


def _training_shards(index: ShardIndex) -> list[ShardEntry]:
    return [entry for corpus in index.corpora.values() for entry in corpus.train]


def _report(message: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
