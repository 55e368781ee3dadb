"""The goodput of a run while it trains, as `jadeberta status` would say it, for the metrics sinks.

What was before is added up once from the run's files, by a thread beside the training; the steps since are added one by one.
"""

import logging
import threading
import time
from pathlib import Path

from jadeberta.errors import JadebertaError
from jadeberta.status.attempts import read_run
from jadeberta.status.goodput import Goodput, compute_goodput
from jadeberta.utils.json_lines import JsonRow, finite

logger = logging.getLogger(__name__)


class LiveGoodput:
    """Goodput of the run that this process trains; see `training.metrics.GoodputMeter`."""

    def __init__(self, run_dir: Path) -> None:
        """Reads nothing yet."""
        self._run_dir = run_dir
        self.after_rollback()

    def after_rollback(self) -> None:
        """The run has gone back: which steps stayed is read anew."""
        self._steps: list[tuple[int, float]] = []  # number and seconds of steps that may be missing in what is read
        self._productive_s = 0.0
        self._found: list[tuple[Goodput, float]] = []
        self.reader: threading.Thread | None = None

    def _read(self, found: list[tuple[Goodput, float]]) -> None:
        try:
            ledger, steps, _ = read_run(self._run_dir)
            now = time.time()
            found.append((compute_goodput(ledger, steps, now), time.monotonic()))
        except (OSError, JadebertaError) as e:
            logger.warning("goodput is not measured for the metrics sinks: %s", e)

    def after_step(self, row: JsonRow) -> float | None:
        """Adds a step; returns the goodput so far, None until the run directory has been read."""
        seconds = 0.0 if row.get("skipped") else finite(row, "step_s") or 0.0
        self._steps.append((int(row["step"]), seconds))
        if self.reader is None:
            # Not before the first step: the loaders are forked by then. The thread keeps its own list: one that is slow must not
            # answer for a later one.
            self.reader = threading.Thread(target=self._read, args=(self._found,), name="goodput", daemon=True)
            self.reader.start()
        if not self._found:
            return None
        before, at = self._found[0]
        self._productive_s += sum(seconds for number, seconds in self._steps if number > before.step)
        self._steps.clear()
        wall_s = before.wall_s + time.monotonic() - at
        return min(1.0, (before.productive_s + self._productive_s) / wall_s) if wall_s > 0 else None
