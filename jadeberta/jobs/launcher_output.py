"""Runs mpirun, and leaves out what it says about an error that the program has stated itself:
`python -m jadeberta.jobs.launcher_output -- mpirun -n 2 ...`.

The sentence of the program comes last. What a launcher says without such a sentence, for example that a rank was killed, is shown. Standard
output is the program's own, and the exit status is the launcher's.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from jadeberta.utils.processes import end_with_parent

SENTENCE = re.compile(
    r"^(?:rank \d+ on \S+: )?(?:\w+Error|StopRequested|RequeueRequested|NothingToResume): |^python -m \w+: error: |^interrupted"
)
"""The line with which a program of this project states why it ends."""
RULE = re.compile(r"^-{60,}$")
"""Line above and below what Open MPI has to say."""
NOISE = re.compile(r"PMIX ERROR|^prterun|^\[[\w.-]+:\d+\] ")
"""Its other lines."""
HELD_SECONDS = 5.0
"""Longest time for which a sentence is held back for the end: a launcher may hang over it."""
SENTENCE_FILE = "JADEBERTA_SENTENCE_FILE"
"""Variable that names a file for the sentence, which is then not printed at the end: make prints it as its own last line."""


class LauncherOutput:
    """Decides line by line what of a launcher's standard error is shown, and when."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.sentence, self.held_since = "", 0.0
        self.noise: list[str] = []
        self._inside = False

    def take(self, line: str, now: float) -> None:
        """Takes a line without its end.

        Args:
            line: of the launcher's standard error.
            now: monotonic time, seconds.
        """
        if RULE.match(line):
            self._inside = not self._inside
            self.noise.append(line)
        elif self._inside or NOISE.search(line):
            self.noise.append(line)
        elif SENTENCE.match(line) and not self.sentence:
            self.sentence, self.held_since = line, now
        elif line != self.sentence:
            print(line, file=self.out, flush=True)

    def show_held(self, now: float) -> None:
        """Shows the sentence where it has been held for long; the end repeats it."""
        if self.held_since and now - self.held_since > HELD_SECONDS:
            print(self.sentence, file=self.out, flush=True)
            self.held_since = 0.0

    def finish(self, sentence_file: Path | None = None) -> None:
        """Shows the sentence last, or the noise where there is none.

        Args:
            sentence_file: takes the sentence instead.
        """
        if not self.sentence:
            print(*self.noise, sep="\n", end="\n" * bool(self.noise), file=self.out, flush=True)
        elif sentence_file is not None:
            sentence_file.write_text(self.sentence + "\n", encoding="utf-8")
        else:
            print(self.sentence, file=self.out, flush=True)


def run(command: list[str], out: TextIO = sys.stderr) -> int:
    """Runs a launcher to its end; returns its status as a shell reports it.

    Args:
        command: program and arguments.
        out: takes what is shown of its standard error.
    """
    parent = os.getpid()
    try:
        launcher = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=lambda: end_with_parent(parent, signal.SIGTERM))
    except OSError as e:
        print(f"{command[0]}: cannot be started ({e.strerror}); run 'make setup'.", file=out)
        return 127
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: launcher.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the launcher too
    try:
        shown = _follow(launcher, out)
        status = launcher.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    file = os.environ.get(SENTENCE_FILE)
    shown.finish(Path(file) if file and status else None)
    return 128 - status if status < 0 else status


def _follow(launcher: subprocess.Popen, out: TextIO) -> LauncherOutput:
    """Shows a launcher's standard error until it is closed, or the launcher has ended and nothing comes any more."""
    assert launcher.stderr is not None
    shown, rest, descriptor = LauncherOutput(out), b"", launcher.stderr.fileno()
    while True:
        if select.select([descriptor], [], [], 1.0)[0]:
            if not (chunk := os.read(descriptor, 65536)):
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                shown.take(line.decode(errors="replace"), time.monotonic())
        elif launcher.poll() is not None:
            break  # a process that it left behind holds the pipe open
        shown.show_held(time.monotonic())
    if rest:
        shown.take(rest.decode(errors="replace"), time.monotonic())
    return shown


def main() -> None:
    """Runs the command line after --, and ends with its status."""
    arguments = sys.argv[1:]
    sys.exit(run(arguments[1:] if arguments[:1] == ["--"] else arguments))


if __name__ == "__main__":
    main()
