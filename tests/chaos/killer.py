"""Waits for a moment of a run, by watching it from outside, and kills one of its processes or more with SIGKILL."""

import itertools
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.procfs import send_signal
from tests.chaos.observer import DirectoryView, Job

TARGETS = ("rank 0", "rank 1", "ranks", "everything", "launcher", "writer", "loader", "watchdog")
HELPERS = ("writer", "loader", "watchdog")
MOMENTS = ("start", "step", "save", "save", "rename", "rename", "prune", "evaluation", "end")
NEVER = {("start", "writer"), ("start", "loader"), ("end", "loader")}
"""Pairs of moment and target that cannot occur: the process does not exist then."""
LONGEST_S = {"step": 1.5, "save": 0.4, "rename": 0.004, "prune": 0.001, "end": 0.5, "evaluation": 0.1}
"""A kill comes at random up to so long after the moment has begun; a third of them at once."""
POLL_S, IDLE_S, LOOK_S, STUCK_S = 0.0005, 0.01, 0.2, 240.0
"""Seconds between two looks while a checkpoint is written, committed or removed, and at other times; at processes; until it is stuck."""
JUST_NOW_S = 0.05
Plan = tuple[str, str]
"""A moment and a target."""


@dataclass
class Kill:
    """One kill, and what was seen right after it."""

    aimed: str
    target: str
    attempt: int
    step: int
    phase: str
    """start, step, evaluation or end (after the last step)."""
    directory: str
    """What the checkpoints directory showed: save, manifest (in the .tmp), renamed (just now), prune, at rest, or before the first step."""
    trusted: int
    """Step of the newest checkpoint that could be trusted; 0: none."""
    time: float
    without_restart: bool = False
    """The job went on in the same attempt."""


def all_plans(seed: int) -> Iterator[Plan]:
    """Every moment with every target in a random order, again and again."""
    draw = random.Random(seed)
    while True:
        plans = [plan for plan in itertools.product(MOMENTS, TARGETS) if plan not in NEVER]
        draw.shuffle(plans)
        yield from plans


def directory_state(view: DirectoryView, left_over: frozenset[int], renamed: bool) -> str:
    """Describes the checkpoints directory in one word; what an earlier kill left half removed does not count."""
    if view.deleting - left_over:
        return "prune"
    if view.growing:
        return "manifest" if view.manifest else "save"
    return "renamed" if renamed else "at rest"


class Killer:
    """Follows one job to its end and kills on the way."""

    def __init__(self, job: Job, steps: int, evaluate_every: int, draw: random.Random) -> None:
        """`steps` and `evaluate_every` are the recipe's."""
        self.job, self.steps, self.evaluate_every, self.draw = job, steps, evaluate_every, draw
        self.kills: list[Kill] = []
        self.faults: list[str] = []
        self.view = DirectoryView()
        self._renamed, self._committed = False, 0.0  # a checkpoint was new at the last look; when that was last so
        self._left_over: frozenset[int] = frozenset()
        self._start_s = 8.0  # seconds from an attempt's start to its first step, as far as known
        self._looked, self._stood, self._moved, self._done = 0.0, (0, 0), time.monotonic(), False

    def alive(self) -> bool:
        """Looks at the job; False once it is done. Raises AssertionError where it does not get on."""
        job, now = self.job, time.monotonic()
        if now - self._looked > LOOK_S:
            self._looked = now
            self._done = self._done or not job.renew()
        if self._done:
            return False
        job.metrics.renew()
        before, self.view = self.view, DirectoryView.of(job.checkpoints)
        self._renamed = self.view.newest > before.newest
        if self._renamed:
            self._committed = now
        if (stands := (job.attempt, job.steps_of_attempt)) != self._stood:
            if stands[1] and self._stood == (job.attempt, 0):
                self._start_s = max(2.0, now - job.began)
            self._stood, self._moved = stands, now
        if now - self._moved > STUCK_S:
            raise AssertionError(f"{job.run_dir}: no progress in {STUCK_S:.0f} s: {job.tail()}")
        return True

    def _is_near_commit(self) -> bool:
        """Whether the checkpoints directory may change within a millisecond."""
        return self.view.growing or bool(self.view.deleting) or time.monotonic() - self._committed < JUST_NOW_S

    def possible(self, plan: Plan) -> bool:
        """Whether a plan's moment may still come: an attempt that has made a step does not start any more."""
        return plan[0] != "start" or not self.job.steps_of_attempt

    def kill_at(self, moment: str, target: str) -> bool:
        """Waits for a moment and kills a target; False where the run was done first."""
        skip = self.draw.randrange(3) if moment in ("save", "rename", "prune", "evaluation") else 0
        was = False
        while self.alive():
            now = self._reached(moment)
            skip -= now and not was
            if now and skip < 0:
                break
            was = now
            time.sleep(POLL_S if self._is_near_commit() else IDLE_S)
        else:
            return False
        begin = self.job.began if moment == "start" else time.monotonic()
        longest = 1.1 * self._start_s if moment == "start" else LONGEST_S[moment]
        end = begin + self.draw.choice((0, 1, 1)) * self.draw.random() * longest
        while (left := end - time.monotonic()) > 0 and self.possible((moment, target)):
            if left > 0.01 and not self.alive():
                return False
            time.sleep(min(POLL_S, max(0.0, left)))
        self._kill(moment, target)
        return True

    def settle(self) -> bool:
        """After a kill: waits for the next attempt, or for some more steps where the job can go on. False where the run is done."""
        kill, attempt, steps = self.kills[-1], self.job.attempt, self.job.metrics.steps
        while self.alive():
            if self.job.attempt > attempt:
                return True
            if kill.target in HELPERS and self.job.metrics.steps > steps + 2:
                kill.without_restart = True
                return True
            time.sleep(0.01)
        kill.without_restart = self.job.attempt == attempt
        return False

    def _reached(self, moment: str) -> bool:
        """Whether a moment is on."""
        job, view = self.job, self.view
        if moment == "start":
            return True
        if not job.steps_of_attempt:
            return False
        match moment:
            case "save":
                return view.growing and not view.manifest
            case "rename":
                return view.manifest or self._renamed
            case "prune":
                return bool(view.deleting - self._left_over)
            case "evaluation":
                return job.metrics.last % self.evaluate_every == 0
            case "end":
                return job.metrics.last == self.steps
        return True

    def _kill(self, moment: str, target: str) -> None:
        job = self.job
        # A loader that has read all it was to read is gone, for one.
        target = next((t for t in (target, "rank 1", "rank 0", "launcher") if job.pids(t)), target)
        pids = job.pids(target)
        for pid in [self.draw.choice(pids)] if target in HELPERS else pids:  # each rank has helpers of its own
            send_signal(pid, signal.SIGKILL)
        view, now, stamp = DirectoryView.of(job.checkpoints), time.monotonic(), time.time()
        renamed = view.newest > self.view.newest or now - self._committed < JUST_NOW_S
        job.metrics.renew()
        trusted, faults = job.trusted()
        which = f"kill {len(self.kills) + 1} ({target}, aimed at {moment})"
        self.faults += [f"{which}: {fault}" for fault in faults]
        if view.newest and not trusted:
            self.faults.append(f"{which}: step {view.newest} had been committed and nothing can be trusted")
        state = directory_state(view, self._left_over, renamed) if job.steps_of_attempt else "before the first step"
        self._left_over |= view.deleting
        self.kills.append(Kill(moment, target, job.attempt, job.metrics.last, self._phase(), state, trusted, stamp))

    def _phase(self) -> str:
        last = self.job.metrics.last
        if not self.job.steps_of_attempt:
            return "start"
        if last == self.steps:
            return "end"
        rows = read_jsonl(self.job.run_dir / "ledger.jsonl")
        attempt = max((row["attempt"] for row in rows), default=0)
        evaluated = any(r["event"] == "evaluation" and (r["step"], r["attempt"]) == (last, attempt) for r in rows)
        return "evaluation" if last % self.evaluate_every == 0 and not evaluated else "step"
