"""Hooks of the training loop: what a run does around its steps, with watchdog, requests, damaged shards and evaluation."""

import logging
import time
from collections.abc import Callable, Sequence

import torch.distributed as dist

from jadeberta.cluster.process_group import set_timeouts
from jadeberta.errors import ShardError
from jadeberta.shards import ExcludedRows
from jadeberta.shards.scrub import Scrubber
from jadeberta.training.control import RankFlags
from jadeberta.training.loop import Hooks
from jadeberta.training.profiling.step_profiler import StepProfiler, read_request
from jadeberta.training.run_context import RunContext

logger = logging.getLogger(__name__)

GRACE_S = 60.0
"""The collectives' own time limit lies this far behind the watchdog's: the watchdog knows who hangs, a collective does not."""

NO_LIMIT_S = 7 * 24 * 3600.0
"""Time limit of collectives where the recipe sets none, seconds: torch takes no "for ever"."""

Evaluate = Callable[[Callable[[], RankFlags]], tuple[dict[str, dict[str, float]], RankFlags]]
"""Called with a function that gives this rank's flags; returns figures by corpus, and the flags that ended it early."""


class TrainerHooks(Hooks):
    """The hooks of one rank; `loop.Hooks` says when each is called."""

    def __init__(self, context: RunContext, scrubbers: Sequence[Scrubber], evaluate: Evaluate | None) -> None:
        """Starts nothing.

        Args:
            context: of the run.
            scrubbers: look for damaged shards beside the training, one for each row length.
            evaluate: evaluates the model; None where the recipe has no evaluation.
        """
        self.context, self._scrubbers, self._evaluate = context, scrubbers, evaluate
        self._reported_broken = False
        self._profiler = StepProfiler(context.run_dir, context.process.rank, context.device)

    def beat(self, phase: str, step: int, section: str = "") -> None:
        self.context.watchdog.beat(phase, step, section)

    def step_done(self, step_s: float, data_s: float, compute_s: float, last_forward_s: float) -> None:
        self.context.watchdog.add_step(step_s, data_s, compute_s, last_forward_s)

    def flags(self) -> RankFlags:
        flags = self.context.control.flags()
        if self.context.watchdog.wish:
            flags.requeue = 1
        return flags

    def clear(self, name: str) -> None:
        self.context.control.clear(name)

    @property
    def reason(self) -> str:
        return self.context.control.reason or self.context.watchdog.wish

    @property
    def stopped_by(self) -> str:
        return self.context.control.stopped_by

    def damaged_shards(self) -> list[ExcludedRows]:
        found = [fault for scrubber in self._scrubbers for fault in scrubber.faults()]
        if any(scrubber.state == "broken" for scrubber in self._scrubbers) and not self._reported_broken:
            self._reported_broken = True
            self.context.ledger.write("sweep_broken", rank=self.context.process.rank)
            logger.warning("the search for damaged shards ended early: shards it had not read go unchecked")
        return found

    def exclude_shards(self, found: list[ExcludedRows], step: int) -> None:
        everywhere: list[list[ExcludedRows]] = [[] for _ in range(self.context.process.world_size)]
        # Every rank searches a share of the shards and reads all of them: all ranks must exclude the same ones at the same step.
        dist.all_gather_object(everywhere, found)
        readers = self.context.data.readers.values()
        for shard in (s for of_rank in everywhere for s in of_rank):
            holder = next((reader for reader in readers if reader.holds(shard.file)), None)
            if holder is None:
                continue  # its rows have a length that the run does not read
            if self.context.recipe.data.damaged == "stop":
                raise ShardError(f"{shard.reason} data.damaged: exclude trains without it.")
            is_new = holder.exclude_shard(shard.file, shard.reason)
            if is_new and self.context.process.is_root:
                self.context.ledger.write("set_aside", rank=0, step=step, **vars(shard))
                logger.info("%s: excluded, %s sequences", self.context.shards.directory / shard.file, shard.sequences)

    def record_excluded_row(self, row: ExcludedRows, step: int) -> None:
        # A shard that is excluded as a whole has one event; one for each of its rows would fill the ledger.
        if not row.whole_shard:
            self.context.ledger.write("set_aside", rank=self.context.process.rank, step=step, **vars(row))

    def first_step_ahead(self) -> None:
        limits = self.context.recipe.watchdog
        set_timeouts(max(limits.first_step_s, limits.save_s, limits.eval_s) + GRACE_S if limits.first_step_s else NO_LIMIT_S)

    def first_step_done(self) -> None:
        # The first step compiles and waits for all ranks to come up; from now on a rank that is silent is lost.
        limits = self.context.recipe.watchdog
        if limits.step_s:
            set_timeouts(max(limits.step_s, limits.save_s, limits.eval_s) + GRACE_S)

    def profile(self, step: int, is_asked: bool) -> None:
        if self._profiler.is_on and self._profiler.is_last():
            self.end_profile(step)
        if is_asked and not self._profiler.is_on:
            ranks = self._ranks_to_profile()
            self.clear("PROFILE")
            if ranks:
                self._profiler.begin(step, ranks)

    def _ranks_to_profile(self) -> list[int]:
        """The ranks that PROFILE names, on every rank; none where it cannot be followed. Rank 0 alone reads it: it is removed then."""
        found: list[list[int]] = [[]]
        if self.context.process.is_root:
            path = self.context.run_dir / "PROFILE"
            try:
                found = [read_request(path, self.context.process.world_size)]
            except ValueError as e:
                logger.warning("%s. Nothing is profiled.", e)
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def end_profile(self, step: int) -> None:
        if not self._profiler.is_on:
            return
        self.beat("save", step, "profile")
        steps, ranks = self._profiler.end(), self._profiler.ranks
        if steps:
            self.context.record("profile", step=step, steps=steps, ranks=ranks)
            many = f"ranks {', '.join(map(str, ranks[:8]))}{' ...' * (len(ranks) > 8)}" if len(ranks) > 1 else f"rank {ranks[0]}"
            logger.info("step %s: profiled the last %s steps of %s, see %s", step, steps, many, self._profiler.folder)

    def evaluate(self, step: int) -> RankFlags:
        if self._evaluate is None:
            return RankFlags()
        began = time.monotonic()
        figures, flags = self._evaluate(self.flags)
        is_cut_short = bool(flags.stop or flags.requeue)
        self.context.record(
            "evaluation",
            step=step,
            seconds=time.monotonic() - began,
            corpora=figures,
            weights=self.context.recipe.evaluation.weights,
            whole=bool(figures),
        )
        nothing = "not finished: asked to end" if is_cut_short else "none: the shards hold no held-out rows of this length"
        each = "  ".join(f"{name} {f['accuracy']:.3f}" for name, f in figures.items())
        logger.info("step %s: held-out masked accuracy  %s", step, each or nothing)
        return flags
