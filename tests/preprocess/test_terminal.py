"""`make shards` on a terminal, read as a person reads it: through make and mpirun, on a pseudo-terminal of 80 columns."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.preprocess import tiny_corpus as tiny

COLUMNS = 80
LEFT_OUT = ("COLUMNS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
"""Variables that the make of the test run, or its terminal, would hand on."""
LIVE = re.compile(r"^(extract|segment|tokenizer|pack)(: work of one rank| \d+\.\d%, )")
RECIPE = """
preprocess:
  segmenter: {engine: mecab}
  vocab_size: 110
  heldout_documents: 4
"""


class Screen:
    """The lines of a terminal that knows a carriage return, a new line, the erasing of a line's rest, and its width."""

    def __init__(self) -> None:
        self.lines, self.column = [""], 0

    def take(self, text: str) -> None:
        for part in re.findall(r"\x1b\[K|\r|\n|[^\x1b\r\n]", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.lines.append("")
            elif part == "\x1b[K":
                self.lines[-1] = self.lines[-1][: self.column]
            else:
                if self.column == COLUMNS:
                    self.lines.append("")
                    self.column = 0
                self.lines[-1] = self.lines[-1].ljust(self.column)[: self.column] + part + self.lines[-1][self.column + 1 :]
                self.column += 1


def show(command: list[str], timeout: int = 120) -> tuple[int, Screen, list[str]]:
    """Runs a command on a terminal; returns its status, the screen at the end, and every live line that was the last line of it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in LEFT_OUT} | {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    screen, live = Screen(), []
    try:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the last process has closed the terminal
                break
            if not data:
                break
            # One character stands for another script's: only their number on a line matters, and they may be cut by the read.
            screen.take(data.decode("utf-8", "replace"))
            if LIVE.match(screen.lines[-1]):
                live.append(screen.lines[-1])
        return process.wait(timeout=timeout), screen, live
    finally:
        process.kill()
        os.close(master)


@pytest.mark.slow
def test_make_shards_shows_a_live_line_that_ends_before_other_output(tmp_path: Path) -> None:
    installed = ROOT / ".venv" / "bin" / ".installed"
    if shutil.which("make") is None or not installed.is_file() or not (installed.parent / "mpirun").is_file():
        pytest.skip("there is no make here, or no .venv made by make setup with mpirun in it")
    tiny.write_corpora(tmp_path / "corpora")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    settings = [f"CORPORA={tmp_path / 'corpora'}", f"OUT={tmp_path / 'out'}", f"RECIPE={tmp_path / 'recipe.yaml'}", "RANKS=2"]
    # The environment is taken as it is: a file that is newer than it must not start pip here.
    status, screen, live = show(["make", "-s", "-o", ".venv/bin/.installed", "shards", *settings])
    said = "\n".join(screen.lines)
    assert status == 0, said
    assert live, "a live line was shown while it worked: " + said
    assert all(len(line) < COLUMNS for line in live)
    assert not any(LIVE.match(line) for line in screen.lines), "every live line is gone: " + said
    assert any(line.endswith("all as index.json says") or "all as index.json says;" in line for line in screen.lines)
    table = screen.lines[next(n for n, line in enumerate(screen.lines) if re.fullmatch(r" +web(-ja)? +web(-ja)?", line)) :]
    assert table[2].split() == ["documents", "31", "60"] or table[2].split() == ["documents", "60", "31"]
