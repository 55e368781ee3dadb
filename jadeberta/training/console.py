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

    def __init__(
        self,
        max_steps: int,
        every: int,
        sizes: BatchSizes = ALIKE,
        handler: ConsoleHandler | None = None,
        save_every: int = 0,
    ) -> None:
        """Starts no clock; the time left is reckoned from the first step line on.

        Args:
            max_steps: of the run.
            every: steps between two logged lines.
            sizes: batch size of every step; a step with half the sequences takes half the time.
            handler: the console's; None: this rank has none and logs no step lines.
            save_every: steps between two checkpoints; 0: the lines do not say when the next one is.
        """
        self.max_steps, self.every, self.sizes, self.handler, self.save_every = max_steps, every, sizes, handler, save_every
        self._began = 0.0
        self._first_step: int | None = None

    def step(
        self,
        step: int,
        loss: float,
        accuracy: float,
        lr: float,
        tokens_per_second: float,
        *,
        grad_norm: float | None = None,
        mfu: float | None = None,
        data_wait: float | None = None,
    ) -> None:
        """Shows a step that is done.

        Args:
            step: number of the step, from 1.
            loss: mean cross-entropy of a masked token, nats.
            accuracy: share of the masked tokens that were predicted.
            lr: learning rate of the update.
            tokens_per_second: over all ranks.
            grad_norm: norm of the gradient before clipping; None: not shown, as the next two.
            mfu: model FLOPs utilisation, from 0 to 1.
            data_wait: share of the step that was spent waiting for its batch.
        """
        if self.handler is None:
            return
        if self._first_step is None:
            self._first_step, self._began = step, time.monotonic()
        is_due = step % self.every == 0 or step == self.max_steps
        if not is_due and not self.handler.is_live:
            return
        left = self._seconds(step, self.max_steps)
        parts = [
            f"step {step}/{self.max_steps}  loss {loss:.4f}  acc {accuracy:.3f}  lr {lr:.2e}  {tokens_per_second:,.0f} tokens/s",
            f"{'?' if left is None else format_duration(left)} left",
        ]
        # Behind what the line had before: a narrow terminal cuts these first.
        parts += [f"grad {grad_norm:.3g}"] if grad_norm is not None else []
        parts += [f"MFU {100 * mfu:.1f}%"] if mfu is not None else []
        parts += [f"data wait {100 * data_wait:.1f}%"] if data_wait is not None else []
        line = "  ".join([*parts, *self._next_save(step)])
        if is_due:
            self.handler.close_line()  # the logged line says the same
            logger.info(line)
        else:
            self.handler.show(line)

    def _seconds(self, step: int, until: int) -> float | None:
        """Seconds from the end of a step to that of a later one; None until two steps have been seen."""
        done, ahead = self.sizes.before(step) - self.sizes.before(self._first_step or 0), self.sizes.before(until)
        return (time.monotonic() - self._began) / done * (ahead - self.sizes.before(step)) if done else None

    def _next_save(self, step: int) -> list[str]:
        """When the next regular checkpoint is taken, in words."""
        due = min((step // self.save_every + 1) * self.save_every, self.max_steps) if self.save_every else 0
        if due <= step:
            return []
        seconds = self._seconds(step, due)
        return [f"save at step {due}" if seconds is None else f"save in {format_duration(seconds)}"]


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
