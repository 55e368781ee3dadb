"""Process group of a job: address and port, time-outs, and how a lost peer is recognised."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.errors import ConfigError, HangError
from jadeberta.utils.ports import free_port


def join_process_group(process: Process, device: torch.device, patience: float) -> None:
    """Makes this process a rank of the job, over NCCL on GPUs and gloo on CPUs.

    Args:
        process: rank, world size and address.
        device: of this rank.
        patience: seconds to wait for the other ranks.

    Raises:
        ConfigError: the port is taken.
        HangError: the other ranks did not come in time.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    # DeepSpeed and torch read these variables from the environment; torchrun's own store is found there too.
    os.environ |= {"RANK": str(process.rank), "LOCAL_RANK": str(process.local_rank), "WORLD_SIZE": str(process.world_size)}
    os.environ |= {"MASTER_ADDR": process.master_addr, "MASTER_PORT": str(process.master_port or free_port())}
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, init_method="env://", timeout=timedelta(seconds=patience))
    except dist.DistError as e:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(e).splitlines()[0]
        if "EADDRINUSE" in reason:
            raise ConfigError(
                f"rank {process.rank} cannot meet the others at {where} ({reason}). Free the port or set MASTER_PORT."
            ) from e
        raise HangError(f"rank {process.rank} did not meet the others at {where} within {patience:.0f} s ({reason}).") from e


def set_timeouts(seconds: float, group: "dist.ProcessGroup | None" = None) -> None:
    """Sets the time-out of collectives.

    Args:
        seconds: time after which a collective gives up waiting for the other ranks.
        group: process group; None: every group that exists.
    """
    from torch.distributed import distributed_c10d

    for each in [group] if group is not None else list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), each)


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is silent or gone."""
    # gloo and NCCL raise plain RuntimeErrors for a closed connection; only their text names the library.
    of_transport = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return isinstance(error, RuntimeError) and of_transport
