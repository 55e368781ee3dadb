"""What the measurements of a preflight have in common: who takes part, and where the results go."""

from pathlib import Path

import torch

from jadeberta.config import Recipe
from jadeberta.preflight.rendezvous import Meeting
from jadeberta.preflight.results import Findings, Measurements

CONNECT_S = 8.0
"""A connection within a healthy network takes milliseconds, NCCL's first one a few seconds."""
ANSWER_S = CONNECT_S + 4.0
"""A rank whose partner does not answer says so before it is taken for lost itself."""


class Session:
    """One rank's part in the measurements."""

    def __init__(
        self,
        recipe: Recipe,
        meeting: Meeting,
        directory: Path,
        device: torch.device | None,
        findings: dict[int, Findings],
        device_share: float,
        link_share: float,
    ) -> None:
        """Measures nothing.

        Args:
            recipe: names the directories to write to.
            meeting: of the ranks.
            directory: of this start, within the run directory.
            device: of this rank; None where it has none that can be used.
            findings: on rank 0, of every rank that came; on others empty.
            device_share, link_share: of the median of their kind, under which a device or a link looks slow.
        """
        self.recipe, self.meeting, self.directory, self.device = recipe, meeting, directory, device
        self.device_share, self.link_share = device_share, link_share
        self.rank, self.is_root = meeting.process.rank, meeting.process.is_root
        self.found = Measurements(lost=meeting.lost)
        """Of all ranks; filled on rank 0."""
        self.hosts = {rank: each.host for rank, each in findings.items()}
        devices = [each.device for each in findings.values() if each.device]
        usual = max(sorted(set(devices), reverse=True), key=devices.count, default="")  # of as many, the GPUs
        self._able = {rank for rank, each in findings.items() if usual and each.device == usual}

    def leads(self, ranks: list[int]) -> dict[str, int]:
        """Of some ranks the lowest on each host, by host; on rank 0."""
        leads: dict[str, int] = {}
        for rank in ranks:
            if rank in self.hosts:
                leads.setdefault(self.hosts[rank], rank)
        return leads

    def able_roster(self) -> list[int]:
        """Ranks that take part and have a device of the usual kind; on rank 0."""
        return [rank for rank in self.meeting.roster if rank in self._able]
