"""What the system lets a process of the training use: open files, and shared memory. Pure, but for the one function that asks."""

from jadeberta.preflight.results import Fault
from jadeberta.utils.resources import open_files_possible, shared_memory

FILES_OF_A_RANK = 256
"""Open files of a rank and of each of its loaders: shards, logs, pipes, the device's driver."""
FILES_OF_A_PEER = 2
"""Connections that the collectives may hold to each other rank."""
SEMAPHORES_BYTES = 1 << 20
"""Room in /dev/shm for the semaphores of the loaders' queues; they take some pages, the batches nothing."""
NCCL_BYTES = 512 << 20
"""Size of /dev/shm below which NCCL is known to fail between the GPUs of a host; containers have 64 MiB by default."""


def limit_findings(files: int, shared: tuple[int, int] | None, world_size: int, has_gpus: bool) -> tuple[list[Fault], list[str]]:
    """Judges the limits of a rank.

    Args:
        files: open files that the process may have at most, once it has raised its soft limit.
        shared: size and free bytes of /dev/shm; None where there is none.
        world_size: number of ranks.
        has_gpus: whether the ranks compute on GPUs.

    Returns:
        Faults that the training would fail of, and warnings.
    """
    faults: list[Fault] = []
    warnings: list[str] = []
    needed = FILES_OF_A_RANK + FILES_OF_A_PEER * world_size
    if files < needed:
        faults.append(
            Fault(
                "open files",
                f"a process may open {files} files and needs about {needed}; raise the hard limit ('ulimit -Hn'; under Slurm LimitNOFILE "
                "of slurmd)",
            )
        )
    if shared is None:
        faults.append(
            Fault("/dev/shm", "/dev/shm is missing; mount a tmpfs there, loader processes need it for their semaphores")
        )
        return faults, warnings
    size, free = shared
    if free < SEMAPHORES_BYTES:
        faults.append(
            Fault("/dev/shm", f"/dev/shm is full ({free:,} of {size:,} bytes are free); remove what earlier jobs left there")
        )
    elif has_gpus and size < NCCL_BYTES:
        warnings.append(
            f"/dev/shm has {size >> 20} MiB; NCCL may fail between the GPUs of a host below {NCCL_BYTES >> 20} MiB: start containers with "
            "--shm-size=1g"
        )
    return faults, warnings


def check_limits(world_size: int, has_gpus: bool) -> tuple[list[Fault], list[str]]:
    """Judges the limits of this process; see `limit_findings`."""
    try:
        shared = shared_memory()
    except OSError:
        shared = None
    return limit_findings(open_files_possible(), shared, world_size, has_gpus)
