"""Waits for a moment of a run, by watching it from outside, and kills one of its processes or more with SIGKILL."""

import itertools
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.procfs import send_signal
from tests.chaos.observer import Job, Look

TARGETS = ("rank 0", "rank 1", "ranks", "everything", "launcher", "writer", "loader", "watchdog")
HELPERS = ("writer", "loader", "watchdog")
MOMENTS = ("start", "step", "save", "save", "rename", "rename", "prune", "evaluation", "end")
NEVER = {("start", "writer"), ("start", "loader"), ("end", "loader")}
"""There is no such process then."""
LONGEST_S = {"step": 1.5, "save": 0.4, "rename": 0.004, "prune": 0.001, "end": 0.5, "evaluation": 0.1}
"""A kill comes at random up to so long after the moment has begun; a third of them at once."""
POLL_S, LOOK_S, STUCK_S = 0.0005, 0.2, 240.0
JUST_NOW_S = 0.05
Plan = tuple[str, str]
"""A moment and a target."""


@dataclass
class Kill:
    """One kill, and what was seen right after it."""

    aimed: str
    target: str
    life: int
    step: int
    phase: str
    """start, step, evaluation or end (after the last step)."""
    directory: str
    """What the checkpoints directory showed: save, manifest (in the .tmp), renamed (just now), prune, at rest, or before the first step."""
    trusted: int
    """Step of the newest checkpoint that could be trusted; 0: none."""
    time: float
    without_restart: bool = False
    """The job went on in the same life."""


def all_plans(seed: int) -> Iterator[Plan]:
    """Every moment with every target in a random order, again and again."""
    draw = random.Random(seed)
    while True:
        deck = [plan for plan in itertools.product(MOMENTS, TARGETS) if plan not in NEVER]
        draw.shuffle(deck)
        yield from deck


def directory_state(look: Look, left_over: frozenset[int], renamed: bool) -> str:
    """In one word; what an earlier kill left half removed counts as nothing."""
    if look.deleting - left_over:
        return "prune"
    if look.growing:
        return "manifest" if look.manifest else "save"
    return "renamed" if renamed else "at rest"


class Killer:
    """Follows one job to its end and kills on the way."""

    def __init__(self, job: Job, steps: int, evaluate_every: int, draw: random.Random) -> None:
        """`steps` and `evaluate_every` are the recipe's."""
        self.job, self.steps, self.evaluate_every, self.draw = job, steps, evaluate_every, draw
        self.kills: list[Kill] = []
        self.faults: list[str] = []
        self.look = Look()
        self._renamed, self._committed = False, 0.0  # a checkpoint was new at the last look; when that was last so
        self._left_over: frozenset[int] = frozenset()
        self._start_s = 8.0  # what a life takes to its first step, as far as known
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
        before, self.look = self.look, Look.at(job.checkpoints)
        self._renamed = self.look.newest > before.newest
        if self._renamed:
            self._committed = now
        if (stands := (job.life, job.steps_of_life)) != self._stood:
            if stands[1] and self._stood == (job.life, 0):
                self._start_s = max(2.0, now - job.began)
            self._stood, self._moved = stands, now
        if now - self._moved > STUCK_S:
            raise AssertionError(f"{job.run_dir}: no progress in {STUCK_S:.0f} s: {job.tail()}")
        return True

    def possible(self, plan: Plan) -> bool:
        """A life that has made a step does not start any more; everything else may come."""
        return plan[0] != "start" or not self.job.steps_of_life

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
            time.sleep(POLL_S)
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
        """After a kill: waits for the next life, or for some more steps where the job can go on. False where the run is done."""
        kill, life, steps = self.kills[-1], self.job.life, self.job.metrics.steps
        while self.alive():
            if self.job.life > life:
                return True
            if kill.target in HELPERS and self.job.metrics.steps > steps + 2:
                kill.without_restart = True
                return True
            time.sleep(0.01)
        kill.without_restart = self.job.life == life
        return False

    def _reached(self, moment: str) -> bool:
        """Whether a moment is on."""
        job, look = self.job, self.look
        if moment == "start":
            return True
        if not job.steps_of_life:
            return False
        match moment:
            case "save":
                return look.growing and not look.manifest
            case "rename":
                return look.manifest or self._renamed
            case "prune":
                return bool(look.deleting - self._left_over)
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
        look, now, stamp = Look.at(job.checkpoints), time.monotonic(), time.time()
        renamed = look.newest > self.look.newest or now - self._committed < JUST_NOW_S
        job.metrics.renew()
        trusted, faults = job.trusted()
        which = f"kill {len(self.kills) + 1} ({target}, aimed at {moment})"
        self.faults += [f"{which}: {fault}" for fault in faults]
        if look.newest and not trusted:
            self.faults.append(f"{which}: step {look.newest} had been committed and nothing can be trusted")
        state = directory_state(look, self._left_over, renamed) if job.steps_of_life else "before the first step"
        self._left_over |= look.deleting
        self.kills.append(Kill(moment, target, job.life, job.metrics.last, self._phase(), state, trusted, stamp))

    def _phase(self) -> str:
        last = self.job.metrics.last
        if not self.job.steps_of_life:
            return "start"
        if last == self.steps:
            return "end"
        rows = read_jsonl(self.job.run_dir / "ledger.jsonl")
        life = max((row["life"] for row in rows), default=0)
        evaluated = any(r["event"] == "evaluation" and (r["step"], r["life"]) == (last, life) for r in rows)
        return "evaluation" if last % self.evaluate_every == 0 and not evaluated else "step"
