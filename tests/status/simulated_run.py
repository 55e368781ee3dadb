"""A simulated run: it writes the ledger and metrics that a real one would, and keeps its own record of what it did.

The record is a list of what was done from when to when. What of that a reader can know is settled at the end of an attempt:
an attempt that is killed is known up to its last line, a step that was cut off has no row, and a save that was cut off has no line.
"""

import random
from dataclasses import dataclass, field


@dataclass
class Done:
    """What was done from one moment to another; `proof` says whether a line records it."""

    begin: float
    end: float
    what: str
    fallback: str
    """What it looks like where no line records it."""
    proof: list[bool] = field(default_factory=lambda: [False])


@dataclass
class Trained:
    """A step with a row."""

    seconds: float
    skipped: bool
    speed: float
    wait: float


class SimulatedRun:
    """Draws a run from a seed; `truth` holds what it did in the names of Goodput."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.key = "attempt" if seed % 2 else "life"  # old versions wrote `life`
        self.ledger: list[dict] = []
        self.metrics: list[dict] = []
        self.truth: dict = dict.fromkeys(
            ("productive_s", "lost_s", "skipped_s", "save_stall_s", "evaluation_s", "startup_s"), 0.0
        )
        self.truth |= dict.fromkeys(("rollback_s", "hang_s", "down_s", "unaccounted_s"), 0.0)
        self.truth |= dict.fromkeys(("saves", "failed_saves", "rollbacks", "failures"), 0)
        self.clock, self.attempt, self.furthest = 1e9, -1, 0
        self.path: list[Trained] = []
        """The steps that led to the present weights."""
        self.every: list[Trained] = []
        self.saved: list[list[Trained]] = []
        self.endings: list[str] = []
        self.recovered: list[float | None] = []
        self.goals: list[tuple[int, int, float]] = []
        self.max_steps, self.save_every = self.random.randint(1, 40), self.random.randint(1, 9)
        self.kill_rate = self.random.choice([0.0, 0.0005, 0.003])
        previous_end = None
        while not self.endings or self.endings[-1] not in ("done", "given up"):
            self._live(previous_end)
            previous_end = self.last_line
            self.clock += self.random.choice([0.5, 5.0, 300.0])
        if self.endings[-1] == "given up":
            self.endings[-1] = "stop"
        self._settle()

    def _live(self, previous_end: float | None) -> None:
        self.attempt += 1
        self.skew = self.random.uniform(-3, 3)  # of the host's clock
        self.record: list[Done] = []
        self.pending: list[tuple[float, dict, Done]] = []
        self.resumed: list[Trained] | None = None
        self.context = "startup_s"
        born = self.clock + self.skew
        self._say("start", world_size=8)
        if previous_end is not None:
            self.truth["down_s"] += max(0.0, born - previous_end)
        try:
            ending, failed = self._work()
        except StopIteration:
            ending, failed = "killed", True
        self.endings.append(ending)
        self.truth["failures"] += failed
        self._close_record()
        self.goals.append((len(self.recovered), self.furthest, self.last_line))
        self.recovered.append(None)

    def _work(self) -> tuple[str, bool]:
        self._pass(self.random.uniform(1, 60), "startup_s")
        if self.saved:
            self.path = list(self.saved[-1])
            self._say("resume", step=len(self.path), checkpoint="c", seconds=1.0)
        else:
            self.resumed = []  # nobody knows before the first row
        self._pass(self.random.uniform(0, 5), "startup_s")
        while len(self.path if self.resumed is None else self.resumed) < self.max_steps:
            if (fate := self._step()) is not None:
                return fate
            self.context = "unaccounted_s"
            step, asked = len(self.path), self.random.random()
            if self.random.random() < 0.05:
                proof = self._pass(self.random.uniform(1, 20), "evaluation_s", self.context)
                proof[0] = True
                self._say("evaluation", step=step, seconds=self.record[-1].end - self.record[-1].begin)
            if step % self.save_every == 0 or step == self.max_steps or asked < 0.02:
                self._save(step, wait=step == self.max_steps or asked < 0.02)
            if asked < 0.02 or step == self.max_steps:
                self._relabel("save_stall_s")
                if step == self.max_steps:
                    break
                event, status = ("requeue", 11) if asked < 0.01 else ("stop", 10)
                self._say(event, status=status, reason="asked")
                return event, False
            if self.path[-1].skipped and self.random.random() < 0.5 and self.saved:
                if self.truth["rollbacks"] > 3:
                    self._say("stop", status=13, reason="too often")
                    return "given up", True
                self._roll_back()
            self._pass(self.random.uniform(0, 0.1), self.context)
        self._say("done", step=self.max_steps, tokens=100 * self.max_steps)
        return "done", False

    def _step(self) -> tuple[str, bool] | None:
        begin, seconds = self.clock, self.random.uniform(0.5, 12)
        cut = [False]
        if self.random.random() < 0.01:
            silent = self.random.uniform(10, 600)
            self._pass(silent, self.context, self.context, cut)
            reported = self.random.uniform(0, silent)
            self.record[-1].end -= reported
            self.record.append(Done(self.clock - reported, self.clock, "hang_s", self.context, [True]))
            self._say("hang", rank=3, host="n9", phase="step", step=len(self.path), seconds=reported)
            return "hang", True
        if self.random.random() < 0.05:
            self._pass(seconds / 2, "step", self.context, cut)
            self._say("signal", signal="USR1")
            self._pass(seconds / 2, "step", self.context, cut)
        else:
            self._pass(seconds, "step", self.context, cut)
        cut[0] = True
        if self.resumed is not None:
            self.path, self.resumed = self.resumed, None
        before = len(self.path)
        done = Trained(seconds, self.random.random() < 0.08, self.random.uniform(10, 100), self.random.uniform(0, 0.4))
        self.path.append(done)
        self.every.append(done)
        self.last_line = self.clock + self.skew
        values = {"loss": None if done.skipped else 3.0, "tokens": 100 * (before + 1), "skipped": done.skipped, "mfu": None}
        values |= {"tokens_per_second": done.speed, "data_wait_s": done.wait, self.key: self.attempt, "time": self.last_line}
        self.metrics.append({"step": before + 1, "step_s": seconds, **values})
        waiting, self.goals = self.goals, []
        for place, goal, dead in waiting:
            if before + 1 < goal:
                self.goals.append((place, goal, dead))
            else:
                self.recovered[place] = max(0.0, (begin if before >= goal else self.clock) + self.skew - dead)
        self.furthest = max(self.furthest, before + 1)
        return None

    def _save(self, step: int, wait: bool) -> None:
        """A stall, and a write in the background that is recorded when it is over."""
        while self.pending:  # the next save waits for the last
            self._pass(max(0.0, self.pending[0][0] - self.clock), self.context)
        proof = self._pass(self.random.uniform(0, 3), "save_stall_s", self.context)
        stall, write = self.record[-1].end - self.record[-1].begin, self.random.choice([0.0, 1.0, 25.0])
        name = "save_failed" if self.random.random() < 0.1 else "save"
        line = {"event": name, "step": step, "stall_s": stall, "write_s": write, "path": list(self.path), "proof": proof}
        self.pending.append((self.clock + write, line, self.record[-1]))
        if wait:
            self._pass(write, self.context)
        self._commit()

    def _commit(self) -> None:
        while self.pending and self.pending[0][0] <= self.clock:
            _, line, _ = self.pending.pop(0)
            line.pop("proof")[0] = True
            path, name = line.pop("path"), line.pop("event")
            if name == "save":
                self.saved.append(path)
            self.truth["saves" if name == "save" else "failed_saves"] += 1
            self._say(name, **line)

    def _roll_back(self) -> None:
        while self.pending:  # what is being written belongs to the steps that are given up; it has to come first
            self._pass(max(0.0, self.pending[0][0] - self.clock), self.context)
        self._relabel("rollback_s")
        self.truth["rollbacks"] += 1
        last = len(self.path)
        self.path = list(self.saved[-1])
        self._say("rollback", step=len(self.path), from_step=last, stepped_over=[len(self.path), last], number=1)
        self.context = "rollback_s"
        self._pass(self.random.uniform(1, 30), "rollback_s")

    def _relabel(self, what: str) -> None:
        """All since the last step was, it turns out, for this."""
        for done in self.record[::-1]:
            if done.what == "step":
                break
            if done.what == "unaccounted_s":
                done.what = what
            done.fallback = what

    def _pass(self, seconds: float, what: str, fallback: str = "", proof: list[bool] | None = None) -> list[bool]:
        """Time passes, unless the run is killed; writes that end meanwhile are recorded."""
        until = self.clock + seconds
        killed_at = self.clock + self.random.expovariate(self.kill_rate) if self.kill_rate else until + 1
        done = Done(self.clock, min(until, killed_at), what, fallback or what, [not fallback] if proof is None else proof)
        self.record.append(done)
        while self.pending and self.pending[0][0] <= done.end:
            self.clock = self.pending[0][0]
            self._commit()
        self.clock = done.end
        if killed_at < until:
            raise StopIteration
        return done.proof

    def _say(self, event: str, **fields) -> None:
        self.last_line = self.clock + self.skew
        self.ledger.append({"time": self.last_line, "event": event, self.key: self.attempt, "host": "n1", "pid": 1, **fields})

    def _close_record(self) -> None:
        known = self.last_line - self.skew
        for done in self.record:
            seconds = max(0.0, min(done.end, known) - done.begin)
            what = done.what if done.proof[0] else done.fallback
            if what != "step":
                self.truth[what] += seconds

    def _settle(self) -> None:
        stayed = {id(step) for step in self.path}
        for step in self.every:
            kind = "lost_s" if id(step) not in stayed else "skipped_s" if step.skipped else "productive_s"
            self.truth[kind] += step.seconds
        here = [step for step in self.every if id(step) in stayed]
        seconds = sum(step.seconds for step in here)
        parts = [value for name, value in self.truth.items() if name.endswith("_s")]
        self.truth |= {
            "wall_s": sum(parts),
            "goodput": self.truth["productive_s"] / sum(parts),
            "steps": len(here),
            "lost_steps": len(self.every) - len(here),
            "skipped_steps": sum(step.skipped for step in here),
            "data_wait_s": sum(step.wait for step in here),
            "tokens_per_second": sum(s.speed * s.seconds for s in here) / seconds if here else None,
            "step": len(self.path),
            "tokens": 100 * len(self.path),
            "recovery_s": self.recovered[:-1],
            "attempts": self.endings,
        }
