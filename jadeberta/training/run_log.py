"""What a run writes about its steps: metrics, skipped steps and step lines. Rank 0 writes; the other ranks call it to no effect."""

import logging
import math
import time
from typing import Any, NamedTuple

import torch

from jadeberta.config.phases import Phase
from jadeberta.data.batches import StepBatch
from jadeberta.training.engine import StepResult
from jadeberta.training.metrics import MetricsWriter, step_flops_per_token
from jadeberta.training.optimizers.costs import update_flops
from jadeberta.training.run_context import RunContext
from jadeberta.training.run_state import RunState
from jadeberta.utils.hardware import peak_flops

logger = logging.getLogger(__name__)


class StepTimes(NamedTuple):
    """Times of a step on this rank, seconds."""

    step_s: float
    """All of the step, the wait for its data included."""
    data_wait_s: float
    """The wait for its data."""
    save_wait_s: float
    """What the save before the step took; not part of step_s."""


class RunLog:
    """Writes about the steps of one attempt."""

    def __init__(self, context: RunContext, metrics: MetricsWriter | None) -> None:
        """`metrics` is None on all ranks but 0."""
        self.context, self.metrics = context, metrics
        self._flops_per_token, self._update_flops = 0.0, update_flops(context.recipe)
        self._phase: dict[str, int] = {}  # both until a phase is entered
        is_gpu = context.device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name(context.device)) if is_gpu else None
        self._peak = peak * context.process.world_size if peak else None

    def enter_phase(self, phase: Phase, count: int) -> None:
        """Goes on with the steps of a phase.

        Args:
            phase: with its row length.
            count: of phases in the run; the metrics name the phase where there are several.
        """
        model = self.context.recipe.model
        length = phase.sequence_length or model.max_position_embeddings
        share = sum(phase.mask_bounds) / 2
        self._flops_per_token = step_flops_per_token(self.context.recipe, length, phase.micro_batch_size, share)
        self._phase = {"phase": phase.number} if self.context.recipe.phases else {}
        if count > 1:
            logger.info("phase %s of %s: %s", phase.number, count, phase.in_words(self.context.process.world_size))

    def step(self, batch: StepBatch, result: StepResult, state: RunState, lr: float, times: StepTimes) -> None:
        """Writes the metrics of a step and shows it on the console.

        Args:
            batch: what this rank read.
            result: what all ranks saw.
            state: the run's counters after the step.
            lr: learning rate of its update.
            times: of this rank.
        """
        rate = result.tokens / times.step_s
        shown = {
            "grad_norm": result.grad_norm,
            "mfu": self._mfu(result.tokens, times),
            "data_wait": times.data_wait_s / times.step_s,
        }
        self.context.console.step(state.step, result.loss, result.masked_accuracy, lr, rate, **shown)
        if self.metrics is None:
            return
        spent = result.communication
        self.metrics.write(
            {
                "step": state.step,
                "loss": _or_none(result.loss),
                "masked_accuracy": _or_none(result.masked_accuracy),
                "masked_tokens": result.masked_tokens,
                "lr": lr,
                "grad_norm": result.grad_norm,
                "skipped": result.fault is not None,
                "tokens": state.tokens,
                "set_aside": result.excluded_rows,  # old spelling of excluded, kept for readers
                "tokens_per_second": rate,
                "positions_per_second": result.positions / times.step_s,
                "mfu": self._mfu(result.tokens, times),
                "mfu_with_padding": self._mfu(result.positions, times),
                "data_wait_s": times.data_wait_s,
                "save_wait_s": times.save_wait_s,
                "step_s": times.step_s,
                **self._phase,
                **(vars(spent) if spent is not None else {}),
                **({k: _or_none(v) for k, v in vars(result.replaced).items()} if result.replaced is not None else {}),
                "epoch": batch.epoch,
                "batch_hash": batch.batch_hash,
                "attempt": self.context.attempt,
                "life": self.context.attempt,  # old spelling of attempt, kept for readers
                "time": time.time(),
            }
        )

    def skipped(self, state: RunState, batch: StepBatch, result: StepResult, samples: dict[str, Any]) -> None:
        """Records a step that changed nothing.

        Args:
            state: the run's counters after the step.
            batch: what this rank read.
            result: what all ranks saw, with the reason.
            samples: where the whole batch lies in the data, see `loop.samples_of`.
        """
        numbers = {"loss": result.loss, "grad_norm": result.grad_norm, "batch_hash": batch.batch_hash}
        self.context.record("skip", step=state.step, reason=result.fault, **numbers, **samples)
        logger.info("step %s: SKIPPED, %s", state.step, result.fault)

    def close(self) -> None:
        """Closes the metrics and their sinks."""
        if self.metrics is not None:
            self.metrics.close()

    def _mfu(self, tokens: int, times: StepTimes) -> float | None:
        """Model FLOPs utilisation of a step with some tokens, the products of its update included; None where the device's peak is not
        known.
        """
        return (tokens * self._flops_per_token + self._update_flops) / times.step_s / self._peak if self._peak else None


def _or_none(value: float) -> float | None:
    """None for what is no number: JSON has no NaN, and sinks take None for a value that was not measured."""
    return value if math.isfinite(value) else None
