"""The world around the training loop as the loop sees it: watchdog, asks from outside, damaged shards, evaluation."""

import sys
from collections.abc import Callable
from typing import Literal, Protocol

import torch.distributed as dist

from jadeberta.cluster.process_group import set_timeouts
from jadeberta.config import Recipe
from jadeberta.errors import ShardError
from jadeberta.shards import ExcludedRows, ShardReader
from jadeberta.training.console import Progress
from jadeberta.training.control import Asks, Control
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.ledger import Ledger
from jadeberta.training.watchdog.client import Heart

GRACE_S = 60.0
"""By so much the watchdog, which knows who hangs, is ahead of the collectives' own time limit."""


class DamageFinder(Protocol):
    """Looks for damaged shards beside the training."""

    state: Literal["not needed", "running", "done", "broken"]

    def faults(self) -> list[ExcludedRows]:
        """What was found since the last call; never waits."""


Evaluate = Callable[[Callable[[], Asks]], tuple[dict[str, dict[str, float]], Asks, float]]
"""Given a way to be asked: figures by corpus, what was asked, seconds."""


class World:
    """Passes on what the loop says and asks."""

    def __init__(
        self,
        recipe: Recipe,
        engine: TrainingEngine,
        heart: Heart,
        control: Control,
        own_ledger: Ledger,
        progress: Progress,
        shards: ShardReader,
        finder: DamageFinder,
        evaluate: Evaluate | None,
    ) -> None:
        """`own_ledger` takes what happens to this rank alone, on every rank."""
        self.recipe, self.engine, self.heart, self.control = recipe, engine, heart, control
        self.own_ledger, self.progress = own_ledger, progress
        self.shards, self._finder, self._evaluate = shards, finder, evaluate
        self._said_broken = False
        self.poll, self.done = control.poll, control.done

    def beat(self, phase: str, step: int, place: str = "") -> None:
        self._phase, self._step = phase, step
        self.heart.beat(phase, step, place)

    def in_step(self, place: str) -> None:
        """The engine is at some place of the step."""
        self.heart.beat(self._phase, self._step, place)

    @property
    def reason(self) -> str:
        return self.control.reason

    def damage(self) -> list[ExcludedRows]:
        found = self._finder.faults()
        if self._finder.state == "broken" and not self._said_broken:
            self._said_broken = True
            self.own_ledger.write("sweep_broken", rank=self.engine.process.rank)
            print("the search for damaged shards ended early: shards it had not read go unchecked", file=sys.stderr, flush=True)
        return found

    def share_damage(self, found: list[ExcludedRows]) -> None:
        everywhere: list[list[ExcludedRows]] = [[] for _ in range(self.engine.process.world_size)]
        dist.all_gather_object(everywhere, found)
        for record in (r for of_rank in everywhere for r in of_rank):
            path = self.shards.directory / record.file
            if self.recipe.data.damaged == "stop":
                raise ShardError(f"{record.reason} data.damaged: exclude trains without it.")
            if self.shards.exclude_shard(record.file, record.reason) and self.engine.process.is_root:
                self.own_ledger.write("set_aside", rank=0, step=self._step, **vars(record))
                self.progress.say(f"{path}: excluded, {record.sequences} sequences")

    def exclude(self, record: ExcludedRows) -> None:
        if not record.whole_shard:  # of a whole shard there is one line, not one a row
            self.own_ledger.write("set_aside", rank=self.engine.process.rank, step=self._step, **vars(record))

    def first_step_done(self) -> None:
        """The first step compiles and meets everybody; after it a silent rank is a lost one."""
        limits = self.recipe.watchdog
        if limits.step_s:
            set_timeouts(max(limits.step_s, limits.save_s, limits.eval_s) + GRACE_S)

    def evaluate(self) -> Asks:
        if self._evaluate is None:
            return Asks()
        figures, asks, seconds = self._evaluate(self.control.poll)
        if self.engine.process.is_root:
            weights = self.recipe.evaluation.weights
            self.own_ledger.write(
                "evaluation", step=self._step, seconds=seconds, corpora=figures, weights=weights, whole=bool(figures)
            )
            each = "  ".join(f"{name} {f['accuracy']:.3f}" for name, f in figures.items())
            self.progress.say(f"step {self._step}: held-out masked accuracy  {each or 'not finished: asked to end'}")
        return asks
