"""Saves and resumes a run: what the training loop sees of checkpoints.

Training waits for the copy of its state into memory and for nothing else; a process of each rank writes it beside the training, and
the next save waits for the last. A save that fails leaves the run going and says so in the ledger.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jadeberta.checkpoint.background import WriterProcess
from jadeberta.checkpoint.commit import Files, remove, remove_leftovers
from jadeberta.checkpoint.content import current_adam_step, read_state, restore, tensor_files, text_files, tokenizer_files
from jadeberta.checkpoint.identity import describe_data, expected_of, refuse_foreign, refuse_inconsistent, refuse_other_counters
from jadeberta.checkpoint.manifest import candidates, directory_name, passed_over, refuse_fresh_start, step_of, verify
from jadeberta.checkpoint.snapshot import Snapshot
from jadeberta.config import Recipe
from jadeberta.errors import CheckpointError, JadebertaError, NumericsError
from jadeberta.shards import ShardReader
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.ledger import Ledger, read_jsonl
from jadeberta.training.progress import Progress
from jadeberta.training.state import RunState

RESERVE = 1 << 20
"""Bytes counted for the small files of a checkpoint when asking for disk space."""


class Checkpointer:
    """Writes the checkpoints of one run and finds the one to go on from. Every rank has one and calls it alike."""

    def __init__(
        self,
        recipe: Recipe,
        engine: TrainingEngine,
        shards: ShardReader,
        repeats: dict[str, int],
        ledger: Ledger | None,
        progress: Progress,
    ) -> None:
        self.recipe, self.engine, self.shards, self.ledger, self.progress = recipe, engine, shards, ledger, progress
        self.root = (Path(recipe.run.dir) / "checkpoints").absolute()
        self.expected = expected_of(recipe, shards, repeats)
        self.committed = 0
        """Step of the newest checkpoint that this life wrote or resumed from; known to rank 0."""
        self._is_root = engine.process.is_root
        self._patience = recipe.watchdog.save_s or float("inf")
        self._snapshot: Snapshot | None = None
        self._writer: WriterProcess | None = None
        self._need = 0
        self._part: tuple[Files, str | None] | None = None  # this rank's outcome of the pending save
        self._pending: dict[str, Any] | None = None  # the save that not all ranks have written
        self._publishing: dict[str, Any] | None = None  # on rank 0, the save that all ranks have written
        # Objects travel over gloo, whatever the gradients take.
        self.group = dist.new_group(backend="gloo")

    def resume(self, mode: str) -> RunState:
        """Restores the newest valid checkpoint, and takes the memory for saves; a fresh state where there is none and none is required.

        Raises:
            NothingToResume, CheckpointError: see `manifest.refuse_fresh_start` and `identity.refuse_foreign`; on every rank.
        """
        for left in self._on_root(lambda: remove_leftovers(self.root)):
            self._note("leftover_removed", directory=left.name)
        found: list[Path] = self._on_root(lambda: candidates(self.root, mode))
        began = time.monotonic()
        state = self._restore_first(found)
        if state is None:
            self._on_root(lambda: refuse_fresh_start(self.root, mode, len(found)))
        else:
            self._on_root(lambda: refuse_other_counters(self.root, state, self._rows_of_ledger()))
        self._take_memory()
        if state is None:
            return RunState()
        self._note("resume", step=state.step, checkpoint=directory_name(state.step), seconds=time.monotonic() - began)
        self.progress.say(f"resumed from {directory_name(state.step)} in {time.monotonic() - began:.1f} s")
        return state

    def roll_back(self, at_most: int) -> RunState:
        """Restores the newest valid checkpoint of a step up to `at_most`; those after it belong to what is undone and are removed.

        Raises:
            NumericsError: there is none; on every rank.
        """
        self.drain()

        def choose() -> list[Path]:
            found = candidates(self.root, "auto")
            for directory in remove(d for d in found if step_of(d) > at_most):
                self._note("undone", checkpoint=directory.name)
            return [d for d in found if step_of(d) <= at_most]

        state = self._restore_first(self._on_root(choose))
        if state is None:
            raise NumericsError(f"{self.root}: no valid checkpoint of step {at_most} or before to go back to.")
        return state

    def _restore_first(self, found: list[Path]) -> RunState | None:
        """Restores the first checkpoint of a list that can be trusted; None where none can.

        Its bytes are hashed while they are read into the engine; where the hash then says no, the next one is read over it.
        """
        for directory in found:
            fault, state = self._on_root(lambda d=directory: self._look(d))
            if fault is None:
                with ThreadPoolExecutor(1) as beside:
                    hashed = beside.submit(verify, directory) if self._is_root else None
                    problem = self._try_restore(directory)
                    faults = hashed.result() if hashed is not None else []
                problems: list[Any] = [None] * self.engine.process.world_size
                dist.all_gather_object(problems, faults[0] if faults else problem, group=self.group)
                fault = next((p for p in problems if p), None)
            if fault is None:
                self.committed = state["step"]
                self.engine.guard.recall(state["guard"])
                return RunState.of(state)
            line = passed_over(directory, fault)
            self._note("checkpoint_passed_over", checkpoint=directory.name, reason=line)
            self.progress.say(line)
        return None

    def _look(self, directory: Path) -> tuple[str | None, dict[str, Any]]:
        """What is wrong with a checkpoint as far as its small files tell, and its state. Raises CheckpointError where it is foreign."""
        if faults := verify(directory, small_only=True):
            return faults[0], {}
        state = read_state(directory)
        refuse_foreign(directory, state, self.expected)
        refuse_inconsistent(directory, state)
        return None, state

    def _try_restore(self, directory: Path) -> str | None:
        """The reason why a checkpoint could not be read; raised here it would leave the other ranks waiting."""
        try:
            restore(directory, self.engine)
        except CheckpointError as e:
            return str(e)
        except Exception as e:  # whatever a damaged file does to its reader
            return f"{directory}: cannot be read ({type(e).__name__}: {e})."
        return None

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
        self._pending = {"step": state.step, "tokens": state.tokens, "skipped_steps": state.skipped_steps, "began": began}
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
        recipe = self.recipe
        return {
            **state.counters(),
            "epoch": state.position(recipe.training.global_batch_size) / max(1, self._epoch_size),
            "position": state.position(recipe.training.global_batch_size),
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
        if self._pending is not None and self._part is None and time.monotonic() - self._pending["began"] > self._patience:
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
        self._publishing = pending | {"published_since": time.monotonic()}
        files = {name: entry for part_files, _ in parts for name, entry in part_files.items()}
        self._writer.send("publish", root=str(self.root), step=pending["step"], files=files)

    def drain(self) -> int:
        """Waits until no save is pending on any rank; returns the step of the newest checkpoint."""
        if self._pending is not None:
            self._finish_pending()
        while self._publishing is not None and self._writer is not None:
            self._tend(1.0)
            if self._publishing is not None and time.monotonic() - self._publishing["published_since"] > self._patience:
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
        while self._writer is not None and self._writer.unanswered:
            self._tend(1.0)
        if self._writer is not None:
            self._writer.close()

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
                        self.progress.say(f"{directory_name(answer['step'])} was written and cannot be trusted: {faults[0]}")
                    self._note("verified", step=answer["step"], faults=faults, error=answer["error"], seconds=answer["seconds"])
                case "prune":
                    for name in answer.get("removed", []):
                        self._note("prune", checkpoint=name)
                    if answer["error"]:
                        self._note("prune_failed", error=answer["error"])

    def _published(self, error: str | None) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is None or self._writer is None:
            return
        if error:
            self._fail(publishing, error)
            return
        step, keep = publishing["step"], self.recipe.checkpoint
        self.committed = step
        self._note(
            "save",
            checkpoint=directory_name(step),
            write_s=time.monotonic() - publishing["began"],
            **{key: publishing[key] for key in ("step", "tokens", "skipped_steps", "stall_s")},
        )
        self._writer.send("verify", root=str(self.root), step=step)
        self._writer.send("prune", root=str(self.root), keep_last=keep.keep_last, keep_every=keep.keep_every)

    def _fail(self, save: dict[str, Any], error: str) -> None:
        self._note("save_failed", step=save["step"], error=error, stall_s=save.get("stall_s", 0.0))
        self.progress.say(
            f"step {save['step']}: the checkpoint was not written ({error}). Training goes on; the next save tries again."
        )
        if self._writer is not None:
            self._writer.send("discard", root=str(self.root), step=save["step"])

    def _give_up(self) -> None:
        """Ends a writer that takes too long: the disk may hang for ever, training need not."""
        assert self._writer is not None
        self._writer.give_up()
        self._tend()

    def _staging(self) -> str:
        """A directory on this node for this run alone; empty where the recipe names none."""
        staging = self.recipe.checkpoint.staging
        return str(Path(staging).absolute() / self.root.parent.name / f"rank-{self.engine.process.rank:05d}") if staging else ""

    def _rows_of_ledger(self) -> list[dict[str, Any]]:
        return read_jsonl(self.ledger.path) if self.ledger is not None else []

    def _on_root(self, work: Any) -> Any:
        """Rank 0's result on every rank; its error too."""
        outcome: list[Any] = [None]
        if self._is_root:
            try:
                outcome = [work()]
            except JadebertaError as e:
                outcome = [e]
            except OSError as e:
                outcome = [CheckpointError(f"{e.filename or self.root}: {e.strerror or e}.")]
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        if isinstance(outcome[0], JadebertaError):
            raise outcome[0]
        return outcome[0]

    @property
    def _epoch_size(self) -> int:
        repeats = {
            k.removeprefix("data.repeats."): v for k, v in self.expected["settings"].items() if k.startswith("data.repeats.")
        }
        return sum(len(rows) * repeats[name] for name, rows in self.shards.corpora.items())

    def _note(self, event: str, **fields: Any) -> None:
        if self.ledger is not None:
            self.ledger.write(event, **fields)
