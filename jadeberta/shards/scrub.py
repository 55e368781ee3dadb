"""Hashes the shards of a directory without sums, beside the training: `python -m jadeberta.shards.scrub DIRECTORY --rank 0 --world 1`.

Where every row has a sum, rows are checked as they are read and nothing is swept. The process has the lowest priority, leaves signals
to the training process, and ends with it. It prints a JSON object for each faulty shard, and one when it is done.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Literal

import orjson

from jadeberta.shards.index import ShardEntry, ShardIndex, find_index
from jadeberta.shards.reader import SetAside, ShardReader
from jadeberta.utils.files import file_sha256
from jadeberta.utils.processes import JOB_SIGNALS, end_with_parent, helper_signals_blocked


class Sweep:
    """A sweep in a process of its own: every rank takes its share of the training shards, and asks now and then what was found."""

    def __init__(self, reader: ShardReader, rank: int, world_size: int) -> None:
        """Starts the process, where some training shard has no sums; the calling thread must live as long as the sweep."""
        self.state: Literal["not needed", "running", "done", "broken"] = "not needed"
        """broken: the process ended before it had read everything."""
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        if all(entry.sums_sha256 for entry in _training_shards(reader.index)):
            return
        command = [sys.executable, "-m", "jadeberta.shards.scrub", str(reader.directory)]
        command += ["--rank", str(rank), "--world", str(world_size), "--parent", str(os.getpid())]
        with helper_signals_blocked():
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.state = "running"
        os.set_blocking(self._pipe.fileno(), False)

    def faults(self) -> list[SetAside]:
        """Shards found faulty since the last call, each a record of a whole shard; never waits."""
        if self._process is None:
            return []
        found, ended = [], False
        while not ended:
            try:
                content = os.read(self._pipe.fileno(), 65536)
            except BlockingIOError:
                break
            ended = not content
            *lines, self._pending = (self._pending + content).split(b"\n")
            for message in map(orjson.loads, lines):
                if "done" in message:
                    self.state = "done"
                else:
                    found.append(SetAside(message["file"], 0, 0, message["reason"], message["sequences"], whole_shard=True))
        if ended and self.state == "running":
            self.state = "broken"
        if self.state != "running":
            self.close()
        return found

    def close(self) -> None:
        """Ends the process, wherever it is."""
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
    """What is wrong with a tar file, read from end to end; None where nothing is."""
    try:
        found = file_sha256(path)
    except OSError as e:
        return f"{path}: reading it failed ({e.strerror})."
    if found != entry.sha256:
        return f"{path}: sha256 differs from index.json (expected {entry.sha256[:12]}…, found {found[:12]}…)."
    return None


def main() -> None:
    """Ends with status 0 when all shards of this share were read, faulty or not."""
    parser = argparse.ArgumentParser(prog="python -m jadeberta.shards.scrub", description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path, help="holds index.json")
    parser.add_argument(
        "--rank", type=int, default=0, help="which share of the training shards: those whose number leaves this rest"
    )
    parser.add_argument("--world", type=int, default=1, help="number of shares")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process that this one must not outlive")
    options = parser.parse_args()
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(options.parent)
    os.nice(19)
    try:
        _sweep(options.directory, options.rank, options.world)
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more; an ordinary exit would complain when it flushes


def _sweep(directory: Path, rank: int, world: int) -> None:
    index_path = find_index(directory)
    entries = _training_shards(ShardIndex.load(index_path))[rank::world]
    for entry in entries:
        if reason := shard_reason(index_path.parent / entry.file, entry):
            _say({"file": entry.file, "reason": reason, "sequences": entry.sequences})
    _say({"done": True, "shards": len(entries), "bytes": sum(entry.bytes for entry in entries)})


def _training_shards(index: ShardIndex) -> list[ShardEntry]:
    return [entry for corpus in index.corpora.values() for entry in corpus.train]


def _say(message: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
