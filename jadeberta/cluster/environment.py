"""Which rank this process is, read from the environment of whatever started it.

One pure function over the environment's variables; nothing here looks at the machine, so that each launcher is a row in a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jadeberta.errors import ConfigError

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Process:
    """This process's place in the job."""

    launcher: str
    rank: int
    local_rank: int
    world_size: int
    master_addr: str
    master_port: int

    @property
    def is_root(self) -> bool:
        return self.rank == 0


def detect(env: Mapping[str, str]) -> Process:
    """The process's place, from the variables of torchrun (and the DeepSpeed launcher and ours), Slurm or MPI.

    Args:
        env: the environment, e.g. os.environ.

    Raises:
        ConfigError: variables are missing or contradict each other; names what was seen.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return _process("torchrun", env, "RANK", "LOCAL_RANK", "WORLD_SIZE", _address(env, "torchrun"))
    if "OMPI_COMM_WORLD_RANK" in env:
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
        return _process("mpirun (Open MPI)", env, *names, _mpi_address(env, names))
    if "PMI_RANK" in env and "SLURM_PROCID" not in env:
        names = ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE")
        return _process("mpirun (MPICH)", env, *names, _mpi_address(env, names))
    # A shell inside an allocation has SLURM_JOB_ID but no step; only a task of srun is a rank.
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
        return _process("srun", env, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", _address(env, "srun"))
    return Process("none", 0, 0, 1, "127.0.0.1", 0)


def _process(launcher: str, env: Mapping[str, str], rank: str, local_rank: str, size: str, address: tuple[str, int]) -> Process:
    try:
        numbers = [int(env[name]) for name in (rank, local_rank, size)]
    except KeyError as e:
        raise ConfigError(f"{launcher} set {rank}={env.get(rank)} but not {e.args[0]}; start all ranks with one launcher.") from e
    except ValueError as e:
        seen = ", ".join(f"{name}={env[name]}" for name in (rank, local_rank, size))
        raise ConfigError(f"{launcher} set {seen}; these must be whole numbers.") from e
    if not 0 <= numbers[0] < numbers[2]:
        raise ConfigError(f"{launcher} set {rank}={numbers[0]} with {size}={numbers[2]}; the rank must lie below the size.")
    return Process(launcher, numbers[0], numbers[1], numbers[2], *address)


def _address(env: Mapping[str, str], launcher: str) -> tuple[str, int]:
    if "MASTER_ADDR" not in env:
        raise ConfigError(
            f"{launcher} started this process but MASTER_ADDR is not set; the scripts in launch/ and slurm/ set it."
        )
    return env["MASTER_ADDR"], int(env.get("MASTER_PORT", DEFAULT_PORT))


def _mpi_address(env: Mapping[str, str], names: tuple[str, str, str]) -> tuple[str, int]:
    """MPI tells no address. On one machine it is the loopback; across machines the launch script has to set it."""
    if "MASTER_ADDR" in env:
        return env["MASTER_ADDR"], int(env.get("MASTER_PORT", DEFAULT_PORT))
    if env.get("OMPI_COMM_WORLD_LOCAL_SIZE", env.get(names[2])) != env.get(names[2]):
        raise ConfigError("mpirun started ranks on several machines but MASTER_ADDR is not set; launch/mpi.sh sets it.")
    return "127.0.0.1", int(env.get("MASTER_PORT", DEFAULT_PORT))
