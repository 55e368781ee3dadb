"""Starts the ranks of a job on this machine, with nothing but Python: `python -m jadeberta.jobs.local_launcher --ranks 2 -- pretrain ...`.

Promises that when one rank fails the others are ended too, that its exit status becomes the job's, and that with --restarts the job is
started again where another attempt can succeed. A launcher that receives TERM or INT starts nothing again.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from jadeberta.checkpoint.manifest import newest_step
from jadeberta.cluster.environment import LAUNCH_VARIABLE, LAUNCHER_VARIABLE
from jadeberta.errors import ConfigError, is_retryable
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import user_path
from jadeberta.utils.ports import free_port
from jadeberta.utils.processes import end_with_parent

GRACE_SECONDS = 20.0
"""Time between TERM and KILL for ranks that are left over: they may be writing a checkpoint."""
COMMAND = [sys.executable, "-m", "jadeberta"]
"""Command of a rank, without its arguments."""


def rank_environment(rank: int, ranks: int, port: int, cores: int, launch: str = "") -> dict[str, str]:
    """Environment variables that make a process one rank of a local job.

    Args:
        rank: number of the process, from 0.
        ranks: world size.
        port: where the ranks meet, on this machine.
        cores: cores of the machine, which the ranks share.
        launch: a name that all ranks of this attempt have and no other process has.
    """
    return {
        LAUNCHER_VARIABLE: "local",
        LAUNCH_VARIABLE: launch,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // ranks))),
    }


def start_rank(command: list[str], rank: int, ranks: int, port: int, launch: str = "") -> subprocess.Popen:
    """Starts one rank of a local job; the kernel kills it when this process dies, so that no rank trains on alone.

    Args:
        command: program and arguments.
        rank: number of the process, from 0.
        ranks: world size.
        port: where the ranks meet, on this machine.
        launch: a name that all ranks of this attempt have and no other process has.
    """
    parent = os.getpid()
    cores = len(os.sched_getaffinity(0))
    return subprocess.Popen(
        command,
        env=os.environ | rank_environment(rank, ranks, port, cores, launch),
        preexec_fn=lambda: end_with_parent(parent),
    )


def run_directory(arguments: list[str]) -> Path:
    """Finds the run directory of a command line: its option --run.dir, its recipe's, or the default.

    Raises:
        ConfigError: it cannot be a path, see `user_path`.
    """
    from jadeberta.config import RunConfig

    return user_path(recipe_value(arguments, "run", "dir", RunConfig.dir), "run.dir")


def recipe_value(arguments: list[str], section: str, key: str, default: Any) -> Any:
    """Finds a value of the recipe that a command line names, without checking the recipe: the ranks do that.

    Args:
        arguments: of the jadeberta command; an option such as --run.dir wins over the file.
        section: of the recipe, such as run.
        key: in the section.
        default: for a recipe that does not name the key or cannot be read.
    """
    import yaml

    given = dict(itertools.pairwise(arguments)) | dict(a.split("=", 1) for a in arguments if "=" in a)
    if (option := f"--{section}.{key}") in given:
        return type(default)(given[option])
    try:
        recipe = yaml.safe_load(user_path(given["--config"]).read_text(encoding="utf-8"))
        return type(default)(recipe[section][key])
    except (ConfigError, KeyError, TypeError, OSError, ValueError, yaml.YAMLError):
        return default


class LocalJob:
    """Runs the ranks of one attempt after the other, and forwards signals to them."""

    def __init__(self, ranks: int, arguments: list[str]) -> None:
        self.ranks, self.arguments = ranks, arguments
        self.processes: list[subprocess.Popen] = []
        self.ended_by_signal = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._forward)

    def _forward(self, number: int, frame: object) -> None:
        # USR1 asks for a save and a requeue, so the job goes on after it; TERM and INT end it for good.
        self.ended_by_signal |= number != signal.SIGUSR1
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def run_attempt(self) -> int:
        """Starts all ranks and waits for them; returns the status of the first that failed, as a shell reports it, else 0."""
        # A new port for each attempt: connections of the last one may still hold the old port.
        port, launch, self.processes = free_port(), uuid4().hex[:12], []
        for rank in range(self.ranks):
            self.processes.append(start_rank([*COMMAND, *self.arguments], rank, self.ranks, port, launch))
        if self.ended_by_signal:  # the signal came before all ranks were started
            self._send(signal.SIGTERM)
        status, deadline = 0, None
        while None in (statuses := [process.poll() for process in self.processes]):
            if not status and (status := first_cause(statuses)):
                # The others hang in a collective that will never end.
                deadline = time.monotonic() + GRACE_SECONDS
                self._send(signal.SIGTERM)
            elif deadline is not None and time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            time.sleep(0.05)  # there is no wait for several children that a signal handler could interrupt safely
        status = status or first_cause(statuses)
        return 128 - status if status < 0 else status


def first_cause(statuses: Iterable[int | None]) -> int:
    """Returns the status that explains those of the other ranks: a signal before an error; 0 where none failed.

    Args:
        statuses: of all ranks at one moment, as Popen reports them; None: still running.
    """
    bad = [status for status in statuses if status]
    return next((status for status in bad if status < 0), bad[0] if bad else 0)


def launch(ranks: int, arguments: list[str], restarts: int = 0) -> int:
    """Runs `jadeberta ARGUMENTS` until it succeeds, or fails in a way that another attempt would not mend.

    Args:
        ranks: number of processes.
        arguments: command line, the same in every attempt.
        restarts: most attempts after the first.

    Returns:
        The exit status of the last attempt.
    """
    from jadeberta.config import ClusterConfig

    job = LocalJob(ranks, arguments)
    run_dir = run_directory(arguments)
    limit = recipe_value(arguments, "cluster", "max_attempts_without_progress", ClusterConfig.max_attempts_without_progress)
    newest, restarted, without_progress = newest_step(run_dir), 0, 0
    while True:
        status = job.run_attempt()
        if status == 0 or restarted == restarts or job.ended_by_signal or not is_retryable(status):
            return status
        step = newest_step(run_dir)
        newest, without_progress = max(newest, step), 0 if step > newest else without_progress + 1
        if without_progress >= limit:  # as under Slurm, see requeue_policy.py
            say(
                f"the job ended with status {status}, {without_progress} attempts in a row without a newer checkpoint "
                "(cluster.max_attempts_without_progress); it is not started again"
            )
            return status
        restarted += 1
        say(f"the job ended with status {status}; it is started again (restart {restarted} of at most {restarts})")


def say(line: str) -> None:
    """Prints a line on standard error: standard output belongs to the ranks."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Reads the command line, and ends with the status of the job."""
    parser = OneSentenceParser(prog="python -m jadeberta.jobs.local_launcher", description=__doc__)
    parser.add_argument("--ranks", type=int, default=1, help="processes to start on this machine")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="most times that a job is started again after it was killed, hung, requested a requeue or failed in an unforeseen way; "
        "cluster.max_attempts_without_progress attempts in a row without a newer checkpoint end it",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the jadeberta command with its options")
    try:
        options = parser.parse_args()
        arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        if options.ranks < 1 or options.restarts < 0 or not arguments:
            parser.error("give --ranks of at least 1 and a command, e.g. '-- pretrain --config recipes/demo.yaml'")
        status = launch(options.ranks, arguments, options.restarts)
    except ConfigError as e:
        say(f"ConfigError: {e}")
        status = e.exit_status
    sys.exit(status)


if __name__ == "__main__":
    main()
