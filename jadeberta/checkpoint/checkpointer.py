"""Saves and resumes a run: what the training loop sees of checkpoints.

Training waits only while its state is copied into memory. A writer process of each rank writes the copy beside the training. A save that
fails leaves the run going and is recorded in the ledger. One save, from state to state; "all" and "rank 0" are who takes the step:

    idle
      | save(): copy the state into memory; training waits for this alone              all
    staged
      | WriteCommand to this rank's writer                                             all
    writing -- disk error, no space, writer dead, or time limit: an answer with `error`
      | WriteAnswer, good or bad; has_written() turns true                             all
    written
      | settle(): gather every rank's files and errors                                 all, at the same training step
    settled -- a rank has failed: `save_failed` in the ledger, DiscardCommand, idle    rank 0; the other ranks are idle now
      | PublishCommand                                                                 rank 0
    publishing -- error or time limit: `save_failed`, DiscardCommand, idle             rank 0
      | PublishAnswer: `save` in the ledger, `committed` is this step                  rank 0
    committed
      | VerifyCommand: read back; PruneCommand: remove old checkpoints                 rank 0
      | VerifyAnswer without faults: `verified` is this step; secure() waits for it    rank 0
    verified
"""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jadeberta.checkpoint.commit import remove, remove_leftovers
from jadeberta.checkpoint.compatibility import describe_data, expected_of, refuse_other_counters
from jadeberta.checkpoint.manifest import candidates, directory_name, refuse_fresh_start, step_of
from jadeberta.checkpoint.pending_save import PendingSave
from jadeberta.checkpoint.restore import CheckpointLoader, on_root
from jadeberta.checkpoint.run_start import start_run
from jadeberta.checkpoint.snapshot import Snapshot, find_not_finite
from jadeberta.checkpoint.state_dict import current_adam_step, tensor_files, text_files
from jadeberta.checkpoint.writer_client import WriterClient
from jadeberta.checkpoint.writer_messages import (
    Answer,
    DiscardAnswer,
    DiscardCommand,
    PruneAnswer,
    PruneCommand,
    PublishAnswer,
    PublishCommand,
    TrustCommand,
    VerifyAnswer,
    VerifyCommand,
    WriteAnswer,
    WriteCommand,
)
from jadeberta.errors import NumericsError
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.loop import NewestSave
from jadeberta.training.run_context import RunContext
from jadeberta.training.run_state import RunState
from jadeberta.utils.json_lines import read_jsonl

logger = logging.getLogger(__name__)

READ_BACK_SHARE = 0.4
"""Share of the watchdog's limit of a save that reading it back may take; writing has half of it, so that both end before the limit."""
RESERVED_BYTES = 1 << 20
"""Counted for the small files of a checkpoint when the free space of the disk is checked."""


class Checkpointer:
    """Writes the checkpoints of one run and finds the one to resume from. Every rank has one, and all make the same calls."""

    def __init__(self, context: RunContext, engine: TrainingEngine) -> None:
        """Makes a process group of its own; every rank makes one checkpointer at the same time."""
        self.context, self.recipe, self.engine, self.shards = context, context.recipe, engine, context.shards
        self.root = (context.run_dir / "checkpoints").absolute()
        self.expected = expected_of(self.recipe, self.shards, context.repeats)
        self.committed = 0
        """Step of the newest checkpoint that this attempt wrote or resumed from; known to rank 0."""
        self.verified = 0
        """Step of the newest checkpoint that was read back, or resumed from, as it was written; known to rank 0."""
        self._is_root = engine.process.is_root
        # Half of the watchdog's limit: a hanging disk must cost a checkpoint before the watchdog takes the training for hung.
        self._time_limit = self.recipe.watchdog.save_s / 2 or float("inf")
        self._snapshot: Snapshot | None = None
        self._writer: WriterClient | None = None
        self._space_needed = 0
        self._pending: PendingSave | None = None  # staged, writing or written; on every rank
        self._written: WriteAnswer | None = None  # what this rank's writer answered about the pending save
        self._publishing: PendingSave | None = None  # on rank 0 alone
        # time.monotonic() when the newest checkpoint was given to the writer to read; on rank 0 alone
        self._reading_back: float | None = None
        self._save_began = 0.0  # time.monotonic() of the last save
        self._checker = ThreadPoolExecutor(1)  # looks for NaN in the snapshot beside the training, which waits for the copy alone
        self._not_finite: Future[str | None] | None = None  # of the pending save
        self._fault = ""  # what was wrong with the last save that was not written and read back as it should be
        self._stale_steps: set[int] = set()  # failed saves whose files may still be on the disk; on rank 0 alone
        # A collective: all ranks make the group. gloo, because Python objects cannot travel over NCCL without a copy to the GPU.
        self.group = dist.new_group(backend="gloo")
        self._loader = CheckpointLoader(self.root, engine, self.expected, self.group, self._record_skipped)

    def resume(self, mode: str) -> RunState:
        """Restores the newest valid checkpoint and takes the memory for saves; a fresh state where none exists and none is required.

        Raises:
            NothingToResume, CheckpointError: see `manifest.refuse_fresh_start` and `compatibility.refuse_foreign`; on every rank.
        """
        # Broadcasts of rank 0's view: ranks on other hosts may see another state of a shared directory.
        for left in on_root(self.group, lambda: remove_leftovers(self.root)):
            self.context.record("leftover_removed", directory=left.name)
        found: list[Path] = on_root(self.group, lambda: candidates(self.root, mode))
        state = self._restore(found)
        # Both refusals go through a broadcast, so that an error of rank 0 ends every rank and none is left waiting.
        if state is None:
            on_root(self.group, lambda: refuse_fresh_start(self.root, mode, len(found)))
            state = start_run(self.context, self._loader)
            self._take_memory()
            return state
        on_root(self.group, lambda: refuse_other_counters(self.root, state, read_jsonl(self.context.ledger.path)))
        self.context.start.weights.clear()
        self._take_memory()
        self._trust(state.step)
        seconds = self._loader.seconds
        self.context.record("resume", step=state.step, checkpoint=directory_name(state.step), seconds=seconds)
        logger.info(f"resumed from {directory_name(state.step)} in {seconds:.1f} s")
        return state

    def roll_back(self, at_most: int) -> RunState:
        """Restores the newest valid checkpoint of a step up to `at_most` and removes the newer ones, which belong to undone steps.

        Raises:
            NumericsError: there is none; on every rank.
        """
        # A save that is still being written may be of an undone step. It must be on the disk before the newer ones are removed.
        self.drain()
        self._wait_for_writer()

        def choose() -> list[Path]:
            found = candidates(self.root, "auto")
            for directory in remove(d for d in found if step_of(d) > at_most):
                self.context.record("undone", checkpoint=directory.name)
            return [d for d in found if step_of(d) <= at_most]

        # A broadcast: rank 0 alone removes, and all ranks restore the same checkpoint.
        state = self._restore(on_root(self.group, choose))
        if state is None and on_root(self.group, lambda: self.context.start.branch) is not None:
            return start_run(self.context, self._loader)  # no step of a branch is before the one that it has started from
        if state is None:
            raise NumericsError(f"{self.root}: no valid checkpoint of step {at_most} or before to go back to.")
        self._trust(state.step)
        return state

    def _restore(self, found: list[Path]) -> RunState | None:
        state = self._loader.load_first_trusted(found)
        self.committed = self.verified = state.step if state is not None else 0
        return state

    def _record_skipped(self, directory: Path, line: str) -> None:
        self.context.record("checkpoint_passed_over", checkpoint=directory.name, reason=line)
        logger.warning(line)

    def save(self, state: RunState, lr: float) -> None:
        """Takes a checkpoint of the state after `state.step` updates; it is written beside the training.

        Args:
            state: the run's counters.
            lr: learning rate of the last update.
        """
        began = self._save_began = time.monotonic()
        if self._pending is not None:
            # The memory holds one save. All ranks call save at the same step, so all of them wait here.
            self._finish_pending()
        assert self._snapshot is not None and self._writer is not None
        # Under ZeRO 3 a collective: rank 0 is sent the weights of the other ranks.
        tensors = tensor_files(self.engine)
        self._snapshot.fill({name: content for name, (content, _) in tensors.items()})
        self._not_finite = self._checker.submit(find_not_finite, self._snapshot)
        staging = self.recipe.checkpoint.staging
        self._pending = PendingSave(state.step, state.tokens, state.skipped_steps, began, sent=time.monotonic())
        self._writer.send(
            WriteCommand(
                root=str(self.root),
                step=state.step,
                space_needed=self._space_needed,
                files=self._snapshot.files,
                texts=text_files(self.engine, self._describe(state, lr)) if self._is_root else {},
                staging=str(Path(staging).absolute()) if staging else "",
                rank=self.engine.process.rank,
            )
        )
        self._pending.stall_s = time.monotonic() - began

    def _take_memory(self) -> None:
        """Takes the memory for snapshots now: a node that has not enough fails before the first step."""
        # The tokenizer as it was checked at the start: the files beside the shards may have changed since.
        tokenizer = self.context.tokenizer if self._is_root else {}
        self._snapshot = Snapshot(tensor_files(self.engine), pin=self.engine.device.type == "cuda", fixed=tokenizer)
        self._writer = WriterClient(self._snapshot)
        size = torch.tensor(self._snapshot.size + RESERVED_BYTES)
        # The ranks share one disk: each checks that the whole checkpoint fits, not only its own part.
        dist.all_reduce(size, group=self.group)
        self._space_needed = int(size)

    def _describe(self, state: RunState, lr: float) -> dict[str, Any]:
        """Content of state.json."""
        recipe, (position, epoch) = self.recipe, state.order(self.context.data.order).progress(state.step)
        return {
            **state.counters(),
            "epoch": epoch,
            "position": position,
            "lr": lr,
            "adam_step": current_adam_step(self.engine),
            "seed": recipe.training.seed,
            "guard": self.engine.guard.memory(),
            "world_size": self.engine.process.world_size,
            "zero_stage": self.engine.stage,
            "precision": recipe.training.precision,
            "data": describe_data(self.shards, self.expected["settings"], self.context.data.readers),
            # Alerts say nothing about the weights, and a checkpoint travels further than who is called about its run.
            "recipe": {key: value for key, value in asdict(recipe).items() if key != "alerts"},
            # Left out of a run from random weights, whose checkpoints have had no such key.
            **({"lineage": list(self.context.start.lineage)} if self.context.start.lineage else {}),
            "versions": {name: version(name) for name in ("jadeberta", "torch", "deepspeed", "transformers")},
            **self.expected,
        }

    def has_written(self) -> bool:
        """Whether this rank has done its part of the pending save, well or not; False where none is pending. Never waits."""
        self._take_answers()
        if self._pending is not None and self._written is None and self._is_overdue(self._pending):
            # The disk may hang for ever. Giving up makes the answer an error, so that the save fails and the training goes on.
            self._give_up(self._time_limit)
        return self._pending is not None and self._written is not None

    def settle(self) -> None:
        """Decides about the pending save; all ranks call it at the same step, when all have done their part."""
        pending, written = self._pending, self._written
        assert pending is not None and written is not None
        self._pending = self._written = None
        assert self._not_finite is not None
        # Nothing to wait for in general: the writer has read, hashed and written the same memory meanwhile.
        if fault := self._not_finite.result():
            written = replace(written, error=fault)
        answers: list[Any] = [None] * self.engine.process.world_size
        # A checkpoint is good only where every rank's part is, and the manifest needs the hashes of all files.
        dist.all_gather_object(answers, written, group=self.group)
        if not self._is_root:
            return  # rank 0 commits; the others are idle again
        if failed := [f"rank {rank}: {answer.error}" for rank, answer in enumerate(answers) if answer.error]:
            self._fail(pending, "; ".join(failed))
            return
        assert self._writer is not None
        self._publishing = pending
        files = {name: entry for answer in answers for name, entry in answer.files.items()}
        self._writer.send(PublishCommand(root=str(self.root), step=pending.step, files=files))

    def drain(self) -> None:
        """Waits until no save is pending: on every rank its own part, on rank 0 the commit too. `committed` is known there."""
        if self._pending is not None:
            self._finish_pending()
        # Only rank 0 publishes.
        while self._publishing is not None and self._writer is not None:
            self._take_answers(1.0)
            if self._publishing is not None and self._is_overdue(self._publishing):
                self._give_up(self._time_limit)

    def secure(self) -> NewestSave:
        """Waits until no save is pending and the newest checkpoint has been read back; returns what is certain then, on every rank."""
        self.drain()
        limit = self.recipe.watchdog.save_s * READ_BACK_SHARE or float("inf")
        while self._reading_back is not None:
            self._take_answers(1.0)
            if self._reading_back is not None and time.monotonic() - self._reading_back > limit:
                self._give_up(limit)
                self._reading_back = None
        # A save that took long is not tried again: the disk may hang, and who asked for the end may have no time left.
        is_quick = time.monotonic() - self._save_began < self._time_limit / 2
        fault = f"{self._fault}; the newest that was read back as it was written is of step {self.verified}"
        found = [NewestSave(self.verified, fault, is_quick)]
        # Only rank 0 waits for the verdict and knows it; the others wait here.
        dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]

    def _finish_pending(self) -> None:
        """Waits for this rank's part and settles; settling waits for the other ranks."""
        while not self.has_written():
            self._take_answers(1.0)
        self.settle()

    def close(self) -> None:
        """Waits for what the writer still does, reading back and pruning, and ends it."""
        self._wait_for_writer()
        self._checker.shutdown()
        if self._writer is not None:
            self._writer.close()

    def _wait_for_writer(self) -> None:
        deadline = time.monotonic() + self._time_limit
        while self._writer is not None and self._writer.unanswered:
            self._take_answers(1.0)
            if time.monotonic() > deadline:
                self._give_up(self._time_limit)

    def _trust(self, step: int) -> None:
        """Informs the writer that every byte of a checkpoint was just read and hashed: pruning need not do it again."""
        if self._is_root and self._writer is not None:
            self._writer.send(TrustCommand(step=step))

    def _is_overdue(self, save: PendingSave) -> bool:
        return time.monotonic() - save.sent > self._time_limit

    def _take_answers(self, seconds: float = 0.0) -> None:
        """Handles the answers that have come; waits up to some seconds for the first one."""
        if self._writer is None or not self._writer.unanswered:
            return
        for answer in self._writer.wait(seconds) if seconds else self._writer.poll():
            self._handle(answer)

    def _handle(self, answer: Answer) -> None:
        match answer:
            case WriteAnswer():
                self._written = answer  # good or bad: `settle` decides with all ranks
            case PublishAnswer():
                self._end_publishing(answer.error)
            case VerifyAnswer():
                self._reading_back = None
                if answer.error:
                    self._fault = f"could not be read back ({answer.error})"
                elif not answer.faults:
                    self.verified = answer.step or 0
                else:
                    self._fault = f"was read back and is not what was written ({answer.faults[0].rstrip('.')})"
                    # Nothing is removed: pruning counts only trusted checkpoints, and a resume skips this one.
                    name = directory_name(answer.step or 0)
                    logger.warning(f"{name} was written and cannot be trusted: {answer.faults[0]}")
                self.context.record(
                    "verified", step=answer.step, faults=answer.faults, error=answer.error, seconds=answer.seconds
                )
            case DiscardAnswer():
                if answer.error and answer.step is not None:
                    self._stale_steps.add(answer.step)  # the next save tries again
            case PruneAnswer():
                for name in answer.removed:
                    self.context.record("prune", checkpoint=name)
                if answer.error:
                    # The disk fills up; the next pruning tries again.
                    self.context.record("prune_failed", error=answer.error)

    def _end_publishing(self, error: str | None) -> None:
        save, self._publishing = self._publishing, None
        if save is None or self._writer is None:
            return
        if error:
            self._fail(save, error)
            return
        self.committed = save.step
        self.context.record(
            "save",
            checkpoint=directory_name(save.step),
            write_s=time.monotonic() - save.began,
            step=save.step,
            tokens=save.tokens,
            skipped_steps=save.skipped_steps,
            stall_s=save.stall_s,
        )
        # An earlier try of this step failed, and its files are part of the checkpoint now or gone.
        self._stale_steps.discard(save.step)
        self._remove_stale()
        keep = self.recipe.checkpoint
        self._reading_back = time.monotonic()
        self._writer.send(VerifyCommand(root=str(self.root), step=save.step))
        self._writer.send(PruneCommand(root=str(self.root), keep_last=keep.keep_last, keep_every=keep.keep_every))

    def _fail(self, save: PendingSave, error: str) -> None:
        """Records a failed save and has its files removed. The run goes on: an older checkpoint is still there."""
        self._fault = f"could not be written ({error})"
        self.context.record("save_failed", step=save.step, error=error, stall_s=save.stall_s)
        logger.warning(
            f"step {save.step}: the checkpoint was not written ({error}). Training goes on; the next save tries again."
        )
        self._stale_steps.add(save.step)
        self._remove_stale()

    def _remove_stale(self) -> None:
        """Has the files of failed saves removed; those that the disk does not let go are tried again with the next save."""
        assert self._writer is not None
        for step in sorted(self._stale_steps):
            self._writer.send(DiscardCommand(root=str(self.root), step=step))
        self._stale_steps.clear()

    def _give_up(self, limit: float) -> None:
        """Ends a writer that takes longer than a time limit in seconds: the disk may hang for ever, training need not."""
        assert self._writer is not None
        self._writer.give_up(f"not done after {limit:.0f} s, given up; the disk may hang")
        self._take_answers()
