"""The training loop: the one place where a step is taken, measured and, when it is time, saved."""

import time
from collections.abc import Iterator
from typing import Protocol

from jadeberta.config import Recipe
from jadeberta.data.batches import StepBatch
from jadeberta.errors import CheckpointError, NumericsError, RequeueWanted, StopAsked
from jadeberta.training.control import Control
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.ledger import Ledger
from jadeberta.training.metrics import MetricsWriter, peak_flops, training_flops_per_token
from jadeberta.training.progress import Progress
from jadeberta.training.schedule import learning_rate


class Saver(Protocol):
    def save(self, step: int, tokens: int, lr: float, skipped_steps: int) -> bool:
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
    skipped_steps: int,
    life: int,
    device_name: str,
    control: Control,
    ledger: Ledger | None,
) -> int:
    """Trains from `first_step` to the recipe's max_steps and returns the tokens seen in the whole run.

    Args:
        batches: the rank's batches from `first_step` on, in order.
        saver: told when a checkpoint is due.
        metrics: on rank 0.
        tokens: seen before `first_step`.
        skipped_steps: left out before `first_step`.
        life: number of this process life.
        control: asked at every step what this rank was told from outside.
        ledger: on rank 0.

    Raises:
        StopAsked, RequeueWanted: on every rank, after the save that belongs to it.
        NumericsError: on every rank, where too many steps in a row were not finite.
    """
    training = recipe.training
    flops_per_token = training_flops_per_token(
        recipe.model, recipe.model.max_position_embeddings, training.micro_batch_size, training.mask_probability
    )
    peak = peak_flops(device_name)
    saved, due_step, in_row = first_step, first_step, 0
    mark = time.monotonic()
    for batch in batches:
        waited = time.monotonic() - mark
        if batch.step != due_step:
            raise RuntimeError(f"the loader gave step {batch.step} where step {due_step} was due")
        lr = learning_rate(
            batch.step,
            peak=training.lr,
            warmup_steps=training.warmup_steps,
            max_steps=training.max_steps,
            schedule=training.schedule,
        )
        result = engine.step(batch, lr, control.poll())
        step = due_step = batch.step + 1
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
                    "skipped": result.skipped,
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
        if result.skipped:
            skipped_steps, in_row = skipped_steps + 1, in_row + 1
            if ledger is not None:
                ledger.write("skip", step=step, loss=result.loss, grad_norm=result.grad_norm, batch_hash=batch.batch_hash)
            progress.say(f"step {step}: SKIPPED, loss {result.loss} and gradient norm {result.grad_norm} are not both finite")
            if in_row > training.max_skipped_in_row:
                raise NumericsError(
                    f"{recipe.run.dir}: {in_row} steps in a row up to step {step} were not finite; the weights are those of step "
                    f"{step - in_row}. Look at their data and at the learning rate; going on from the newest checkpoint meets them again."
                )
        else:
            in_row = 0
        asks = result.asks
        due = step % recipe.checkpoint.every_steps == 0 or step == training.max_steps or asks.save or asks.stop or asks.requeue
        if due and saver.save(step, tokens, lr, skipped_steps):
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
