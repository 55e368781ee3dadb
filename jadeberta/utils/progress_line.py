"""The one progress printer: log lines, and on a terminal one live line below them."""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from jadeberta.errors import escape_controls

CLEAR_LINE = "\r\x1b[K"
"""Begins the line of a terminal anew."""
LOG_SECONDS = 60.0
"""Shortest time between two progress lines where there is no terminal to renew one on."""


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Handler of log records that keeps the progress line below them.

    On a terminal `show` renews the line in place. In a log the line is an ordinary one, at most once in `log_seconds`.
    """

    def __init__(self, stream: TextIO | None = None, live: bool = True, log_seconds: float = LOG_SECONDS) -> None:
        """Args:
        stream: where lines go; None: standard output as it is now.
        live: False where the stream looks like a terminal but is none, as under mpirun.
        log_seconds: shortest time between two progress lines in a log.
        """
        super().__init__(sys.stdout if stream is None else stream)
        # A terminal that mpirun gives its ranks has no width, and may end in a log.
        self.is_live = live and self.stream.isatty() and terminal_width(self.stream) > 0
        self._log_seconds, self._shown, self._line = log_seconds, time.monotonic(), ""

    def show(self, line: str) -> None:
        """Renews the progress line."""
        if self.is_live:
            with self.lock or contextlib.nullcontext():
                self._line = line
                self._draw()
        elif time.monotonic() - self._shown >= self._log_seconds:
            self._shown = time.monotonic()
            self.handle(logging.LogRecord("progress", logging.INFO, __file__, 0, line, None, None))

    def close_line(self) -> None:
        """Takes the progress line away."""
        if self._line:
            with self.lock or contextlib.nullcontext():
                self._line = ""
                self._draw()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record above the progress line."""
        if self._line:
            with contextlib.suppress(OSError):
                self.stream.write(CLEAR_LINE)
        super().emit(record)
        if self._line:
            self._draw()

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record; a path in it begins no line of its own."""
        if isinstance(record.args, tuple):
            record.args = tuple(escape_controls(str(arg)) if isinstance(arg, Path) else arg for arg in record.args)
        return super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Leaves a line out that cannot be written: the work of days does not end, and prints no traceback a line, for a full disk
        under its log or a reader of its pipe that is gone."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def _draw(self) -> None:
        with contextlib.suppress(OSError):
            # Cut to the width: a line that wraps could not be renewed in place.
            self.stream.write(f"{CLEAR_LINE}{self._line[: max(20, terminal_width(self.stream)) - 1]}")
            self.stream.flush()


def terminal_width(stream: TextIO) -> int:
    """Returns the columns of a terminal, or of the variable COLUMNS where it is set; 0: not known."""
    columns = os.environ.get("COLUMNS", "")
    return (int(columns) if columns.isdecimal() else 0) or os.get_terminal_size(stream.fileno()).columns
