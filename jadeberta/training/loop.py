"""The training loop: the one place where a step is taken, judged, measured and, when it is time, saved."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from jadeberta.config import Recipe
from jadeberta.config.phases import Phase, phase_at, phases_of
from jadeberta.data.batches import StepBatch
from jadeberta.errors import CheckpointError, NumericsError, RequeueRequested, StopRequested
from jadeberta.shards import ExcludedRows
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.lr_schedule import rate_of
from jadeberta.training.run_log import RunLog, StepTimes
from jadeberta.training.run_state import Order, RunState

SAVE_TRIES = 3
"""Saves of an attempt's last state, as long as the one before was not written as it should be."""
REMEDY = "Make room or repair the disk, and start again."


class NewestSave(NamedTuple):
    """What is certain about the checkpoints of a run when nothing is pending."""

    step: int
    """Step of the newest checkpoint that was read back as it was written; 0 where there is none."""
    fault: str = ""
    """What is wrong with the last save where that checkpoint is an older one, and which is the newest then."""
    may_retry: bool = True
    """Whether another save is worth a try: False where the disk took too long."""


class Saver(Protocol):
    """The checkpointer as the loop sees it; every rank makes the same calls in the same order."""

    def save(self, state: RunState, lr: float) -> None:
        """Takes a checkpoint of the state after `state.step` updates; it is written beside the training."""

    def has_written(self) -> bool:
        """Whether this rank has written its part of the pending save; never waits."""

    def settle(self) -> None:
        """Decides about the pending save, once all ranks have written their parts."""

    def secure(self) -> NewestSave:
        """Waits until no save is pending and the newest checkpoint has been read back."""


class Hooks(Protocol):
    """What the loop calls around the steps."""

    def beat(self, phase: str, step: int, section: str = "") -> None:
        """Tells the watchdog what this rank does from now on; `step` is from 1, of a save or an evaluation the step just made."""

    def step_done(self, step_s: float, data_s: float, compute_s: float, last_forward_s: float) -> None:
        """A step is done: what this rank took for all of it, its data, what it computed alone and the last forward pass, seconds."""

    def flags(self) -> RankFlags:
        """Requests that have reached this rank."""

    def clear(self, name: str) -> None:
        """Removes the file STOP, SAVE or PROFILE."""

    @property
    def reason(self) -> str:
        """What asked this rank for a requeue; empty where another rank was asked."""

    @property
    def stopped_by(self) -> str:
        """What asked to end for good, in words: the file STOP, or Ctrl-C."""

    def damaged_shards(self) -> list[ExcludedRows]:
        """Damaged shards that this rank has found beside the training since the last call; never waits."""

    def exclude_shards(self, found: list[ExcludedRows], step: int) -> None:
        """Called on all ranks where one found damage: excludes those shards on all ranks, or raises ShardError on all."""

    def record_excluded_row(self, row: ExcludedRows, step: int) -> None:
        """A damaged row of this rank's batch was replaced by padding."""

    def first_step_ahead(self) -> None:
        """The first step of a phase or after a roll-back comes next, which may take as long as that of an attempt."""

    def first_step_done(self) -> None:
        """The first step of this attempt, of a phase or after a roll-back is done."""

    def profile(self, step: int, is_asked: bool) -> None:
        """A step is done: begins a profile of the next ones where a rank was asked for one, or ends one that is complete."""

    def end_profile(self, step: int) -> None:
        """Writes the profile that is under way, if there is one: no further step follows as the next."""

    def evaluate(self, step: int) -> RankFlags:
        """Evaluates the model on held-out rows; returns requests that came meanwhile."""


class RollBack(Exception):
    """Too many steps in a row were skipped: the run goes back to a checkpoint. Raised on every rank."""

    def __init__(self, first_bad: int, end: int, reason: str) -> None:
        """Training steps [first_bad, end), from 0, were skipped; `reason` says so in words."""
        super().__init__(reason)
        self.first_bad, self.end = first_bad, end


def train(
    recipe: Recipe,
    state: RunState,
    batches: Iterator[StepBatch],
    order: Order,
    *,
    phases: Sequence[Phase] = (),
    engine: TrainingEngine,
    saver: Saver,
    hooks: Hooks,
    log: RunLog,
) -> RunState:
    """Trains from `state` to the recipe's max_steps; returns the state at the end.

    Args:
        recipe: of the run.
        state: where the run stands.
        batches: this rank's batches from step `state.step` on, in order.
        order: where they come from, for the ledger.
        phases: of the run, with their row lengths; empty: those of the recipe.
        engine: takes the steps.
        saver: takes the checkpoints.
        hooks: watchdog, requests, damaged shards, evaluation.
        log: metrics, skipped steps and step lines.

    Raises:
        StopRequested, RequeueRequested: on every rank, after the save that belongs to it.
        RollBack: on every rank, where more steps in a row were skipped than the guard allows.
        NumericsError: on every rank, where the ranks' weights differ.
        ShardError: on every rank, where one found a damaged shard and the recipe says stop.
        CheckpointError: on every rank, where the last checkpoint could not be written, or not read back as it was written; a
            requeue is raised as such, and names the checkpoint that the next attempt goes on from.
    """
    is_first, consecutive_skips, save_stall_s = True, 0, 0.0
    phases = phases or phases_of(recipe)
    _enter_phase(phases, state.step, engine, log)
    mark = time.monotonic()
    hooks.beat("first_step", state.step + 1, "data")
    for batch in batches:
        waited_s = time.monotonic() - mark
        if batch.step != state.step:
            raise RuntimeError(f"the loader gave step {batch.step} where step {state.step} was due")
        lr = rate_of(recipe, batch.step)
        damaged = hooks.damaged_shards()
        # The flags travel in the step's own all-reduce: agreeing costs no message, and all ranks get the same sum.
        own = replace(hooks.flags(), written=int(saver.has_written()), damaged=int(bool(damaged)))
        result = engine.step(batch, lr, own)
        is_skipped = result.fault is not None
        state = replace(
            state, step=batch.step + 1, tokens=state.tokens + result.tokens, skipped_steps=state.skipped_steps + int(is_skipped)
        )
        hooks.beat("first_step" if is_first else "step", state.step, "metrics")
        times = StepTimes(time.monotonic() - mark, waited_s, save_stall_s)
        hooks.step_done(times.step_s, waited_s, result.compute_s, result.last_forward_s)
        log.step(batch, result, state, lr, times)
        save_stall_s = 0.0
        for row in batch.excluded:
            hooks.record_excluded_row(row, state.step)
        if result.flags.damaged:
            hooks.exclude_shards(damaged, state.step)
        if result.flags.written == engine.process.world_size:
            # Not before: settling gathers the outcome of every rank, and would wait for the slowest disk.
            saver.settle()
        consecutive_skips = consecutive_skips + 1 if is_skipped else 0
        if is_skipped:
            log.skipped(state, batch, result, samples_of(order, batch.step))
            if consecutive_skips > recipe.guard.max_skipped_in_row:
                first_bad = state.step - consecutive_skips
                hooks.end_profile(state.step)
                hooks.first_step_ahead()
                raise RollBack(first_bad, state.step, f"{consecutive_skips} steps in a row up to step {state.step} were skipped")
        compare_every = recipe.guard.compare_weights_every
        if compare_every and (is_first or state.step % compare_every == 0):
            # Before the save below: weights that differ must not get into a checkpoint.
            _compare_weights(engine, state.step)
        if is_first:
            hooks.first_step_done()
            is_first = False
        hooks.profile(state.step, bool(result.flags.profile))
        flags = _evaluate_if_due(recipe, hooks, state.step, result.flags)
        is_due = state.step % recipe.checkpoint.every_steps == 0 or state.step == recipe.training.max_steps
        if is_due or flags.save or flags.stop or flags.requeue:
            hooks.beat("save", state.step, "snapshot")
            began = time.monotonic()
            saver.save(state, lr)
            save_stall_s = time.monotonic() - began
        if flags.save:
            hooks.clear("SAVE")
        # A run that has reached its last step is done, whatever was asked of it.
        if (flags.stop or flags.requeue) and state.step < recipe.training.max_steps:
            _end_early(recipe, saver, hooks, state, lr, flags)
        if phase_at(phases, state.step).first_step == state.step < recipe.training.max_steps:
            # The first step of a phase compiles and allocates as the first one of an attempt does.
            is_first = True
            hooks.first_step_ahead()
            _enter_phase(phases, state.step, engine, log)
        hooks.beat("first_step" if is_first else "step", state.step + 1, "data")
        mark = time.monotonic()  # a save or an evaluation is no part of the next step
    hooks.end_profile(state.step)
    hooks.beat("save", state.step, "last save")
    last = recipe.training.max_steps
    if (newest := _secure_last(saver, hooks, state, rate_of(recipe, last - 1))).step != last:
        raise CheckpointError(f"{recipe.run.dir}: {_unsaved(last, newest)} {REMEDY}")
    return state


def _enter_phase(phases: Sequence[Phase], step: int, engine: TrainingEngine, log: RunLog) -> None:
    """Prepares the engine and the log for the phase of a training step, from 0."""
    phase = phase_at(phases, step)
    engine.enter_phase(phase, is_border=phase.number > 1 and phase.first_step == step)
    log.enter_phase(phase, len(phases))


def samples_of(order: Order, step: int) -> dict[str, Any]:
    """Place in the data, epochs and sample indices of the global batch of a training step (from 0)."""
    epochs, samples = order.step(step)
    return {**order.place(step), "epochs": np.unique(epochs).tolist(), "samples": samples.tolist()}


def _compare_weights(engine: TrainingEngine, step: int) -> None:
    """Raises NumericsError, on every rank, where the ranks' weights are not the same."""
    odd = engine.differing_ranks()
    if odd:
        who = f"those of rank {odd[0]} are not" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))} do not agree"
        raise NumericsError(
            f"the weights of all ranks must be the same at step {step} and {who}: a device computes wrong without an error. "
            "Leave its host out (heartbeat/ names it); checkpoints since the last comparison may hold wrong numbers."
        )


def _evaluate_if_due(recipe: Recipe, hooks: Hooks, step: int, flags: RankFlags) -> RankFlags:
    """Evaluates where it is due and no rank was asked to end; returns the flags with those that came meanwhile."""
    every = recipe.evaluation.every_steps
    if not every or (step % every and step != recipe.training.max_steps) or flags.stop or flags.requeue:
        return flags
    hooks.beat("eval", step, "evaluation")
    new = hooks.evaluate(step)
    return replace(flags, stop=flags.stop + new.stop, requeue=flags.requeue + new.requeue, save=flags.save + new.save)


def _secure_last(saver: Saver, hooks: Hooks, state: RunState, lr: float) -> NewestSave:
    """Waits until the last checkpoint is on the disk and read back; it is saved again where it is not as it was written."""
    newest = saver.secure()
    for _ in range(SAVE_TRIES - 1):
        if newest.step == state.step or not newest.may_retry:
            break
        # The weights are still in memory. Another phase in between: the watchdog's limit is that of each try.
        hooks.beat("step", state.step, "save again")
        hooks.beat("save", state.step, "save again")
        saver.save(state, lr)
        newest = saver.secure()
    return newest


def _unsaved(step: int, newest: NewestSave) -> str:
    return f"the last checkpoint, of step {step}, {newest.fault}."


def _end_early(recipe: Recipe, saver: Saver, hooks: Hooks, state: RunState, lr: float, flags: RankFlags) -> None:
    """Raises StopRequested or RequeueRequested once the checkpoint is on the disk and read back.

    Args:
        recipe: of the run.
        saver: has been given the state to save.
        hooks: of the loop.
        state: the last one.
        lr: learning rate of its update.
        flags: what asked for the end.
    """
    hooks.end_profile(state.step)
    hooks.beat("save", state.step, "save before the end")
    newest = _secure_last(saver, hooks, state, lr)
    where = f"at step {state.step} of {recipe.training.max_steps}; the newest checkpoint is of step {newest.step}"
    if newest.step != state.step:
        where = f"at step {state.step} of {recipe.training.max_steps}, but {_unsaved(state.step, newest).rstrip('.')}"
    if flags.stop and newest.step != state.step:
        # Status 10 would promise that the run has saved. STOP stays, so that another attempt saves and stops at its first step.
        raise CheckpointError(f"{hooks.stopped_by} {where}. {REMEDY}")
    if flags.stop:  # before requeue: who wrote STOP wants no further attempt
        sentence = f"{hooks.stopped_by} {where}. Start again to go on."  # before the file that it names is cleared
        hooks.clear("STOP")
        raise StopRequested(sentence)
    raise RequeueRequested(f"{hooks.reason or 'another rank'} asked to end {where}. Start again to go on.")
