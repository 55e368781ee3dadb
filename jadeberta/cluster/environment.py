"""Which rank this process is, read from the environment of whatever started it.

Pure functions of the environment's variables; only `host_name` may ask the machine. So each launcher is a row in a test.
"""

import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jadeberta.cluster.hostlist import expand
from jadeberta.errors import ConfigError

DEFAULT_PORT = 29500
FIRST_PORT, PORTS = 15000, 17000
"""Range of the ports where ranks meet that nobody gave a port: below the ephemeral ports of Linux (from 32768 on), which any connection may
take."""
PORTS_BETWEEN_STEPS = 4099
"""Distance of the ports of two steps of a Slurm job: a prime, so that a later job rarely has the port of an earlier one's step."""
INNER = ("LOCAL_WORLD_SIZE", "CROSS_SIZE", "TORCHELASTIC_RUN_ID")
"""Variables of torchrun, the DeepSpeed launcher and ours. Where one is set, RANK is theirs and not left over from elsewhere."""
LAUNCH_VARIABLE, LAUNCHER_VARIABLE = "JADEBERTA_LAUNCH", "JADEBERTA_LAUNCHER"
"""Set by our own launchers: a name that no other launch has, and what the launcher calls itself."""


@dataclass(frozen=True)
class Process:
    """This process as a rank of its job."""

    launcher: str
    rank: int
    local_rank: int
    world_size: int
    master_addr: str
    master_port: int

    @property
    def is_root(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True)
class LauncherVariables:
    """Names of the variables with which a launcher numbers its tasks; a task is a rank unless it starts ranks itself."""

    name: str
    rank: str
    local_rank: str
    size: str


OPEN_MPI = LauncherVariables("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
MPICH = LauncherVariables("mpirun (MPICH)", "PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE")
SRUN = LauncherVariables("srun", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")


def detect(env: Mapping[str, str]) -> Process:
    """Reads rank, world size and address from the variables of torchrun (or the DeepSpeed launcher, or ours), MPI or Slurm.

    Args:
        env: the environment, e.g. os.environ.

    Raises:
        ConfigError: variables are missing or contradict each other; names their values.
    """
    outer = _outer(env)
    if "RANK" in env or "WORLD_SIZE" in env:
        if outer is not None and not any(name in env for name in INNER):
            _refuse_contradiction(env, outer)
        if "MASTER_ADDR" not in env:
            raise ConfigError(
                f"RANK={env.get('RANK')} and WORLD_SIZE={env.get('WORLD_SIZE')} are set but MASTER_ADDR is not set; "
                "unset them, or start through the scripts in launch/ and slurm/."
            )
        return _process(LauncherVariables(_inner_name(env), "RANK", "LOCAL_RANK", "WORLD_SIZE"), env, _given(env))
    if outer is None:
        return Process("none", 0, 0, 1, "127.0.0.1", 0)
    if "MASTER_ADDR" in env:
        return _process(outer, env, _given(env))
    return _process(outer, env, _slurm_address(env) if outer is SRUN else _mpi_address(env, outer))


def _inner_name(env: Mapping[str, str]) -> str:
    """Who set RANK and WORLD_SIZE."""
    if "TORCHELASTIC_RUN_ID" in env:
        return "torchrun"
    if "CROSS_SIZE" in env:
        return "deepspeed"
    return env.get(LAUNCHER_VARIABLE) or "RANK and WORLD_SIZE"


def launch_name(env: Mapping[str, str], process: Process) -> str:
    """Returns how the launcher of this process names the launch, the same on all its ranks; empty where it has no name for it.

    Args:
        env: environment of the process.
        process: what `detect` found there.
    """
    if process.launcher == "torchrun":
        return f"id {env['TORCHELASTIC_RUN_ID']}, start {env.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if process.launcher == SRUN.name:
        job = env.get("SLURM_HET_JOB_ID") or env.get("SLURM_JOB_ID")
        return f"job {job}, step {env.get('SLURM_STEP_ID')}, start {env.get('SLURM_RESTART_COUNT', '0')}"
    # Not in general: srun --mpi=pmix has a namespace as well, which mpirun's ranks inherit from it.
    namespace = env.get("PMIX_NAMESPACE", "") if process.launcher == OPEN_MPI.name else ""
    return env.get(LAUNCH_VARIABLE) or namespace


def _outer(env: Mapping[str, str]) -> LauncherVariables | None:
    """Who started this process's task; mpirun goes before srun, which starts mpirun's helpers on every node."""
    if OPEN_MPI.rank in env:
        return OPEN_MPI
    if MPICH.rank in env and MPICH.local_rank in env:  # srun --mpi=pmi2 sets only the first
        return MPICH
    if MPICH.rank in env and SRUN.rank not in env:
        return MPICH
    # A shell inside an allocation has SLURM_JOB_ID but no step; only a task of srun is a rank.
    if SRUN.rank in env and "SLURM_STEP_ID" in env and _number(env, SRUN.size, "1") > 1:
        return SRUN
    return None


def _refuse_contradiction(env: Mapping[str, str], outer: LauncherVariables) -> None:
    """RANK left over in a shell that calls mpirun or srun would make every task the same rank of another job."""
    pairs = (("RANK", outer.rank), ("WORLD_SIZE", outer.size))
    if any(env.get(ours) != env.get(theirs) for ours, theirs in pairs):
        seen = ", ".join(f"{name}={env[name]}" for pair in pairs for name in pair if name in env)
        raise ConfigError(f"{outer.name} started this process, yet RANK and WORLD_SIZE say something else: {seen}. Unset them.")


def _process(names: LauncherVariables, env: Mapping[str, str], address: tuple[str, int]) -> Process:
    for name in (names.rank, names.local_rank, names.size):
        if name not in env:
            raise ConfigError(
                f"{names.name} set {names.rank}={env.get(names.rank)} but not {name}; start all ranks with one launcher."
            )
    rank, local_rank, size = (_number(env, name) for name in (names.rank, names.local_rank, names.size))
    if not 0 <= rank < size:
        raise ConfigError(f"{names.name} set {names.rank}={rank} with {names.size}={size}; the rank must lie below the size.")
    if not 0 <= local_rank <= rank:
        raise ConfigError(
            f"{names.name} set {names.local_rank}={local_rank} with {names.rank}={rank}; on its host a rank cannot come later than that."
        )
    return Process(names.name, rank, local_rank, size, *address)


def _number(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = env.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={text} must be a whole number.") from None


def _given(env: Mapping[str, str]) -> tuple[str, int]:
    port = _number(env, "MASTER_PORT", str(DEFAULT_PORT))
    if not 0 < port < 65536:
        raise ConfigError(f"MASTER_PORT={port} must lie between 1 and 65535.")
    return env["MASTER_ADDR"].strip("[]"), port


def _slurm_address(env: Mapping[str, str]) -> tuple[str, int]:
    """Returns the first host of the step, where task 0 runs, and a port that no other job on it has."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise ConfigError("srun started this process but MASTER_ADDR and SLURM_STEP_NODELIST are not set; set MASTER_ADDR.")
    return expand(nodes)[0], step_port(_number(env, "SLURM_JOB_ID", "0"), _number(env, "SLURM_STEP_ID", "0"))


def step_port(job: int, step: int) -> int:
    """Returns the port where the ranks of a step of a Slurm job meet; jobs and steps that share a host get different ports.

    launch/torchrun.sh computes the same, and launch/deepspeed.sh where Slurm starts it on several hosts.
    """
    return FIRST_PORT + (job + PORTS_BETWEEN_STEPS * step) % PORTS


def _mpi_address(env: Mapping[str, str], outer: LauncherVariables) -> tuple[str, int]:
    """Returns the loopback address: MPI names none, and across machines the launch script has to set one."""
    local_sizes = {OPEN_MPI: "OMPI_COMM_WORLD_LOCAL_SIZE", MPICH: "MPI_LOCALNRANKS"}
    if env.get(local_sizes[outer], env.get(outer.size)) != env.get(outer.size):
        raise ConfigError("mpirun started ranks on several machines but MASTER_ADDR is not set; launch/mpi.sh sets it.")
    name = env.get("PMIX_NAMESPACE", "") if outer is OPEN_MPI else ""
    # Two mpiruns at the same time have different namespaces, hence different ports.
    chosen = FIRST_PORT + zlib.crc32(name.encode()) % PORTS if name else DEFAULT_PORT
    return "127.0.0.1", _number(env, "MASTER_PORT", str(chosen))


def host_name(env: Mapping[str, str]) -> str:
    """This host's name: the one that Slurm uses, so that a job can exclude the host by it; outside Slurm the machine's own."""
    # mpirun copies the environment of its own host to all others, so there the variable names the wrong host.
    if OPEN_MPI.rank in env or MPICH.local_rank in env:
        return socket.gethostname()
    return env.get("SLURMD_NODENAME") or socket.gethostname()


def slurm_job(env: Mapping[str, str]) -> dict[str, Any]:
    """Returns what Slurm says about the job of this process: job, array, restarts, name, partition, hosts; empty outside a job.

    The keys are those of jobs.jsonl and of the ledger's event `start`.
    """
    if "SLURM_JOB_ID" not in env:
        return {}
    array = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_TASK_ID" in env else None
    return {
        "job": _number(env, "SLURM_JOB_ID"),
        "array": array,
        "restarts": _number(env, "SLURM_RESTART_COUNT", "0"),
        "name": env.get("SLURM_JOB_NAME", ""),
        "partition": env.get("SLURM_JOB_PARTITION", ""),
        "hosts": expand(env.get("SLURM_JOB_NODELIST", "")),
    }
