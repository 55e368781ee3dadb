"""A small run as jobs of the virtual Slurm: arranged, submitted with the scripts as they stand, watched and compared."""

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from jadeberta.checkpoint.manifest import newest_step
from jadeberta.utils.json_lines import read_jsonl
from tests.cluster.conftest import Cluster
from tests.helpers import ROOT, make_recipe, make_shards, run_ranks

SETTING: dict[str, Any] = {
    "training": {"max_steps": 60, "global_batch_size": 8},
    "checkpoint": {"every_steps": 5, "keep_last": 2},
    "watchdog": {"start_s": 180.0, "first_step_s": 120.0, "step_s": 20.0, "save_s": 60.0, "eval_s": 60.0},
}
ON_ITS_WAY = ("PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "REQUEUED")
"""States of a job that has not come to its end."""


class Run:
    """One run directory and the jobs that work in it."""

    def __init__(self, slurm: Cluster, work: Path, name: str = "run", **sections: dict) -> None:
        """`sections` change keys of the recipe."""
        self.cluster, self.work, self.directory = slurm, work, work / name
        self.shards = work / "shards"
        if not self.shards.exists():
            make_shards(self.shards, {"wikipedia": (60, 2), "cc100": (120, 1)})
        recipe = {section: SETTING.get(section, {}) | sections.get(section, {}) for section in {*SETTING, *sections}}
        recipe["training"] = {"micro_batch_size": 1} | recipe["training"]  # fits every number of ranks
        self.recipe = make_recipe(work / f"{name}.yaml", self.shards, self.directory, **recipe)
        self.log = work / f"{name}.log"
        self.job = 0
        """The last that was submitted."""

    def submit(
        self, nodes: int = 2, tasks: int = 1, *options: str, script: str = "slurm/pretrain_large.sh", **settings: str
    ) -> int:
        """Submits a script of slurm/ as it stands: nodes, tasks and time on sbatch's command line, settings by --export."""
        given = {
            "RECIPE": self.recipe, "RUN_DIR": self.directory, "SHARDS": self.shards, "PREFLIGHT": "no",
            "OMP_NUM_THREADS": "1", "REST": "4", "REPORT": "0", **settings,
        }  # fmt: skip
        export = ",".join(["ALL", *(f"{key}={value}" for key, value in given.items())])
        self.job = self.cluster.sbatch(
            f"--nodes={nodes}", f"--ntasks-per-node={tasks}", f"--gpus-per-node={tasks}", "--cpus-per-task=1", "--time=60",
            f"--output={self.log}", f"--export={export}", *options, ROOT / script,
        )  # fmt: skip
        return self.job

    def hurry(self) -> dict[str, str]:
        """What Slurm says of the last job; the rest of two minutes that Slurm gives a job which it requeued itself is taken away."""
        now = self.cluster.job(self.job)
        if now["JobState"] == "PENDING" and now["Reason"] == "BeginTime" and now["EligibleTime"] > soon():
            self.cluster.restart_soon(self.job)
        return now

    @property
    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.directory / "metrics.jsonl")

    @property
    def endings(self) -> list[dict[str, Any]]:
        """Rows of jobs.jsonl about attempts that ended by themselves."""
        return [row for row in read_jsonl(self.directory / "jobs.jsonl") if row["event"] == "end"]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return [row for row in read_jsonl(self.directory / "jobs.jsonl") if row["event"] == "begin"]

    @property
    def done(self) -> bool:
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            return orjson.loads((self.directory / "DONE").read_bytes())["step"] > 0
        return False

    def until(self, what: str, holds: Callable[[], Any], timeout: float = 240, every: float = 0.05) -> None:
        """Looks every so many seconds until something holds. Raises AssertionError with the job's log where it does not."""
        end, looks = time.monotonic() + timeout, 0
        while not holds():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.printed[-4000:]}"
            if (looks := looks + 1) % round(1 / every) == 0:
                with contextlib.suppress(AssertionError):  # the controller may be away
                    self.hurry()
            time.sleep(every)

    def until_step(self, step: int, attempt: int = 0) -> None:
        """Waits until an attempt has trained some step."""
        self.until(
            f"step {step} in attempt {attempt}", lambda: any(m["step"] >= step and m["attempt"] >= attempt for m in self.metrics)
        )

    def until_ended(self, job: int, *states: str, timeout: float = 300) -> dict[str, str]:
        """Waits for the end of a job. Raises AssertionError where it comes to another end, or late."""
        end, self.job = time.monotonic() + timeout, job
        while (now := self.hurry())["JobState"] not in states:
            assert time.monotonic() < end, f"job is {now}\n{self.printed[-4000:]}"
            assert now["JobState"] in ON_ITS_WAY, f"job is {now}\n{self.printed[-4000:]}"
            time.sleep(0.3)
        return now

    def trained(self) -> dict[int, str]:
        """Hash of the samples of each step, the last time that it was made."""
        return {row["step"]: row["batch_hash"] for row in self.metrics}

    def weights(self) -> str:
        """Hash of the newest checkpoint's model."""
        newest = self.directory / "checkpoints" / f"step-{newest_step(self.directory):08d}"
        return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()


def soon() -> str:
    """Half a minute from now as Slurm writes times."""
    return time.strftime("%FT%T", time.localtime(time.time() + 30))


def unbroken(run: Run, ranks: int) -> Run:
    """The same run by ranks of this machine that nobody touches."""
    twin = Run(run.cluster, run.work, "unbroken")
    run_ranks(ranks, "pretrain", "--config", str(run.recipe), "--run.dir", str(twin.directory), log=run.work / "unbroken.log")
    return twin
