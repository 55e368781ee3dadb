"""The training process's end of the writer process: sends commands and collects answers. Never waits, except in `wait`."""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import time

from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.checkpoint.writer_messages import Answer, Command, answer_to, decode_answer, encode
from jadeberta.utils.processes import helper_signals_blocked

PIPE_BYTES = 1 << 20
"""Size asked for the pipe of commands: sending must never block, so it has to hold the largest command, which carries a recipe."""
ENDED = "the process that writes checkpoints ended"


class WriterClient:
    """One writer process with the memory that it reads; a dead one is replaced at the next command."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._process: subprocess.Popen | None = None
        self._unread = b""
        self._reason = ENDED
        self.unanswered: list[Command] = []
        """Commands sent and not answered yet, oldest first."""

    def send(self, command: Command) -> None:
        """Sends a command; where the writer cannot take it, `poll` answers it with an error."""
        self.unanswered.append(command)
        if self._process is None:
            if len(self.unanswered) > 1:
                return  # a new writer would answer the commands of the dead one; `poll` answers all of them with an error
            try:
                self._process = self._start()
            except OSError as e:
                self._reason = f"no process that writes checkpoints can be started ({e.strerror})"
                return
        line = encode(command)
        assert self._process.stdin is not None
        try:
            if os.write(self._process.stdin.fileno(), line) < len(line):
                self.give_up()  # the pipe is full of commands that the writer has not read: it is stuck
        except OSError:
            self.give_up()

    def poll(self) -> list[Answer]:
        """Returns the answers that have come; where the writer is dead, every open command is answered with an error."""
        if self._process is None:
            answers = [answer_to(command, 0.0, self._reason) for command in self.unanswered]
            self.unanswered.clear()
            return answers
        assert self._process.stdout is not None
        alive = True
        while alive and select.select([self._process.stdout], [], [], 0)[0]:
            received = os.read(self._process.stdout.fileno(), 1 << 16)
            self._unread += received
            alive = bool(received)
        *lines, self._unread = self._unread.split(b"\n")
        answers = [decode_answer(line) for line in lines]
        # The writer answers in order, so the oldest commands are the answered ones.
        del self.unanswered[: len(answers)]
        if not alive:
            self.give_up()
            answers += self.poll()
        return answers

    def wait(self, seconds: float) -> list[Answer]:
        """Like `poll`, but waits up to some seconds for the first answer."""
        if self._process is not None and self._process.stdout is not None:
            select.select([self._process.stdout], [], [], seconds)
        return self.poll()

    def give_up(self, reason: str = ENDED) -> None:
        """Kills the writer, whatever it is doing; its open commands fail for this reason.

        A process that hangs in the kernel, in a write to a dead disk, cannot be killed. It is left behind, and ends with the job.
        """
        self._reason = reason
        if self._process is None:
            return
        process, self._process, self._unread = self._process, None, b""
        process.kill()
        # A short wait reaps the process in the ordinary case; the kernel gives no event that could be waited for with a limit.
        deadline = time.monotonic() + 1.0
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """Kills the writer and drops the commands that it has not answered."""
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
