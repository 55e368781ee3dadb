"""The training loop: the one place where a step is taken, measured and, when it is time, saved."""

import time
from collections.abc import Iterator
from typing import Protocol

from jadeberta.config import Recipe
from jadeberta.data.batches import StepBatch
from jadeberta.errors import CheckpointError, RequeueWanted, StopAsked
from jadeberta.training.control import Control
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.metrics import MetricsWriter, peak_flops, training_flops_per_token
from jadeberta.training.progress import Progress
from jadeberta.training.schedule import learning_rate


class Saver(Protocol):
    def save(self, step: int, tokens: int, lr: float) -> bool:
        """Saves the state after `step` updates; False where that was not possible."""


def train(
    recipe: Recipe,
    engine: TrainingEngine,
    batches: Iterator[StepBatch],
    saver: Saver,
    metrics: MetricsWriter | None,
    progress: Progress,
    *,
    first_step: int,
    tokens: int,
    life: int,
    device_name: str,
    control: Control,
) -> int:
    """Trains from `first_step` to the recipe's max_steps and returns the tokens seen in the whole run.

    Args:
        batches: the rank's batches from `first_step` on, in order.
        saver: told when a checkpoint is due.
        metrics: on rank 0.
        tokens: seen before `first_step`.
        life: number of this process life.
        control: asked at every step what this rank was told from outside.

    Raises:
        StopAsked, RequeueWanted: on every rank, after the save that belongs to it.
    """
    training = recipe.training
    flops_per_token = training_flops_per_token(
        recipe.model, recipe.model.max_position_embeddings, training.micro_batch_size, training.mask_probability
    )
    peak = peak_flops(device_name)
    saved = first_step
    mark = time.monotonic()
    for batch in batches:
        waited = time.monotonic() - mark
        if batch.step != (expected := first_step):
            raise RuntimeError(f"the loader gave step {batch.step} where step {expected} was due")
        lr = learning_rate(
            batch.step,
            peak=training.lr,
            warmup_steps=training.warmup_steps,
            max_steps=training.max_steps,
            schedule=training.schedule,
        )
        result = engine.step(batch, lr, control.poll())
        step = first_step = batch.step + 1
        tokens += result.tokens
        seconds = time.monotonic() - mark
        rate = result.tokens / seconds
        if metrics is not None:
            metrics.write(
                {
                    "step": step,
                    "loss": result.loss,
                    "masked_accuracy": result.masked_accuracy,
                    "masked_tokens": result.masked_tokens,
                    "lr": lr,
                    "grad_norm": result.grad_norm,
                    "tokens": tokens,
                    "tokens_per_second": rate,
                    "mfu": rate * flops_per_token / (peak * engine.process.world_size) if peak else None,
                    "data_wait_s": waited,
                    "step_s": seconds,
                    "epoch": batch.epoch,
                    "batch_hash": batch.batch_hash,
                    "life": life,
                    "time": time.time(),
                }
            )
        progress.step(step, result.loss, result.masked_accuracy, lr, rate)
        asks = result.asks
        due = step % recipe.checkpoint.every_steps == 0 or step == training.max_steps or asks.save or asks.stop or asks.requeue
        if due and saver.save(step, tokens, lr):
            saved = step
        if asks.save:
            control.done("SAVE")
        if (asks.stop or asks.requeue) and step < training.max_steps:
            state = f"at step {step} of {training.max_steps}; the newest checkpoint is of step {saved}"
            if asks.stop:
                control.done("STOP")
                raise StopAsked(f"{recipe.run.dir}/STOP was found {state}. Start again to go on.")
            raise RequeueWanted(f"{control.reason or 'another rank'} asked to end {state}. Start again to go on.")
        mark = time.monotonic()  # what a save takes is no step's
    if saved != training.max_steps:
        raise CheckpointError(
            f"{recipe.run.dir}: the last checkpoint, of step {training.max_steps}, could not be written; the newest is of step {saved}. "
            "Make room and start again."
        )
    return tokens
