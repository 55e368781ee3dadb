"""The context that all benchmarks of a preflight share: the ranks that take part, and the measurements."""

from pathlib import Path

import torch

from jadeberta.config import Recipe
from jadeberta.preflight.rendezvous import Rendezvous
from jadeberta.preflight.results import LocalResults, Measurements

CONNECT_S = 8.0
"""Time limit of a connection. In a healthy network it takes milliseconds, NCCL's first one a few seconds."""
FIRST_CONNECT_S = 30.0
"""The same for the first connection of GPUs in an attempt: NCCL then looks at the machine and sets up its network, on a cold host for
many seconds."""
ANSWER_S = CONNECT_S + 4.0
"""Time limit of a rank's answer. It is longer than CONNECT_S: a rank reports a partner that does not answer before it counts as lost
itself."""


class Context:
    """One rank's view of the benchmarks."""

    def __init__(
        self,
        recipe: Recipe,
        rendezvous: Rendezvous,
        directory: Path,
        device: torch.device | None,
        local_results: dict[int, LocalResults],
        device_share: float,
        link_share: float,
    ) -> None:
        """Stores the context; measures nothing.

        Args:
            recipe: names the directories to write to.
            rendezvous: of the ranks.
            directory: of this attempt, within the run directory.
            device: of this rank; None if it has none that works.
            local_results: on rank 0, of every rank that came; on others empty.
            device_share: share of the median below which a device is slow.
            link_share: share of the median below which a link is slow.
        """
        self.recipe, self.rendezvous, self.directory, self.device = recipe, rendezvous, directory, device
        self.device_share, self.link_share = device_share, link_share
        self.rank, self.is_root = rendezvous.process.rank, rendezvous.process.is_root
        self.measurements = Measurements(lost=rendezvous.lost)
        """Measurements of all ranks; filled on rank 0."""
        self.hosts = {rank: each.host for rank, each in local_results.items()}
        self._has_connected = False
        devices = [each.device for each in local_results.values() if each.device]
        median = max(sorted(set(devices), reverse=True), key=devices.count, default="")  # with equal counts, the GPUs
        self._on_gpus = median == "cuda"
        self._device_ranks = {rank for rank, each in local_results.items() if median and each.device == median}

    def lead_ranks(self, ranks: list[int]) -> dict[str, int]:
        """Returns the lowest of some ranks on each host, by host; on rank 0."""
        lead_ranks: dict[str, int] = {}
        for rank in ranks:
            if rank in self.hosts:
                lead_ranks.setdefault(self.hosts[rank], rank)
        return lead_ranks

    def device_ranks(self) -> list[int]:
        """Returns the active ranks with a device of the most frequent kind; on rank 0."""
        return [rank for rank in self.rendezvous.active_ranks if rank in self._device_ranks]

    def next_connect_s(self, groups: list[list[int]]) -> float:
        """Returns the time limit of the connections of a measurement, for its plan; on rank 0.

        The long limit is given once: a second one would use up the time of the preflight where a link is dead.

        Args:
            groups: of ranks that connect; of the first measurement that has any, the limit is FIRST_CONNECT_S on GPUs.
        """
        if self._has_connected or not groups:
            return CONNECT_S
        self._has_connected = True
        return FIRST_CONNECT_S if self._on_gpus else CONNECT_S


def answer_s(connect_s: float) -> float:
    """Returns the time limit of a rank's answer where it has `connect_s` to connect, see `ANSWER_S`."""
    return connect_s + ANSWER_S - CONNECT_S
