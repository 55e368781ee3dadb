"""Saves and resumes a run: what the training loop sees of checkpoints.

Training waits for the copy of its state into memory and for nothing else; a process of each rank writes it beside the training, and
the next save waits for the last. A save that fails leaves the run going and says so in the ledger.
"""

import logging
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jadeberta.checkpoint.commit import Files, remove, remove_leftovers
from jadeberta.checkpoint.compatibility import describe_data, expected_of, refuse_other_counters
from jadeberta.checkpoint.manifest import candidates, directory_name, refuse_fresh_start, step_of
from jadeberta.checkpoint.restore import Restorer, on_root
from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.checkpoint.state_dict import current_adam_step, tensor_files, text_files, tokenizer_files
from jadeberta.checkpoint.writer_client import WriterProcess
from jadeberta.errors import NumericsError
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.run_context import RunContext
from jadeberta.training.run_state import RunState
from jadeberta.utils.json_lines import read_jsonl

logger = logging.getLogger(__name__)

RESERVE = 1 << 20
"""Bytes counted for the small files of a checkpoint when asking for disk space."""


class Checkpointer:
    """Writes the checkpoints of one run and finds the one to go on from. Every rank has one and calls it alike."""

    def __init__(self, context: RunContext, engine: TrainingEngine) -> None:
        """Makes a process group of its own; every rank makes one checkpointer at the same time."""
        self.context, self.recipe, self.engine, self.shards = context, context.recipe, engine, context.shards
        self.root = (context.run_dir / "checkpoints").absolute()
        self.expected = expected_of(self.recipe, self.shards, context.repeats)
        self.committed = 0
        """Step of the newest checkpoint that this life wrote or resumed from; known to rank 0."""
        self._is_root = engine.process.is_root
        # Half, so that a hanging disk costs a checkpoint before the watchdog takes the training for hanging.
        self._patience = self.recipe.watchdog.save_s / 2 or float("inf")
        self._snapshot: Snapshot | None = None
        self._writer: WriterProcess | None = None
        self._need = 0
        self._part: tuple[Files, str | None] | None = None  # this rank's outcome of the pending save
        self._pending: dict[str, Any] | None = None  # the save that not all ranks have written
        self._litter: set[int] = set()  # steps of failed saves whose files may still be there
        self._publishing: dict[str, Any] | None = None  # on rank 0, the save that all ranks have written
        # Objects travel over gloo, whatever the gradients take.
        self.group = dist.new_group(backend="gloo")
        self._restorer = Restorer(self.root, engine, self.expected, self.group, self._pass_over)

    def resume(self, mode: str) -> RunState:
        """Restores the newest valid checkpoint, and takes the memory for saves; a fresh state where there is none and none is required.

        Raises:
            NothingToResume, CheckpointError: see `manifest.refuse_fresh_start` and `identity.refuse_foreign`; on every rank.
        """
        for left in on_root(self.group, lambda: remove_leftovers(self.root)):
            self.context.record("leftover_removed", directory=left.name)
        found: list[Path] = on_root(self.group, lambda: candidates(self.root, mode))
        state = self._restore(found)
        if state is None:
            on_root(self.group, lambda: refuse_fresh_start(self.root, mode, len(found)))
        else:
            on_root(self.group, lambda: refuse_other_counters(self.root, state, read_jsonl(self.context.ledger.path)))
        self._take_memory()
        if state is None:
            return RunState()
        self._trust(state.step)
        seconds = self._restorer.seconds
        self.context.record("resume", step=state.step, checkpoint=directory_name(state.step), seconds=seconds)
        logger.info(f"resumed from {directory_name(state.step)} in {seconds:.1f} s")
        return state

    def roll_back(self, at_most: int) -> RunState:
        """Restores the newest valid checkpoint of a step up to `at_most`; those after it belong to what is undone and are removed.

        Raises:
            NumericsError: there is none; on every rank.
        """
        self.drain()
        self._wait_for_writer()

        def choose() -> list[Path]:
            found = candidates(self.root, "auto")
            for directory in remove(d for d in found if step_of(d) > at_most):
                self.context.record("undone", checkpoint=directory.name)
            return [d for d in found if step_of(d) <= at_most]

        state = self._restore(on_root(self.group, choose))
        if state is None:
            raise NumericsError(f"{self.root}: no valid checkpoint of step {at_most} or before to go back to.")
        self._trust(state.step)
        return state

    def _restore(self, found: list[Path]) -> RunState | None:
        state = self._restorer.first_trusted(found)
        self.committed = state.step if state is not None else 0
        return state

    def _pass_over(self, directory: Path, line: str) -> None:
        self.context.record("checkpoint_passed_over", checkpoint=directory.name, reason=line)
        logger.info(line)

    def save(self, state: RunState, lr: float) -> None:
        """Takes a checkpoint of the state after `state.step` updates; it is written beside the training.

        Args:
            state: the run's counters.
            lr: of the last update.
        """
        began = time.monotonic()
        if self._pending is not None:
            self._finish_pending()
        assert self._snapshot is not None and self._writer is not None
        self._snapshot.fill({name: tensors for name, (tensors, _) in tensor_files(self.engine).items()})
        counters = {"step": state.step, "tokens": state.tokens, "skipped_steps": state.skipped_steps}
        self._pending = counters | {"began": began, "ordered": time.monotonic()}
        texts = text_files(self.engine, self._describe(state, lr)) if self._is_root else {}
        copies = tokenizer_files(self.shards.directory / "tokenizer") if self._is_root else []
        self._writer.send(
            "write",
            root=str(self.root),
            step=state.step,
            staging=self._staging(),
            need=self._need,
            images=[(image.name, image.offset, image.size) for image in self._snapshot.images],
            texts=texts,
            copies=[str(path.absolute()) for path in copies],
        )
        self._pending["stall_s"] = time.monotonic() - began

    def _take_memory(self) -> None:
        """Takes the memory for snapshots now: a node that has not enough says so before the first step."""
        self._snapshot = Snapshot(tensor_files(self.engine), pin=self.engine.device.type == "cuda")
        self._writer = WriterProcess(self._snapshot)
        need = torch.tensor(self._snapshot.size + RESERVE)
        dist.all_reduce(need, group=self.group)
        self._need = int(need)

    def _describe(self, state: RunState, lr: float) -> dict[str, Any]:
        recipe, position = self.recipe, state.position(self.recipe.training.batch_sizes)
        return {
            **state.counters(),
            "epoch": position / max(1, self.context.order.epoch_size),
            "position": position,
            "lr": lr,
            "adam_step": current_adam_step(self.engine),
            "seed": recipe.training.seed,
            "guard": self.engine.guard.memory(),
            "world_size": self.engine.process.world_size,
            "zero_stage": self.engine.stage,
            "precision": recipe.training.precision,
            "data": describe_data(self.shards, self.expected["settings"]),
            "recipe": asdict(recipe),
            "versions": {name: version(name) for name in ("jadeberta", "torch", "deepspeed", "transformers")},
            **self.expected,
        }

    def has_written(self) -> bool:
        """Whether this rank has done its part of the pending save, well or not; False where none is pending. Never waits."""
        self._tend()
        if self._pending is not None and self._part is None and self._is_overdue(self._pending):
            self._give_up()
        return self._pending is not None and self._part is not None

    def settle(self) -> None:
        """Decides about the pending save; called by all ranks at the same step, when all have done their part."""
        pending, part = self._pending, self._part
        assert pending is not None and part is not None
        self._pending = self._part = None
        parts: list[Any] = [None] * self.engine.process.world_size
        dist.all_gather_object(parts, part, group=self.group)
        if not self._is_root:
            return
        if failed := [f"rank {rank}: {error}" for rank, (_, error) in enumerate(parts) if error]:
            self._fail(pending, "; ".join(failed))
            return
        assert self._writer is not None
        self._publishing = pending
        files = {name: entry for part_files, _ in parts for name, entry in part_files.items()}
        self._writer.send("publish", root=str(self.root), step=pending["step"], files=files)

    def drain(self) -> int:
        """Waits until no save is pending on any rank; returns the step of the newest checkpoint."""
        if self._pending is not None:
            self._finish_pending()
        while self._publishing is not None and self._writer is not None:
            self._tend(1.0)
            if self._publishing is not None and self._is_overdue(self._publishing):
                self._give_up()
        committed = [self.committed]
        dist.broadcast_object_list(committed, src=0, group=self.group)
        return committed[0]

    def _finish_pending(self) -> None:
        while not self.has_written():
            self._tend(1.0)
        self.settle()

    def close(self) -> None:
        """Waits for what the writer still does, reading back and pruning, and ends it."""
        self._wait_for_writer()
        if self._writer is not None:
            self._writer.close()

    def _wait_for_writer(self) -> None:
        deadline = time.monotonic() + self._patience
        while self._writer is not None and self._writer.unanswered:
            self._tend(1.0)
            if time.monotonic() > deadline:
                self._give_up()

    def _trust(self, step: int) -> None:
        """The checkpoint of a step was read and every byte of it hashed: pruning need not do it again."""
        if self._is_root and self._writer is not None:
            self._writer.send("trust", step=step)

    def _is_overdue(self, save: dict[str, Any]) -> bool:
        return time.monotonic() - save["ordered"] > self._patience

    def _tend(self, seconds: float = 0.0) -> None:
        """Takes the writer's answers."""
        if self._writer is None or not self._writer.unanswered:
            return
        for answer in self._writer.wait(seconds) if seconds else self._writer.poll():
            match answer["op"]:
                case "write":
                    files = {name: tuple(entry) for name, entry in answer.get("files", {}).items()}
                    self._part = (files, answer["error"])
                case "publish":
                    self._published(answer["error"])
                case "verify":
                    faults = answer.get("faults", [])
                    if faults:
                        logger.info(f"{directory_name(answer['step'])} was written and cannot be trusted: {faults[0]}")
                    self.context.record(
                        "verified", step=answer["step"], faults=faults, error=answer["error"], seconds=answer["seconds"]
                    )
                case "discard":
                    if answer["error"]:
                        self._litter.add(answer["step"])
                case "prune":
                    for name in answer.get("removed", []):
                        self.context.record("prune", checkpoint=name)
                    if answer["error"]:
                        self.context.record("prune_failed", error=answer["error"])

    def _published(self, error: str | None) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is None or self._writer is None:
            return
        if error:
            self._fail(publishing, error)
            return
        step, keep = publishing["step"], self.recipe.checkpoint
        self.committed = step
        self.context.record(
            "save",
            checkpoint=directory_name(step),
            write_s=time.monotonic() - publishing["began"],
            **{key: publishing[key] for key in ("step", "tokens", "skipped_steps", "stall_s")},
        )
        self._litter.discard(step)
        self._clear_litter()
        self._writer.send("verify", root=str(self.root), step=step)
        self._writer.send("prune", root=str(self.root), keep_last=keep.keep_last, keep_every=keep.keep_every)

    def _fail(self, save: dict[str, Any], error: str) -> None:
        self.context.record("save_failed", step=save["step"], error=error, stall_s=save.get("stall_s", 0.0))
        logger.info(
            f"step {save['step']}: the checkpoint was not written ({error}). Training goes on; the next save tries again."
        )
        self._litter.add(save["step"])
        self._clear_litter()

    def _clear_litter(self) -> None:
        """Has removed what failed saves left; what the disk does not let go now is tried again with the next save."""
        assert self._writer is not None
        for step in sorted(self._litter):
            self._writer.send("discard", root=str(self.root), step=step)
        self._litter.clear()

    def _give_up(self) -> None:
        """Ends a writer that takes too long: the disk may hang for ever, training need not."""
        assert self._writer is not None
        self._writer.give_up(f"not done after {self._patience:.0f} s, given up; the disk may hang")
        self._tend()

    def _staging(self) -> str:
        """A directory on this node for this run alone; empty where the recipe names none."""
        staging = self.recipe.checkpoint.staging
        return str(Path(staging).absolute() / self.root.parent.name / f"rank-{self.engine.process.rank:05d}") if staging else ""
