"""Engines that are libraries: each works in a child process (`engines/engine_process.py`), so that its crash costs one sentence."""

import contextlib
import mmap
import os
import select
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from jadeberta.utils.processes import helper_signals_blocked
from preprocess.config import SegmenterConfig
from preprocess.engines.engine_process import SIZE_BYTES
from preprocess.segmenters.base import Rejected, Spaced
from preprocess.segmenters.isolating import Interrupted, Isolating, Outcome
from preprocess.segmenters.lines import joined
from preprocess.segmenters.process import content_of, how_ended, kill, memory_file

ROOT = str(Path(__file__).resolve().parents[2])
"""Folder that holds this project's packages."""
START_SECONDS = 300.0
"""Time that a library may take to load: many ranks read it from one file server at the same time."""


class EngineProcess:
    """One child process. One that has failed cannot be asked again."""

    def __init__(self, engine: str, memory_mib: int) -> None:
        """Args:
        engine: see `engine_process.main`.
        memory_mib: limit of its address space, in MiB.
        """
        with ExitStack() as stack:
            self._files = [stack.enter_context(memory_file()) for _ in range(4)]
            self._requests, self._answers, progress, self._complaint = self._files
            progress.truncate(SIZE_BYTES)
            self._progress = memoryview(mmap.mmap(progress.fileno(), SIZE_BYTES)).cast("Q")
            numbers = [file.fileno() for file in self._files[:3]]
            arguments = map(str, (os.getpid(), memory_mib, engine, *numbers))
            # Signals of the job go to every process of it; only its end and ours end the child.
            with helper_signals_blocked():
                self._process = subprocess.Popen(
                    # -P: what lies in the working directory is not imported; the packages are found from anywhere by their own place.
                    [sys.executable, "-P", "-m", "preprocess.engines.engine_process", *arguments],
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._complaint,
                    pass_fds=numbers,
                    start_new_session=True,
                )
            stack.pop_all()
        self.owner, self._is_ready = os.getpid(), False

    def ask(self, lines: list[str], patience: float) -> Outcome:
        """Returns the answer to each line.

        Args:
            lines: lines without newlines, at least one.
            patience: time in seconds that one line may take.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        content = "\n".join(lines).encode()
        self._requests.truncate(0)
        self._requests.seek(0)
        self._requests.write(content)
        self._progress[0] = 0
        try:
            os.write(self._process.stdin.fileno(), len(content).to_bytes(SIZE_BYTES))
        except BrokenPipeError:
            return self._failed(self._crash())
        poll, before = select.poll(), -1
        poll.register(self._process.stdout, select.POLLIN)
        if not self._is_ready:
            if not poll.poll(START_SECONDS * 1000):
                return self._failed(Rejected("timeout", f"not loaded within {START_SECONDS:.0f} s"))
            if not os.read(self._process.stdout.fileno(), SIZE_BYTES):
                return self._failed(self._crash())
            self._is_ready = True
        while not poll.poll(patience * 1000):
            if self._progress[0] == before:
                return self._failed(Rejected("timeout", f"no answer within {patience:.0f} s"))
            before = self._progress[0]
        size = os.read(self._process.stdout.fileno(), SIZE_BYTES)
        if not size:
            return self._failed(self._crash())
        answers = os.pread(self._answers.fileno(), int.from_bytes(size), 0).decode().split("\n")
        return answers if len(answers) == len(lines) else Rejected("mismatch", f"{len(answers)} answers to {len(lines)} lines")

    def _crash(self) -> Rejected:
        return Rejected("crash", how_ended(self._process.wait(), content_of(self._complaint)))

    def _failed(self, rejected: Rejected) -> Interrupted:
        place = self._progress[0]
        self.close()
        return Interrupted(rejected.reason, rejected.detail, suspect=place)

    def close(self) -> None:
        """Ends the process, unless it is another process's child."""
        if os.getpid() != self.owner:
            return
        kill(self._process)
        self._process.wait()
        for file in (*self._files, self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                file.close()  # type: ignore[union-attr]


class InChild(Isolating):
    """A segmentation library in a child process."""

    engine: ClassVar[str]
    """Function that loads the library in the child, as MODULE:FUNCTION; see `engine_process.main`."""
    fragments: Callable[[str], list[str]] = staticmethod(lambda line: [line])
    """Splits a line into fragments that the library can bear."""
    _process: EngineProcess | None = None

    def __init__(self, config: SegmenterConfig) -> None:
        """Raises:
        SegmenterError: the library cannot be loaded, or does not segment a plain sentence.
        """
        self._config = config
        self._require_health()

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        self._failures = 0
        cut = [self.fragments(line) for line in lines]
        self.cut_sentences += sum(len(parts) > 1 for parts in cut)
        fed = [part for parts in cut for part in parts]
        answers: list[Spaced] = []
        for start in range(0, len(fed), self._config.batch_sentences):
            batch = fed[start : start + self._config.batch_sentences]
            answers += self._settle(batch, self._run(batch))
        if len(fed) == len(lines):
            return answers
        rest = iter(answers)
        return [joined([next(rest) for _ in parts]) for parts in cut]

    def _run(self, batch: list[str]) -> Outcome:
        outcome: Outcome | None = None
        try:
            # A process made by fork must not share its parent's child.
            if self._process is None or self._process.owner != os.getpid():
                self._process = EngineProcess(self.engine, self._config.memory_mib)
                self._finalizer = weakref.finalize(self, self._process.close)
            outcome = self._process.ask(batch, self._patience)
        except OSError as e:
            outcome = Rejected("crash", f"no process or no memory for it ({e})")
        finally:
            # After an interruption too: a late answer must not be taken for the next one.
            if outcome is None or isinstance(outcome, Rejected):
                self.close()
        return outcome

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # Else the object of every process that has failed would be kept to the end.
            self._finalizer.detach()
            process.close()
