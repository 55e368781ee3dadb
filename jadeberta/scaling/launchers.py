"""Launchers of a point: as a Slurm job, or as ranks on this machine. Only this module of the scaling tests starts processes."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from jadeberta.config import PROJECT
from jadeberta.errors import ConfigError
from jadeberta.scaling.points import Point
from jadeberta.scaling.points_dir import LOG, PREFLIGHT, RECIPE
from jadeberta.utils.processes import end_with_parent

SCRIPT = PROJECT / "slurm" / "scaling.sh"


class Launcher(Protocol):
    """Runs points."""

    def command(self, point: Point, directory: Path) -> list[str]:
        """The command line that starts a point."""

    def start(self, point: Point, directory: Path) -> str:
        """Starts a point and returns the name of its job. Raises ConfigError if it cannot be started."""

    def states(self, jobs: list[str]) -> dict[str, str] | None:
        """Returns the states of jobs by name, without jobs that are no longer known; None if Slurm does not answer."""

    def remedy(self, jobs: list[str]) -> str:
        """A sentence that says what to do about jobs after an interruption."""


class SlurmLauncher:
    """Submits one Slurm job per point."""

    def __init__(self, options: str, on_cpus: bool = False) -> None:
        """`options`: of sbatch, as on a command line; `on_cpus`: asks for no GPU. Raises ConfigError where there is no sbatch."""
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "there is no sbatch on this machine. Submit from a login node of the cluster, or run the points here with --local."
            )
        self._options, self._on_cpus = shlex.split(options), on_cpus

    def command(self, point: Point, directory: Path) -> list[str]:
        gpus = 0 if self._on_cpus else point.gpus_per_node
        return [
            "sbatch", "--parsable", f"--nodes={point.nodes}", f"--ntasks-per-node={point.gpus_per_node}",
            f"--gpus-per-node={gpus}", "--export=ALL", f"--job-name=jadeberta-{point.name}", f"--output={directory / LOG}",
            *self._options, str(SCRIPT),
        ]  # fmt: skip

    def start(self, point: Point, directory: Path) -> str:
        # Passed in the environment, because values of --export cannot contain commas.
        env = {"PYTHON": sys.executable} | os.environ | {"RECIPE": str(directory / RECIPE), "RUN_DIR": str(directory)}
        done = subprocess.run(self.command(point, directory), env=env, cwd=PROJECT, capture_output=True, text=True)
        job = done.stdout.strip().split(";")[0]  # with several clusters: number;cluster
        if done.returncode or not job.isdecimal():
            said = " ".join(done.stderr.split()) or f"status {done.returncode}"
            raise ConfigError(f"sbatch refuses {point.name}: {said}. --sbatch hands it more options.")
        return job

    def states(self, jobs: list[str]) -> dict[str, str] | None:
        # Without --states=all squeue leaves out jobs that have ended.
        command = ["squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join(jobs)}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            # For a single unknown job squeue fails with this message; any other failure is the controller's, which may be restarting.
            return {} if "Invalid job id" in done.stderr else None
        return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) == 2)

    def remedy(self, jobs: list[str]) -> str:
        return f"Its jobs go on in Slurm: {' '.join(jobs)}. The same command waits for them again; 'scancel {' '.join(jobs)}' ends them."


class LocalLauncher:
    """Runs the ranks of a point on this machine, one point after another."""

    def command(self, point: Point, directory: Path) -> list[str]:
        return [sys.executable, "-m", "jadeberta.jobs.local_launcher", "--ranks", str(point.ranks), "--"]

    def start(self, point: Point, directory: Path) -> str:
        given, parent = ["--config", str(directory / RECIPE)], os.getpid()
        with open(directory / LOG, "ab") as log:
            for verb, more in (("preflight", ["--json", str(directory / PREFLIGHT)]), ("pretrain", [])):
                # The status is not read: as with Slurm, DONE in the point's directory tells whether it succeeded.
                subprocess.run(
                    [*self.command(point, directory), verb, *given, *more],
                    stdout=log,
                    stderr=log,
                    cwd=PROJECT,
                    preexec_fn=lambda: end_with_parent(parent),
                )
        return "here"

    def states(self, jobs: list[str]) -> dict[str, str] | None:
        # `start` returns only when all ranks have ended.
        return dict.fromkeys(jobs, "COMPLETED")

    def remedy(self, jobs: list[str]) -> str:
        return "The same command goes on with the points that are missing."
