"""Starts the ranks of a job on this machine, with nothing but Python: `python -m jadeberta.cluster.local --ranks 2 -- pretrain ...`.

Promises that when one rank ends badly the others are ended too, and that its status becomes the job's.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

GRACE_SECONDS = 20.0
COMMAND = [sys.executable, "-m", "jadeberta"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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


def end_with_parent() -> None:
    """Called in a new rank: the kernel sends it TERM when its launcher dies, so that a killed launcher leaves no rank training."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def start_rank(command: list[str], rank: int, ranks: int, port: int) -> subprocess.Popen:
    """Starts one rank of a local job, which ends with this process."""
    cores = len(os.sched_getaffinity(0))
    return subprocess.Popen(command, env=os.environ | rank_environment(rank, ranks, port, cores), preexec_fn=end_with_parent)


def launch(ranks: int, arguments: list[str]) -> int:
    """Runs `jadeberta ARGUMENTS` as some ranks and waits; the status of the first rank that ended badly, else 0."""
    port = free_port()
    processes = [start_rank([*COMMAND, *arguments], rank, ranks, port) for rank in range(ranks)]

    def forward(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, forward)
    status, deadline = 0, None
    while None in (statuses := [process.poll() for process in processes]):
        failed = [s for s in statuses if s not in (None, 0)]
        if failed and deadline is None:
            # The others hang in a collective that will never end.
            status, deadline = failed[0], time.monotonic() + GRACE_SECONDS
            forward(signal.SIGTERM, None)
        elif deadline is not None and time.monotonic() > deadline:
            forward(signal.SIGKILL, None)
        time.sleep(0.1)
    status = status or next((s for s in statuses if s), 0)
    return 128 - status if status < 0 else status


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jadeberta.cluster.local", description=__doc__)
    parser.add_argument("--ranks", type=int, default=1, help="processes to start on this machine")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the jadeberta command with its options")
    options = parser.parse_args()
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if options.ranks < 1 or not arguments:
        parser.error("give --ranks of at least 1 and a command, e.g. '-- pretrain --config recipes/demo.yaml'")
    sys.exit(launch(options.ranks, arguments))


if __name__ == "__main__":
    main()
