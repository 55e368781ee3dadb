"""The run context: what every part of one attempt needs, put together once in `jadeberta/pretrain.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jadeberta.cluster.environment import Process
from jadeberta.config import Recipe
from jadeberta.config.lineage import Lineage
from jadeberta.data.run_data import RunData
from jadeberta.shards import ShardReader
from jadeberta.training.console import Console
from jadeberta.training.control import RunControl
from jadeberta.training.ledger import Ledger
from jadeberta.training.watchdog.client import WatchdogClient


@dataclass(frozen=True)
class StartOfRun:
    """Where a run starts from while it has no checkpoint; empty: random weights. Rank 0 plans it, and the other ranks have an empty one."""

    lineage: Lineage = ()
    """What the run has started from, oldest first."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """Every parameter in fp32, by name, where the run starts from published weights."""
    branch: Path | None = None
    """Checkpoint of another run, where the run is a branch."""


@dataclass(frozen=True)
class RunContext:
    """One attempt of a run as one rank sees it; the fields are never replaced."""

    recipe: Recipe
    process: Process
    """Rank, world size and launcher."""
    device: torch.device
    data: RunData
    """The training rows, the phases and the sample order before any roll-back."""
    ledger: Ledger
    """Every rank has one. Events of the whole run go through `record`; a rank writes here itself what happens to it alone."""
    console: Console
    watchdog: WatchdogClient
    control: RunControl
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    """Content of the tokenizer's files by name, as it was checked at the start; every checkpoint carries it."""
    start: StartOfRun = field(default_factory=StartOfRun)

    @property
    def shards(self) -> ShardReader:
        """The training split, its rows of the only or first length."""
        return self.data.shards

    @property
    def repeats(self) -> dict[str, int]:
        """How often an epoch sees each corpus: the index's numbers, with those of the recipe over them."""
        return self.data.repeats

    @property
    def run_dir(self) -> Path:
        """Directory of the run."""
        return Path(self.recipe.run.dir)

    @property
    def attempt(self) -> int:
        """Number of this start of the job in its run, from 0."""
        return self.ledger.attempt

    def record(self, event: str, **fields: Any) -> None:
        """Appends an event of the whole run to the ledger; on ranks other than 0 it does nothing."""
        if self.process.is_root:
            self.ledger.write(event, **fields)
