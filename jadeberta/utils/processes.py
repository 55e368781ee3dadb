"""Processes end with those that they work for: helpers with their rank, ranks with their launcher.

A launcher that ends by itself ends its ranks. One that is killed, by hand or for its memory, cannot, and the kernel tells only its direct
children, through a signal that mpirun's threads would set off too early. So a thread looks at the rank's ancestors: its parent, and
above it every process that is part of a launcher. srun's step is ended by Slurm itself.

Signals meant for the training do not reach helpers.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from jadeberta.utils.procfs import ProcessStat, process_stat

PR_SET_PDEATHSIG = 1
"""Number of prctl(2)'s operation, from linux/prctl.h."""
JOB_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that a launcher sends to every process of a job; the training answers them in its main thread."""
HELPER_BLOCKED_SIGNALS = (*JOB_SIGNALS, signal.SIGUSR2)
"""Signals that helper processes never see: those of the job, and the one that asks the training for its stacks."""
LOOK_S = 1.0
"""Seconds between two looks."""
STATUS = 12
"""Exit status of a rank without a launcher: that of errors.HangError, after which another attempt can succeed."""
OF_PYTHON = ("TORCHELASTIC_RUN_ID", "CROSS_SIZE", "JADEBERTA_LAUNCHER")
"""A variable of each launcher that starts ranks from the main thread of a Python program: torchrun, DeepSpeed, ours."""
SCRIPT_VARIABLE = "JADEBERTA_SCRIPT"
"""Host, process id namespace and process of the script in launch/ that began it all; it may be gone before a rank begins."""
OF_MPI = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
OF_SRUN = ("SLURM_PROCID",)
"""Also in the shell of an interactive step, whose user may leave a process behind on purpose: there the parent alone tells nothing."""
PROGRAMS = {
    "torchrun", "deepspeed", "ds", "accelerate", "mpirun", "mpiexec", "mpirun.mpich", "mpiexec.hydra", "mpirun.openmpi", "orterun",
    "prterun", "prte", "prted", "orted", "hydra_pmi_proxy", "slurmstepd",
}  # fmt: skip
MODULES = re.compile(
    r"torch\.distributed\.(run|launch)|deepspeed\.launcher\.\w+|jadeberta\.jobs\.(local_launcher|launcher_output)"
)
SCRIPTS = re.compile(
    r"(^|/)launch/(local|mpi|torchrun|deepspeed)\.sh$|(^|/)deepspeed/launcher/\w+\.py$|(^|/)torch/distributed/run\.py$"
)
REAPERS = {"init", "systemd", "tini", "dumb-init", "docker-init", "catatonit", "launchd"}
"""What adopts processes whose parent has ended."""


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Asks the kernel to end this process when the thread that started it ends; call it first thing in the new process.

    Args:
        parent: id of the process that started this one. Where it is gone already, this process ends at once with status 1.
        number: signal that the kernel sends.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    # A parent that ended before prctl took effect causes no signal any more.
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def helper_signals_blocked() -> Iterator[None]:
    """Blocks HELPER_BLOCKED_SIGNALS in this thread; a process started inside inherits the block and keeps it.

    A signal to the whole process group would otherwise end the helper, before or after it could ignore it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELPER_BLOCKED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_launcher(env: Mapping[str, str]) -> threading.Thread | None:
    """Ends this process, within two seconds, when its launcher is gone; call it first thing in a rank.

    Args:
        env: environment of the process.

    Returns:
        The thread that looks; None where no launcher started this process.
    """
    if not any(name in env for name in (*OF_PYTHON, *OF_MPI, *OF_SRUN, SCRIPT_VARIABLE)):
        return None
    parent = os.getppid()
    watched = launchers_above(parent)
    if script := _script(env):
        stat = _living(script)
        if stat is None:
            _end(f"the script that started it, process {script}, ended before it had begun")
        watched[script] = stat.began
    if any(name in env for name in OF_PYTHON):
        if is_reaper(parent):
            _end("its launcher ended before it had begun")
        if parent in watched:
            end_with_parent(parent)  # also while a library call holds up all threads
    counts = any(name in env for name in (*OF_PYTHON, *OF_MPI))
    thread = threading.Thread(target=_watch, args=(parent if counts else None, watched), name="launcher-watch", daemon=True)
    thread.start()
    return thread


def launchers_above(parent: int) -> dict[int, str]:
    """Returns when each process began, by id, of the ancestors from `parent` upwards that are part of a launcher.

    Args:
        parent: id of the process to begin with.
    """
    found: dict[int, str] = {}
    pid = parent
    while pid > 1 and (stat := _living(pid)) is not None:
        if is_launcher(_command(pid)):
            found[pid] = stat.began
        pid = stat.parent
    return found


def is_launcher(command: list[str]) -> bool:
    """Whether a command line is that of a launcher, or of a part of one.

    Args:
        command: program and arguments.
    """
    # The program's own arguments come first; later ones may be a command that it starts.
    first = command[:5]
    programs = {Path(word).name.rstrip(":") for word in first[:2]}
    return bool(programs & PROGRAMS) or any(MODULES.fullmatch(word) or SCRIPTS.search(word) for word in first)


def is_reaper(pid: int) -> bool:
    """Whether a process is one that adopts orphans and not itself a launcher."""
    command = _command(pid)
    if is_launcher(command):
        return False
    # In a container the first process may be anything that a user has started; a shell or Python there may be the true parent.
    return Path(command[0]).name in REAPERS if command else pid == 1


def _script(env: Mapping[str, str]) -> int | None:
    """Returns the process of the script in launch/, where it was started on this machine; its variable reaches other hosts too."""
    host, _, rest = env.get(SCRIPT_VARIABLE, "").partition(" ")
    namespace, _, pid = rest.partition(" ")
    try:
        here = host == socket.gethostname() and namespace == os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it leads to no file
    except OSError:
        return None
    return int(pid) if here and pid.isdigit() else None


def _watch(parent: int | None, watched: dict[int, str]) -> None:
    while True:
        if parent is not None and os.getppid() != parent:
            _end(f"the process {parent} that started it is gone")
        for pid, began in watched.items():
            if (stat := _living(pid)) is None or stat.began != began:
                _end(f"its launcher, process {pid}, is gone")
        time.sleep(LOOK_S)


def _end(reason: str) -> NoReturn:
    """Ends the process with a sentence; nothing is saved, as the ranks cannot agree on anything any more."""
    with contextlib.suppress(OSError):  # nobody may read it any more
        os.write(2, f"process {os.getpid()} ends: {reason}.\n".encode())
    os._exit(STATUS)


def _living(pid: int) -> ProcessStat | None:
    """None where the process has ended, collected or not."""
    stat = process_stat(pid)
    return None if stat is None or stat.state in ("Z", "X") else stat


def _command(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    return [word for word in words if word]
