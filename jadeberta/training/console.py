"""The console of a run: its log lines and step lines on rank 0, the libraries' messages in a file of each rank."""

import contextlib
import logging
import time
import warnings
from pathlib import Path

from jadeberta.config.batch_sizes import ALIKE, BatchSizes
from jadeberta.utils.durations import format_duration
from jadeberta.utils.progress_line import ConsoleHandler

logger = logging.getLogger(__name__)


class Console:
    """Step lines with rate and time left: logged every few steps, and on a terminal renewed in place at every step."""

    def __init__(self, max_steps: int, every: int, sizes: BatchSizes = ALIKE, handler: ConsoleHandler | None = None) -> None:
        """Starts no clock; the time left is reckoned from the first step line on.

        Args:
            max_steps: of the run.
            every: steps between two logged lines.
            sizes: batch size of every step; a step with half the sequences takes half the time.
            handler: the console's; None: this rank has none and logs no step lines.
        """
        self.max_steps, self.every, self.sizes, self.handler = max_steps, every, sizes, handler
        self._began = 0.0
        self._first_step: int | None = None

    def step(self, step: int, loss: float, accuracy: float, lr: float, tokens_per_second: float) -> None:
        """Shows a step that is done.

        Args:
            step: number of the step, from 1.
            loss: mean cross-entropy of a masked token, nats.
            accuracy: share of the masked tokens that were predicted.
            lr: learning rate of the update.
            tokens_per_second: over all ranks.
        """
        if self.handler is None:
            return
        if self._first_step is None:
            self._first_step, self._began = step, time.monotonic()
        is_due = step % self.every == 0 or step == self.max_steps
        if not is_due and not self.handler.is_live:
            return
        done, whole = (self.sizes.before(s) - self.sizes.before(self._first_step) for s in (step, self.max_steps))
        left = format_duration((time.monotonic() - self._began) / done * (whole - done)) if done else "?"
        rate = f"{tokens_per_second:,.0f} tokens/s"
        line = f"step {step}/{self.max_steps}  loss {loss:.4f}  acc {accuracy:.3f}  lr {lr:.2e}  {rate}  {left} left"
        if is_due:
            self.handler.close_line()  # the logged line says the same
            logger.info(line)
        else:
            self.handler.show(line)


class _LogFile(logging.FileHandler):
    """Drops what the disk does not take: a message of a library must not end a run."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # of the opening, which logging itself does not catch
            super().emit(record)


def redirect_library_logs(run_dir: Path, rank: int) -> None:
    """Sends what libraries log to logs/rank-N.log and leaves the console to the run; warnings of Python are dropped.

    Raises:
        OSError: the directory cannot be made.
    """
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    # Otherwise logging writes a traceback for every record that a full disk does not take.
    logging.raiseExceptions = False
    handler = _LogFile(run_dir / "logs" / f"rank-{rank:05d}.log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("DeepSpeed", "transformers", "torch"):
        library = logging.getLogger(name)
        library.handlers[:] = [handler]
        library.propagate = False
    if rank:
        # Rank 0 has the console; what another rank alone meets must be found somewhere.
        logging.getLogger("jadeberta").addHandler(handler)
    warnings.filterwarnings("ignore")
