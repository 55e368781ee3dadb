"""Whether a Slurm job has the GPUs that its variables ask for: `python -m jadeberta.jobs.gpu_request NAME=VALUE..`, called by
slurm/container.sh with the variables, since a container's step would see its own.

--gres=gpu:4 on sbatch's command line changes what the job gets and leaves the script's --gpus-per-node=8 in SLURM_GPUS_PER_NODE.
Every srun of the job then asks for 8 and is refused.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from jadeberta.errors import ConfigError


@dataclass(frozen=True)
class GpuRequest:
    """What the steps of a job shall ask for."""

    per_node: str
    """For SLURM_GPUS_PER_NODE; empty: as it is."""
    sentence: str = ""
    """What is done otherwise than asked; empty: nothing."""


def decide_gpus(env: Mapping[str, str]) -> GpuRequest:
    """Compares the GPUs of a job's hosts with those that its steps would ask for.

    Args:
        env: variables of the batch script: SLURM_GPUS_PER_NODE (asked), SLURM_GPUS_ON_NODE (there), SLURM_NTASKS_PER_NODE or
            SLURM_NTASKS and SLURM_JOB_NUM_NODES.

    Raises:
        ConfigError: the job starts more ranks on a host than it has GPUs there.
    """
    asked, has = _count(env.get("SLURM_GPUS_PER_NODE", "")), _count(env.get("SLURM_GPUS_ON_NODE", ""))
    if asked is None or has is None or has >= asked:
        return GpuRequest("")
    tasks = _tasks_per_node(env)
    asks = f"this job has {has} GPUs on a node, as its --gres says, but its variables ask for {asked} (--gpus-per-node)"
    if tasks > has:
        raise ConfigError(
            f"{asks} and it starts {tasks} ranks there. Submit it with --gpus-per-node={has} --ntasks-per-node={has} in place of --gres."
        )
    return GpuRequest(
        str(has), f"{asks}; its steps ask for {has}. --gpus-per-node={has} in place of --gres says the same to both."
    )


def _count(text: str) -> int | None:
    """Number of GPUs in a text such as 8, a100:8 or a100:4(S:0-1); None where there is none."""
    number = text.split("(")[0].rpartition(":")[2]
    return int(number) if number.isdigit() else None


def _tasks_per_node(env: Mapping[str, str]) -> int:
    per_node, tasks, nodes = (_count(env.get(f"SLURM_{name}", "")) for name in ("NTASKS_PER_NODE", "NTASKS", "JOB_NUM_NODES"))
    return per_node or (-(-tasks // nodes) if tasks and nodes else 1)


def main() -> None:
    """Prints the value for SLURM_GPUS_PER_NODE where it has to be another."""
    try:
        found = decide_gpus(dict(word.split("=", 1) for word in sys.argv[1:]))
    except ConfigError as e:
        print(f"ConfigError: {e}", file=sys.stderr)
        sys.exit(e.exit_status)
    if found.sentence:
        print(found.sentence, file=sys.stderr)
    print(found.per_node)


if __name__ == "__main__":
    main()
