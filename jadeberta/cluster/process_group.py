"""Process group of a job: address and port, time-outs, and how a lost peer is recognised."""

import math
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.cluster.run_store import RunIdentity, is_loopback, open_store
from jadeberta.errors import ConfigError, HangError

T = TypeVar("T")
WHICH_NETWORK = (
    "Where hosts have several networks, name the one that joins them in NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, such as 'ib0'."
)
"""Advice for ranks that do not meet: gloo listens where the host's own name leads, which may be the host itself."""


def join_process_group(
    process: Process, device: torch.device, patience: float, run_dir: Path = Path(), longest_s: float = 0.0
) -> None:
    """Makes this process a rank of the job, over NCCL on GPUs and gloo on CPUs.

    Args:
        process: rank, world size and address.
        device: of this rank.
        patience: seconds to wait for the other ranks.
        run_dir: of the run; ranks of another are refused.
        longest_s: the longest time limit of the watchdog, seconds; on GPUs NCCL's are set by it. 0: they stay as they are.

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
    if device.type == "cuda" and longest_s:
        os.environ |= nccl_settings(os.environ, run_dir, longest_s)
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
        raise HangError(
            f"rank {process.rank} did not meet the others at {where} within {patience:.0f} s ({reason}). {WHICH_NETWORK}"
        ) from e
    except RuntimeError as e:
        if "Unable to find address" not in str(e):
            raise
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "")
        raise ConfigError(
            f"the network interface {interface or 'of this host'} has no address, so that no rank can be reached; bring it up "
            f"('ip link set {interface or 'lo'} up'), or name another in GLOO_SOCKET_IFNAME."
        ) from e


def from_root(value: T) -> T:
    """Returns rank 0's value; every rank calls it. Over NCCL the ranks connect here and not before.

    Raises:
        ConfigError: NCCL refuses how the ranks are set up.
        HangError: the ranks do not reach each other.
    """
    values = [value]
    try:
        dist.broadcast_object_list(values, src=0)
    except RuntimeError as e:
        if fault := own_fault(e):
            raise fault from e
        if not is_lost_peer(e):
            raise
        reason = next(iter(str(e).splitlines()), type(e).__name__)
        raise HangError(f"the ranks met but do not reach each other ({reason}). {WHICH_NETWORK}") from e
    return values[0]


def nccl_settings(env: Mapping[str, str], run_dir: Path, longest_s: float) -> dict[str, str]:
    """Variables for NCCL that the environment does not set: the watchdog speaks first, and what NCCL was doing is kept with the stacks.

    Args:
        env: the environment, before the process group is made.
        run_dir: of the run.
        longest_s: the longest time limit of the watchdog, seconds.
    """
    wanted = {
        # Its monitor would end a rank before the watchdog has named the one that hangs: by default after 480 s.
        ("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC",): str(math.ceil(longest_s + HEARTBEAT_GRACE_S)),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT",): "1",
        # The newer name first; torch reads both.
        ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"): "2000",
        ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"): str((run_dir / "logs" / "nccl-rank-").absolute()),
    }
    return {names[0]: value for names, value in wanted.items() if not any(name in env for name in names)}


def set_timeouts(seconds: float, group: "dist.ProcessGroup | None" = None) -> None:
    """Sets the time-out of collectives.

    Args:
        seconds: time after which a collective gives up waiting for the other ranks.
        group: process group; None: every group that exists.
    """
    from torch.distributed import distributed_c10d

    for each in [group] if group is not None else list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), each)


HEARTBEAT_GRACE_S = 120.0
"""Time beyond the watchdog's longest limit after which NCCL's own monitor ends a rank."""
OWN_FAULTS = ("invalid usage", "invalid argument", "Duplicate GPU")
"""Words of NCCL for a fault of this rank's own set-up, which no other rank has caused."""


def own_fault(error: RuntimeError) -> ConfigError | None:
    """The error of a rank that NCCL refuses for its own set-up, from what torch raises; None where it is another error."""
    lines = [line.strip() for line in str(error).splitlines() if any(words in line for words in OWN_FAULTS)]
    if not lines or not (isinstance(error, dist.DistError) or "NCCL" in str(error)):
        return None
    return ConfigError(f"NCCL refuses how this rank is set up ({lines[-1]}); start one rank a GPU, with one NCCL on all hosts.")


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is silent or gone."""
    # gloo and NCCL raise plain RuntimeErrors for a closed connection; only their text names the library.
    of_transport = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return isinstance(error, RuntimeError) and of_transport and not any(words in str(error) for words in OWN_FAULTS)
