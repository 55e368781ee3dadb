"""On which host each rank should be, from Slurm's variables: a pure function. It gives a rank that never appears a name."""

import re
from collections.abc import Mapping

from jadeberta.cluster.hostlist import expand


def placement(env: Mapping[str, str], world_size: int) -> dict[int, str]:
    """Host by rank, for ranks that srun has laid out block by block; empty where that is not known.

    Args:
        env: of a task.
        world_size: ranks.
    """
    hosts = expand(env.get("SLURM_STEP_NODELIST", ""))
    counts: list[int] = []
    for text in filter(None, env.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):  # such as 4(x2),3
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", text)
        counts += [int(match[1])] * int(match[2] or 1) if match else []
    by_block = env.get("SLURM_DISTRIBUTION", "block").split(":")[0] == "block" or set(counts) == {1}
    if not by_block or len(hosts) != len(counts) or sum(counts) != world_size:
        return {}
    return dict(enumerate(host for host, count in zip(hosts, counts, strict=True) for _ in range(count)))
