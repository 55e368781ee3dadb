"""Saves and resumes a run: what the training loop sees of checkpoints.

A save that fails leaves the run going and says so in the ledger; a checkpoint of other data or another recipe is refused.
"""

import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist

from jadeberta.checkpoint.commit import commit, prune, remove_leftovers
from jadeberta.checkpoint.content import current_adam_step, read_state, restore, write_rank
from jadeberta.checkpoint.manifest import choose, verify
from jadeberta.config import Recipe
from jadeberta.errors import CheckpointError, JadebertaError
from jadeberta.shards import ShardReader
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.ledger import Ledger
from jadeberta.training.progress import Progress

FREE_KEYS = {
    "model": {"attention"},
    "training": {"micro_batch_size", "max_steps", "precision", "max_skipped_in_row"},
}
"""Keys of sections that bind a run which may still change between its lives."""


def binding_settings(recipe: Recipe, repeats: dict[str, int]) -> dict[str, Any]:
    """The settings that a checkpoint belongs to, by their full key."""
    values = {
        f"{section}.{k}": v
        for section, free in FREE_KEYS.items()
        for k, v in asdict(getattr(recipe, section)).items()
        if k not in free
    }
    return values | {"data.packing": recipe.data.packing} | {f"data.repeats.{name}": n for name, n in repeats.items()}


def expected_of(recipe: Recipe, shards: ShardReader, repeats: dict[str, int]) -> dict[str, Any]:
    """What a checkpoint of this run says of its data and settings."""
    fingerprints = {"shards": shards.index.fingerprint, "tokenizer": shards.index.tokenizer_sha256}
    return {"fingerprints": fingerprints, "settings": binding_settings(recipe, repeats)}


def preview(root: Path, resume: str, expected: dict[str, Any]) -> Path | None:
    """The checkpoint that a start would resume from, if any; raises what the start would raise."""
    directory = choose(root, resume, lambda line: print(line, file=sys.stderr))
    if directory is not None:
        refuse_foreign(directory, read_state(directory), expected)
    return directory


def refuse_foreign(directory: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises CheckpointError where a checkpoint's data, tokenizer or settings are not the run's; names both."""
    for what, remedy in (("shards", "data.shards"), ("tokenizer", "data.shards")):
        if state["fingerprints"][what] != expected["fingerprints"][what]:
            raise CheckpointError(
                f"{directory}: made with other {what} (checkpoint {state['fingerprints'][what][:16]}…, this run "
                f"{expected['fingerprints'][what][:16]}…). Set {remedy} to the ones it was made with, or choose another run.dir."
            )
    before, now = state["settings"], expected["settings"]
    differ = [f"{k} {before.get(k)} -> {now.get(k)}" for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if differ:
        raise CheckpointError(
            f"{directory}: made with another recipe ({'; '.join(differ)}). Set them back, or choose another run.dir."
        )


def describe_data(shards: ShardReader, settings: dict[str, Any]) -> dict[str, Any]:
    """How the shards were made and what is in them, so that a checkpoint tells it without them."""
    index = shards.index
    corpora = {
        name: {key: sum(getattr(entry, key) for entry in corpus.train) for key in ("documents", "sequences", "tokens")}
        | {"repeats": settings[f"data.repeats.{name}"]}
        for name, corpus in index.corpora.items()
    }
    keys = ("sequence_length", "vocab_size", "segmenter", "normaliser", "sentence_splitter")
    return {key: getattr(index, key) for key in keys} | {"corpora": corpora}


class Checkpointer:
    """Writes the checkpoints of one run and finds the one to go on from."""

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
        self.root = Path(recipe.run.dir) / "checkpoints"
        self.expected = expected_of(recipe, shards, repeats)
        self._verified: set[Path] = set()
        # Objects travel over gloo, whatever the gradients take.
        self.group = dist.new_group(backend="gloo")

    def resume(self, mode: str) -> dict[str, Any]:
        """Restores the newest valid checkpoint and returns its state; step, tokens and skipped_steps 0 for a fresh start.

        Raises:
            NothingToResume, CheckpointError: see `manifest.choose` and `refuse_foreign`; on every rank.
        """
        outcome: list[Any] = [None]
        if self.engine.process.is_root:
            try:
                for left in remove_leftovers(self.root):
                    self._note("leftover_removed", directory=left.name)
                directory = choose(self.root, mode, self._report)
                if directory is not None:
                    refuse_foreign(directory, read_state(directory), self.expected)
                outcome = [directory]
            except JadebertaError as e:
                outcome = [e]
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        if isinstance(outcome[0], JadebertaError):
            raise outcome[0]
        if outcome[0] is None:
            return {"step": 0, "tokens": 0, "skipped_steps": 0}
        self._verified.add(outcome[0])
        began = time.monotonic()
        restore(outcome[0], self.engine)
        state = read_state(outcome[0])
        if self.ledger is not None:
            self.ledger.write("resume", step=state["step"], checkpoint=outcome[0].name, seconds=time.monotonic() - began)
        self.progress.say(f"resumed from {outcome[0].name} in {time.monotonic() - began:.1f} s")
        return state

    def save(self, step: int, tokens: int, lr: float, skipped_steps: int) -> bool:
        """Commits a checkpoint of the state after `step` updates; False where it could not be written."""
        began = time.monotonic()
        state = {
            "step": step,
            "tokens": tokens,
            "epoch": step * self.recipe.training.global_batch_size / max(1, self._epoch_size),
            "position": step * self.recipe.training.global_batch_size,
            "lr": lr,
            "adam_step": current_adam_step(self.engine),
            "seed": self.recipe.training.seed,
            "skipped_steps": skipped_steps,
            "world_size": self.engine.process.world_size,
            "zero_stage": self.engine.stage,
            "precision": self.recipe.training.precision,
            "data": describe_data(self.shards, self.expected["settings"]),
            "recipe": asdict(self.recipe),
            "versions": {name: version(name) for name in ("jadeberta", "torch", "deepspeed", "transformers")},
            **self.expected,
        }
        tokenizer = self.shards.directory / "tokenizer"
        try:
            directory = commit(self.root, step, lambda d: write_rank(d, self.engine, state, tokenizer), self.group)
        except CheckpointError as e:
            self._note("save_failed", step=step, error=str(e))
            self.progress.say(f"step {step}: {e} Training goes on; the next save tries again.")
            return False
        self._note("save", step=step, checkpoint=directory.name, seconds=time.monotonic() - began)
        self._verified.add(directory)
        if self.engine.process.is_root:
            self._prune()
        return True

    def _prune(self) -> None:
        """Removes old checkpoints; one that cannot be removed is noted and left."""
        keep = self.recipe.checkpoint
        try:
            for removed in prune(self.root, keep.keep_last, keep.keep_every, self._is_trusted):
                self._note("prune", checkpoint=removed.name)
        except OSError as e:
            self._note("prune_failed", error=str(e))

    def _is_trusted(self, directory: Path) -> bool:
        """Read and hashed by this process, when it wrote it or now."""
        if directory not in self._verified and not verify(directory):
            self._verified.add(directory)
        return directory in self._verified

    @property
    def _epoch_size(self) -> int:
        repeats = {
            k.removeprefix("data.repeats."): v for k, v in self.expected["settings"].items() if k.startswith("data.repeats.")
        }
        return sum(len(rows) * repeats[name] for name, rows in self.shards.corpora.items())

    def _report(self, line: str) -> None:
        self._note("checkpoint_passed_over", reason=line)
        self.progress.say(line)

    def _note(self, event: str, **fields: Any) -> None:
        if self.ledger is not None:
            self.ledger.write(event, **fields)
