"""Fakes around the training loop: engine, checkpointer, hooks and log of one rank of two, which write down each call."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from jadeberta.config import CheckpointConfig, EvaluationConfig, GuardConfig, Recipe, RunConfig, TrainingConfig
from jadeberta.config.phases import Phase
from jadeberta.data.batches import StepBatch
from jadeberta.data.sample_order import SampleOrder
from jadeberta.errors import ShardError
from jadeberta.shards import ExcludedRows
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import StepResult
from jadeberta.training.loop import NewestSave, train
from jadeberta.training.run_state import RunState

TOKENS = 10
"""Tokens of every step."""
ROW = ExcludedRows("cc100-00000.tar", 3, 512, "its sum differs", 1, whole_shard=False)
SHARD = ExcludedRows("cc100-00001.tar", 0, 0, "sha256 differs", 7, whole_shard=True)


@dataclass
class LoopRun:
    """Fakes of one rank of two: each writes its calls into `calls`; the dictionaries say at which step something happens.

    Steps count from 1, as in metrics.jsonl.
    """

    max_steps: int = 4
    every: int = 100
    evaluate_every: int = 0
    compare_every: int = 0
    max_skips: int = 1
    skipped: set[int] = field(default_factory=set)
    flags: dict[int, RankFlags] = field(default_factory=dict)
    """Sum over the ranks that the engine's all-reduce gives at a step; of this rank alone too."""
    damaged: dict[int, list[ExcludedRows]] = field(default_factory=dict)
    rows: dict[int, list[ExcludedRows]] = field(default_factory=dict)
    flags_while_evaluating: dict[int, RankFlags] = field(default_factory=dict)
    differing: dict[int, list[int]] = field(default_factory=dict)
    written_after: int = 2
    """Looks of the loop until this rank's part of a save is written; the other rank's is at the same time."""
    fails_to_save: dict[int, int] = field(default_factory=dict)
    """How many saves of a step fail, or are read back bad."""
    may_retry: bool = True
    """Whether the disk answers in time."""
    is_strict: bool = False
    """Damage ends the run, as `data.damaged: stop` says."""
    first_step: int = 0

    def __post_init__(self) -> None:
        self.calls: list[str] = []
        self.spent: list[tuple[float, float, float, float]] = []
        self.ended_profiles: list[int] = []
        self.own_flags: list[RankFlags] = []
        self.lrs: list[float] = []
        self.logged: list[tuple[int, Any]] = []
        self.skip_rows: list[dict[str, Any]] = []
        self.step = self.first_step
        self.pending, self.committed, self.looks = 0, 0, 0
        self.failures: dict[int, int] = {}
        self.reason = "SIGUSR1"
        self.process, self.context = SimpleNamespace(world_size=2), None
        self.recipe = Recipe(
            run=RunConfig(dir="runs/test"),
            training=TrainingConfig(max_steps=self.max_steps, lr=1.0, warmup_steps=2, schedule="constant"),
            checkpoint=CheckpointConfig(every_steps=self.every),
            evaluation=EvaluationConfig(every_steps=self.evaluate_every),
            guard=GuardConfig(max_skipped_in_row=self.max_skips, compare_weights_every=self.compare_every),
        )
        self.order = SampleOrder.of(1, 2, {"web": range(20)}, {"web": 1}).skipping(((1, 3),))

    def run(self, **state: Any) -> RunState:
        start = RunState(step=self.first_step, **state)
        doubles: dict[str, Any] = {
            "engine": FakeEngine(self),
            "saver": FakeSaver(self),
            "hooks": FakeHooks(self),
            "log": FakeLog(self),
        }
        return train(self.recipe, start, self.batches(), self.order, **doubles)

    def batches(self) -> Iterator[StepBatch]:
        for step in range(self.first_step, self.max_steps):
            yield StepBatch(step, 0, f"hash {step}", [], 3, TOKENS // 2, self.rows.get(step + 1, []))

    def ends_with(self, error: type[Exception]) -> Exception:
        with pytest.raises(error) as caught:
            self.run()
        return caught.value


class FakeEngine:
    """Sums the flags of two ranks that have the same."""

    def __init__(self, job: LoopRun) -> None:
        self.job, self.process = job, job.process

    def step(self, batch: StepBatch, lr: float, flags: RankFlags) -> StepResult:
        job = self.job
        job.step = batch.step + 1
        job.calls.append(f"step {job.step}")
        job.own_flags.append(flags)
        job.lrs.append(lr)
        summed = RankFlags(**{name: 2 * value for name, value in vars(flags).items()})
        fault = "loss nan" if job.step in job.skipped else None
        return StepResult(1.5, 0.5, 6, TOKENS, 16, 0, 1.0, fault, summed)

    def enter_phase(self, phase: Phase, is_border: bool) -> None:
        if len(self.job.recipe.phases) > 1:
            self.job.calls.append(f"enter phase {phase.number}{' at its border' * is_border}")

    def differing_ranks(self) -> list[int]:
        self.job.calls.append("compare weights")
        return self.job.differing.get(self.job.step, [])


class FakeSaver:
    """A checkpointer whose writer needs some looks."""

    def __init__(self, job: LoopRun) -> None:
        self.job = job

    def save(self, state: RunState, lr: float) -> None:
        assert state.step == self.job.step and lr == self.job.lrs[-1]
        self.job.calls.append(f"save {state.step}")
        self.job.pending, self.job.looks = state.step, 0

    def has_written(self) -> bool:
        self.job.looks += bool(self.job.pending)
        return bool(self.job.pending) and self.job.looks >= self.job.written_after

    def settle(self) -> None:
        self.job.calls.append(f"settle {self.job.pending}")
        self.job.failures[self.job.pending] = failed = self.job.failures.get(self.job.pending, 0) + 1
        if failed > self.job.fails_to_save.get(self.job.pending, 0):
            self.job.committed = self.job.pending
        self.job.pending = 0

    def secure(self) -> NewestSave:
        if self.job.pending:
            self.settle()
        self.job.calls.append("secure")
        return NewestSave(
            self.job.committed, f"could not be written; the newest is of step {self.job.committed}", self.job.may_retry
        )


class FakeHooks:
    """Requests, damage and evaluation as the job says."""

    def __init__(self, job: LoopRun) -> None:
        self.job = job

    def beat(self, phase: str, step: int, section: str = "") -> None:
        self.job.calls.append(f"beat {phase} {step} {section}")

    def step_done(self, step_s: float, data_s: float, compute_s: float, last_forward_s: float) -> None:
        self.job.spent.append((step_s, data_s, compute_s, last_forward_s))

    def flags(self) -> RankFlags:
        return replace(self.job.flags.get(self.job.step + 1, RankFlags()))

    def clear(self, name: str) -> None:
        self.job.calls.append(f"clear {name}")

    @property
    def reason(self) -> str:
        return self.job.reason

    @property
    def stopped_by(self) -> str:
        return "Ctrl-C (SIGINT) came to another rank" if "clear STOP" in self.job.calls else "runs/test/STOP was found"

    def damaged_shards(self) -> list[ExcludedRows]:
        return self.job.damaged.get(self.job.step + 1, [])

    def exclude_shards(self, found: list[ExcludedRows], step: int) -> None:
        self.job.calls.append(f"exclude {[shard.file for shard in found]} at {step}")
        if self.job.is_strict:
            raise ShardError("a shard is damaged")

    def record_excluded_row(self, row: ExcludedRows, step: int) -> None:
        self.job.calls.append(f"excluded row {row.row} of {row.file} at {step}")

    def first_step_ahead(self) -> None:
        self.job.calls.append("first step ahead")

    def first_step_done(self) -> None:
        self.job.calls.append("first step done")

    def profile(self, step: int, is_asked: bool) -> None:
        if is_asked:
            self.job.calls.append(f"profile after {step}")

    def end_profile(self, step: int) -> None:
        self.job.ended_profiles.append(step)

    def evaluate(self, step: int) -> RankFlags:
        self.job.calls.append(f"evaluate {step}")
        return self.job.flags_while_evaluating.get(step, RankFlags())


class FakeLog:
    def __init__(self, job: LoopRun) -> None:
        self.job = job

    def step(self, batch: StepBatch, result: StepResult, state: RunState, lr: float, times: Any) -> None:
        assert times.step_s >= times.data_wait_s >= 0
        self.job.calls.append(f"log {state.step}")
        self.job.logged.append((state.step, times))

    def enter_phase(self, phase: Phase, count: int) -> None:
        assert 1 <= phase.number <= count

    def skipped(self, state: RunState, batch: StepBatch, result: StepResult, samples: dict[str, Any]) -> None:
        self.job.calls.append(f"log skipped {state.step}")
        self.job.skip_rows.append(samples)
