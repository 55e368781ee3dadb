"""The training process's end of the writer process: sends commands and takes answers, and never waits unless asked to."""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import time
from typing import Any

import orjson

from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.utils.processes import helper_signals_blocked

PIPE_BYTES = 1 << 20
ENDED = "the process that writes checkpoints ended"


class WriterProcess:
    """One writer with the memory it reads; a dead one is replaced at the next command."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._process: subprocess.Popen | None = None
        self._unread = b""
        self._reason = ENDED
        self.unanswered: list[dict[str, Any]] = []
        """Commands sent and not answered yet, oldest first."""

    def send(self, op: str, **fields: Any) -> None:
        """Sends a command; a writer that cannot take it fails it, which `poll` reports."""
        command = {"op": op, **fields}
        self.unanswered.append(command)
        if self._process is None:
            try:
                self._process = self._start()
            except OSError as e:
                self._reason = f"no process that writes checkpoints can be started ({e.strerror})"
                return
        line = orjson.dumps(command, option=orjson.OPT_APPEND_NEWLINE)
        assert self._process.stdin is not None
        try:
            if os.write(self._process.stdin.fileno(), line) < len(line):
                self.give_up()  # more than the pipe holds, behind commands that it has not taken: it is stuck
        except OSError:
            self.give_up()

    def poll(self) -> list[dict[str, Any]]:
        """Answers that have come; where the writer is dead, every open command is answered with an error."""
        if self._process is None:
            answers = [self._failed(c, self._reason) for c in self.unanswered]
            self.unanswered.clear()
            return answers
        assert self._process.stdout is not None
        alive = True
        while alive and select.select([self._process.stdout], [], [], 0)[0]:
            received = os.read(self._process.stdout.fileno(), 1 << 16)
            self._unread += received
            alive = bool(received)
        *lines, self._unread = self._unread.split(b"\n")
        answers = [orjson.loads(line) for line in lines]
        del self.unanswered[: len(answers)]
        if not alive:
            self.give_up()
            answers += self.poll()
        return answers

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """Like `poll`, but waits up to some seconds for the first answer."""
        if self._process is not None and self._process.stdout is not None:
            select.select([self._process.stdout], [], [], seconds)
        return self.poll()

    def give_up(self, reason: str = ENDED) -> None:
        """Ends the writer, whatever it does; its commands fail for this reason. One that the kernel cannot end is left behind."""
        self._reason = reason
        if self._process is None:
            return
        process, self._process, self._unread = self._process, None, b""
        process.kill()
        deadline = time.monotonic() + 1.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """Ends the writer, whatever it does, and forgets what it was told."""
        self.give_up()
        self.unanswered.clear()

    def _start(self) -> subprocess.Popen:
        with helper_signals_blocked():
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jadeberta.checkpoint.writer_process",
                    str(self._snapshot.descriptor),
                    str(self._snapshot.size),
                    str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(self._snapshot.descriptor,),
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        with contextlib.suppress(OSError):  # the kernel's usual 64 KiB would do for all but a recipe of very many corpora
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return process

    @staticmethod
    def _failed(command: dict[str, Any], reason: str) -> dict[str, Any]:
        return {"op": command["op"], "step": command.get("step"), "error": reason, "seconds": 0.0}
