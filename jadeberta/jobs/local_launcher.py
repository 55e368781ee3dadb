"""Starts the ranks of a job on this machine, with nothing but Python: `python -m jadeberta.jobs.local_launcher --ranks 2 -- pretrain ...`.

Promises that when one rank ends badly the others are ended too, that its status becomes the job's, and that with --restarts a job
which another life can mend gets one. A launcher that is told to end (TERM, INT) starts nothing again.
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

from jadeberta.checkpoint.manifest import newest_step
from jadeberta.cluster.process_group import free_port
from jadeberta.errors import is_retryable
from jadeberta.utils.processes import end_with_parent

GRACE_SECONDS = 20.0
FRUITLESS = 3
"""Restarts in a row without a newer checkpoint; what ends every life at the same place will end the next one too."""
COMMAND = [sys.executable, "-m", "jadeberta"]


def rank_environment(rank: int, ranks: int, port: int, cores: int) -> dict[str, str]:
    """Variables that make a process one rank of a local job; cores are shared out over the ranks."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // ranks))),
    }


def start_rank(command: list[str], rank: int, ranks: int, port: int) -> subprocess.Popen:
    """Starts one rank of a local job; the kernel sends it TERM when this process dies, so that no rank trains on alone."""
    parent = os.getpid()

    cores = len(os.sched_getaffinity(0))
    return subprocess.Popen(
        command,
        env=os.environ | rank_environment(rank, ranks, port, cores),
        preexec_fn=lambda: end_with_parent(parent, signal.SIGTERM),
    )


def run_directory(arguments: list[str]) -> Path:
    """The run directory that a command line names: as an option, in its recipe, or the default."""
    import yaml

    from jadeberta.config import RunConfig

    given = dict(itertools.pairwise(arguments)) | dict(a.split("=", 1) for a in arguments if "=" in a)
    if "--run.dir" in given:
        return Path(given["--run.dir"])
    try:
        recipe = yaml.safe_load(Path(given["--config"]).read_text(encoding="utf-8"))
        return Path(recipe["run"]["dir"])
    except (KeyError, TypeError, OSError, ValueError, yaml.YAMLError):
        return Path(RunConfig.dir)


class Job:
    """The ranks of one life after the other; signals to this process are theirs."""

    def __init__(self, ranks: int, arguments: list[str]) -> None:
        self.ranks, self.arguments = ranks, arguments
        self.processes: list[subprocess.Popen] = []
        self.told_to_end = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._forward)

    def _forward(self, number: int, frame: object) -> None:
        self.told_to_end |= number != signal.SIGUSR1
        self._send(number)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def live(self) -> int:
        """Starts all ranks and waits for them; the status of the first that ended badly, as a shell has it, else 0."""
        port, self.processes = free_port(), []
        for rank in range(self.ranks):
            self.processes.append(start_rank([*COMMAND, *self.arguments], rank, self.ranks, port))
        if self.told_to_end:  # while they were being started
            self._send(signal.SIGTERM)
        status, deadline = 0, None
        while None in (statuses := [process.poll() for process in self.processes]):
            if not status and (status := first_cause(statuses)):
                # The others hang in a collective that will never end.
                deadline = time.monotonic() + GRACE_SECONDS
                self._send(signal.SIGTERM)
            elif deadline is not None and time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            time.sleep(0.05)
        status = status or first_cause(statuses)
        return 128 - status if status < 0 else status


def first_cause(statuses: Iterable[int | None]) -> int:
    """Of ranks found ended at one look, the status that explains the others: a signal before an error; 0 where none ended badly."""
    bad = [status for status in statuses if status]
    return next((status for status in bad if status < 0), bad[0] if bad else 0)


def launch(ranks: int, arguments: list[str], restarts: int = 0) -> int:
    """Runs `jadeberta ARGUMENTS` as some ranks until they end well, or for a reason that another life would not mend.

    Args:
        ranks: processes.
        arguments: the same in every life.
        restarts: lives after the first, at most.

    Returns:
        The status of the last life.
    """
    job = Job(ranks, arguments)
    run_dir = run_directory(arguments)
    newest, made, fruitless = newest_step(run_dir), 0, 0
    while True:
        status = job.live()
        if status == 0 or made == restarts or job.told_to_end or not is_retryable(status):
            return status
        step = newest_step(run_dir)
        newest, fruitless = max(newest, step), 0 if step > newest else fruitless + 1
        if fruitless > FRUITLESS:
            say(
                f"the job ended with status {status}, {fruitless} lives in a row without a newer checkpoint; it is not started again"
            )
            return status
        made += 1
        say(f"the job ended with status {status}; it is started again (restart {made} of at most {restarts})")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jadeberta.jobs.local_launcher", description=__doc__)
    parser.add_argument("--ranks", type=int, default=1, help="processes to start on this machine")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="times that a job is started again which was killed, hung, asked for a requeue or failed in an unforeseen way; "
        f"{FRUITLESS} in a row without a newer checkpoint end it",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the jadeberta command with its options")
    options = parser.parse_args()
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if options.ranks < 1 or options.restarts < 0 or not arguments:
        parser.error("give --ranks of at least 1 and a command, e.g. '-- pretrain --config recipes/demo.yaml'")
    sys.exit(launch(options.ranks, arguments, options.restarts))


if __name__ == "__main__":
    main()
