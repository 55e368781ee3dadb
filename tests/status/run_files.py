"""Small run directories: attempts of ten-minute steps, as a run would leave them at a given moment, and a `scontrol` that answers."""

import time
from pathlib import Path

import orjson

from jadeberta.status.facts import Disk, read_facts
from jadeberta.status.run_verdict import Verdict, judge

HOUR, DAY = 3600.0, 86400.0
NOW = time.mktime((2026, 11, 29, 12, 0, 0, 0, 0, -1))
STEP_S = 600.0
"""A step of the runs here takes ten minutes, so that days take few rows."""
ROOM = Disk(free=1 << 40, checkpoint=10 << 30, metrics=10_000)


class RunFiles:
    """Writes a run directory: attempts of steps of ten minutes with a save after each, one every hour."""

    def __init__(self, run: Path, **recipe: str) -> None:
        self.run, self.attempt, self.step = run, -1, 0
        run.mkdir()
        sections = {"training": "{max_steps: 1000}", "checkpoint": "{every_steps: 6}"} | recipe
        (run / "recipe.yaml").write_text("".join(f"{key}: {value}\n" for key, value in sections.items()), encoding="utf-8")
        (run / "checkpoints").mkdir()

    def write(self, file: str, **row: object) -> None:
        with open(self.run / file, "ab") as f:
            f.write(orjson.dumps(row) + b"\n")

    def event(self, at: float, event: str, **fields: object) -> None:
        self.write("ledger.jsonl", **{"time": at, "event": event, "attempt": self.attempt, "host": "n1", "pid": 7, **fields})

    def attempt_from(self, begin: float, hours: float, save_until: float = 1e18, **slurm: object) -> float:
        """Writes an attempt that trains for some hours, saving up to a moment; returns the time of its last row."""
        self.attempt += 1
        self.event(begin, "start", world_size=2, **({"slurm": slurm} if slurm else {}))
        for n in range(1, int(hours * HOUR / STEP_S) + 1):
            self.step, at = self.step + 1, begin + n * STEP_S
            self.write("metrics.jsonl", step=self.step, time=at, attempt=self.attempt, step_s=STEP_S, loss=2.0, tokens=self.step)
            if self.step % 6 == 0 and at <= save_until:
                self.event(at, "save", step=self.step, stall_s=0.0)
                self.event(at, "verified", step=self.step, faults=[], error=None)
        return begin + hours * HOUR

    def job(self, event: str, at: float, **fields: object) -> None:
        self.write("jobs.jsonl", time=at, event=event, attempt=0, job=12, restarts=0, name="large", hosts=["n1"], **fields)

    def verdict(self, now: float = NOW) -> Verdict:
        return judge(read_facts(self.run, now))


def answer_as_slurm(tmp_path: Path, state: str, reason: str = "None") -> None:
    """Lets `scontrol show job` say this about job 12."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "scontrol"
    script.write_text(f"#!/bin/sh\necho 'JobId=12 JobName=large JobState={state} Reason={reason} Partition=gpu Restarts=0'\n")
    script.chmod(0o755)
