"""Process group of a job: address and port, time-outs, and how a lost peer is recognised."""

import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.cluster.run_store import RunIdentity, is_loopback, open_store
from jadeberta.errors import ConfigError, HangError


def join_process_group(process: Process, device: torch.device, patience: float, run_dir: Path = Path()) -> None:
    """Makes this process a rank of the job, over NCCL on GPUs and gloo on CPUs.

    Args:
        process: rank, world size and address.
        device: of this rank.
        patience: seconds to wait for the other ranks.
        run_dir: of the run; ranks of another are refused.

    Raises:
        ConfigError: the port is taken, or the network interface has no address.
        ForeignRunError: the ranks of another run meet at this address.
        HangError: the other ranks did not come in time.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    # DeepSpeed and torch read these variables from the environment.
    os.environ |= {"RANK": str(process.rank), "LOCAL_RANK": str(process.local_rank), "WORLD_SIZE": str(process.world_size)}
    os.environ |= {"MASTER_ADDR": process.master_addr, "MASTER_PORT": str(process.master_port)}
    if is_loopback(process.master_addr):
        # All ranks are on this machine: gloo need not listen where others can reach it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    identity = RunIdentity.of("pretrain", run_dir, process, os.environ)
    began = time.monotonic()
    store = open_store(identity, process, patience)
    backend = "nccl" if device.type == "cuda" else "gloo"
    left = timedelta(seconds=max(1.0, patience - (time.monotonic() - began)))
    try:
        dist.init_process_group(backend, store=store, rank=process.rank, world_size=process.world_size, timeout=left)
    except dist.DistError as e:
        where = f"{process.master_addr}:{process.master_port}"
        reason = str(e).splitlines()[0]
        raise HangError(f"rank {process.rank} did not meet the others at {where} within {patience:.0f} s ({reason}).") from e
    except RuntimeError as e:
        if "Unable to find address" not in str(e):
            raise
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "")
        raise ConfigError(
            f"the network interface {interface or 'of this host'} has no address, so that no rank can be reached; bring it up "
            f"('ip link set {interface or 'lo'} up'), or name another in GLOO_SOCKET_IFNAME."
        ) from e


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
