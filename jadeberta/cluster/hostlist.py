"""Slurm's short form of a list of hosts, such as node[1-3,07],gpu-a[01-02]-ib, expanded: pure functions.

`scontrol show hostnames` does the same, but is missing inside a container.
"""

import re
from collections.abc import Mapping
from itertools import product

from jadeberta.errors import ConfigError


def expand(hostlist: str) -> list[str]:
    """Expands a list of hosts, in its order.

    Raises:
        ConfigError: brackets do not match, or a range of numbers is none.
    """
    hosts = []
    for entry in _split(hostlist):
        texts = re.split(r"\[([^\[\]]*)\]", entry)  # text, numbers, text, numbers, ..., text
        if any(c in text for text in texts[::2] for c in "[]"):
            raise ConfigError(f"'{hostlist}' is no list of hosts: the brackets of '{entry}' do not match.")
        choices = [_numbers(text, hostlist) if place % 2 else [text] for place, text in enumerate(texts)]
        hosts += ["".join(parts) for parts in product(*choices)]
    return hosts


def _split(hostlist: str) -> list[str]:
    """Splits a list at the commas outside brackets."""
    return [entry for entry in re.findall(r"(?:[^,\[]|\[[^\]]*\]?)+", hostlist) if entry.strip()]


def _numbers(ranges: str, hostlist: str) -> list[str]:
    """Expands ranges such as 1-3,07; numbers keep their leading zeros."""
    numbers = []
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ConfigError(f"'{hostlist}' is no list of hosts: '{part}' is no range of numbers.")
        last = match[2] or match[1]
        numbers += [f"{number:0{len(match[1])}d}" for number in range(int(match[1]), int(last) + 1)]
    return numbers


def placement(env: Mapping[str, str], world_size: int) -> dict[int, str]:
    """Returns the host of each rank, where srun has distributed the ranks block by block; empty where it has not.

    Args:
        env: environment of a task.
        world_size: number of ranks.
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
