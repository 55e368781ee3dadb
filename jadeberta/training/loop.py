"""The training loop: the one place where a step is taken, judged, measured and, when it is time, saved."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from jadeberta.config import Recipe
from jadeberta.data.batches import StepBatch
from jadeberta.data.sample_order import SampleOrder, data_step
from jadeberta.errors import CheckpointError, NumericsError, RequeueRequested, StopRequested
from jadeberta.shards import ExcludedRows
from jadeberta.training.control import Asks
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.lr_schedule import rate_of
from jadeberta.training.replica_check import differing_ranks
from jadeberta.training.run_log import RunLog
from jadeberta.training.run_state import RunState


class Saver(Protocol):
    """What the loop sees of checkpoints; every rank calls it alike."""

    def save(self, state: RunState, lr: float) -> None:
        """Takes a checkpoint after `state.step` updates and writes it beside the training."""

    def has_written(self) -> bool:
        """Whether this rank has done its part of the pending save."""

    def settle(self) -> None:
        """Called when all ranks have."""

    def drain(self) -> int:
        """Waits for pending saves; step of the newest checkpoint."""


class Surroundings(Protocol):
    """What the loop asks about the world around it."""

    def beat(self, phase: str, step: int, place: str = "") -> None:
        """Tells the watchdog where this rank is; `step` counts from 1, of a save or an evaluation the step just made."""

    def poll(self) -> Asks:
        """What this rank was asked from outside."""

    def done(self, name: str) -> None:
        """Takes back the file STOP or SAVE."""

    @property
    def reason(self) -> str:
        """What asked for a requeue."""

    def damage(self) -> list[ExcludedRows]:
        """Damaged shards that were found beside the training since the last call."""

    def share_damage(self, found: list[ExcludedRows]) -> None:
        """Called on all ranks where one found damage: leaves those shards out on all, or raises ShardError on all."""

    def exclude(self, record: ExcludedRows) -> None:
        """A damaged row of this rank's batch was replaced by padding."""

    def first_step_done(self) -> None:
        """From now on a rank that is silent is silent for a reason."""

    def evaluate(self) -> Asks:
        """Evaluates the model on held-out rows, and what was asked meanwhile."""


class RollBack(Exception):
    """Too many steps in a row were left out: the run goes back and steps over their data. Raised on every rank."""

    def __init__(self, first_bad: int, end: int, reason: str) -> None:
        """Training steps [first_bad, end), from 0, were left out."""
        super().__init__(reason)
        self.first_bad, self.end = first_bad, end


def train(
    recipe: Recipe,
    engine: TrainingEngine,
    batches: Iterator[StepBatch],
    order: SampleOrder,
    saver: Saver,
    world: Surroundings,
    log: RunLog,
    state: RunState,
) -> RunState:
    """Trains from `state` to the recipe's max_steps; returns the state at the end.

    Args:
        batches: the rank's batches from step `state.step` on, in order.
        order: where they come from.
        saver: told when a checkpoint is due.
        world: watchdog, asks from outside, evaluation.
        log: metrics, ledger and terminal.

    Raises:
        StopRequested, RequeueRequested: on every rank, after the save that belongs to it.
        RollBack: on every rank, where more steps in a row than the guard allows were left out.
        NumericsError: on every rank, where the ranks' weights differ.
        ShardError: on every rank, where one found a damaged shard and the recipe says stop.
    """
    training, first_of_life, in_row, saving = recipe.training, True, 0, 0.0
    mark = time.monotonic()
    world.beat("first_step", state.step + 1, "data")
    for batch in batches:
        waited = time.monotonic() - mark
        if batch.step != state.step:
            raise RuntimeError(f"the loader gave step {batch.step} where step {state.step} was due")
        lr = rate_of(training, batch.step)
        damage = world.damage()
        asked = replace(world.poll(), written=int(saver.has_written()), damaged=int(bool(damage)))
        result = engine.step(batch, lr, asked)
        skipped = result.fault is not None
        state = replace(
            state, step=batch.step + 1, tokens=state.tokens + result.tokens, skipped_steps=state.skipped_steps + int(skipped)
        )
        world.beat("first_step" if first_of_life else "step", state.step, "metrics")
        log.step(batch, result, state, lr, time.monotonic() - mark, waited, saving)
        saving = 0.0
        for record in batch.excluded:
            world.exclude(record)
        if result.asks.damaged:
            world.share_damage(damage)
        if result.asks.written == engine.process.world_size:
            saver.settle()
        in_row = in_row + 1 if skipped else 0
        if skipped:
            log.skipped(state, batch, result, samples_of(order, batch.step))
            if in_row > recipe.guard.max_skipped_in_row:
                raise RollBack(state.step - in_row, state.step, f"{in_row} steps in a row up to step {state.step} were left out")
        compare_every = recipe.guard.compare_weights_every
        if compare_every and engine.stage < 3 and (first_of_life or state.step % compare_every == 0):
            _compare_weights(engine, state.step)
        if first_of_life:
            world.first_step_done()
            first_of_life = False
        asks = _evaluate_if_due(recipe, world, state.step, result.asks)
        every = recipe.checkpoint.every_steps
        if state.step % every == 0 or state.step == training.max_steps or asks.save or asks.stop or asks.requeue:
            world.beat("save", state.step, "snapshot")
            began = time.monotonic()
            saver.save(state, lr)
            saving = time.monotonic() - began
        if asks.save:
            world.done("SAVE")
        if (asks.stop or asks.requeue) and state.step < training.max_steps:
            _end_early(recipe, saver, world, state.step, asks)
        world.beat("step", state.step + 1, "data")
        mark = time.monotonic()  # what a save or an evaluation takes is no step's
    world.beat("save", state.step, "last save")
    if (saved := saver.drain()) != training.max_steps:
        raise CheckpointError(
            f"{recipe.run.dir}: the last checkpoint, of step {training.max_steps}, could not be written; the newest is of step {saved}. "
            "Make room and start again."
        )
    return state


def samples_of(order: SampleOrder, step: int) -> dict[str, Any]:
    """Data step, epochs and sample indices of a training step's global batch."""
    epochs, samples = order.step(step)
    where = data_step(step, order.stepped_over)
    return {"data_step": where, "epochs": np.unique(epochs).tolist(), "samples": samples.tolist()}


def _compare_weights(engine: TrainingEngine, step: int) -> None:
    odd = differing_ranks([p.data for p in engine.model.parameters()])
    if odd:
        who = f"those of rank {odd[0]} are not" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))} do not agree"
        raise NumericsError(
            f"the weights of all ranks must be the same at step {step} and {who}: a device computes wrong without an error. "
            "Leave its host out (heartbeat/ names it); checkpoints since the last comparison may hold wrong numbers."
        )


def _evaluate_if_due(recipe: Recipe, world: Surroundings, step: int, asks: Asks) -> Asks:
    """Evaluates where it is time and nothing presses; returns what is asked after it."""
    every = recipe.evaluation.every_steps
    if not every or (step % every and step != recipe.training.max_steps) or asks.stop or asks.requeue:
        return asks
    world.beat("eval", step, "evaluation")
    asked = world.evaluate()
    return replace(asks, stop=asks.stop + asked.stop, requeue=asks.requeue + asked.requeue, save=asks.save + asked.save)


def _end_early(recipe: Recipe, saver: Saver, world: Surroundings, step: int, asks: Asks) -> None:
    """Raises StopRequested or RequeueRequested, once the checkpoint is on the disk."""
    world.beat("save", step, "save before the end")
    where = f"at step {step} of {recipe.training.max_steps}; the newest checkpoint is of step {saver.drain()}"
    if asks.stop:
        world.done("STOP")
        raise StopRequested(f"{recipe.run.dir}/STOP was found {where}. Start again to go on.")
    raise RequeueRequested(f"{world.reason or 'another rank'} asked to end {where}. Start again to go on.")
