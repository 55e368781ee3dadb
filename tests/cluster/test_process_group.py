"""Ranks on two hosts meet at the address that Slurm's variables give, or at one that somebody set in any form."""

import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster
from tests.helpers import ROOT

MEET = """
import os, torch, torch.distributed as dist
from jadeberta.cluster.environment import detect
from jadeberta.cluster.process_group import join_process_group
process = detect(os.environ)
join_process_group(process, torch.device("cpu"), 90)
ranks = torch.tensor([process.rank + 1])
dist.all_reduce(ranks)
print(process.rank, ranks.item())
dist.destroy_process_group()
"""


@pytest.mark.parametrize("address", ["", "[::ffff:10.77.0.1]", "node1.v4"])
def test_two_hosts_meet(cluster: Cluster, tmp_path: Path, address: str) -> None:
    """The name node1.v4 is only known with an IPv4 address mapped into IPv6."""
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    setting = [f"MASTER_ADDR={address}"] if address else []
    told = cluster.run(
        "env", *setting, f"PYTHONPATH={ROOT}", "srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, script, timeout=150
    )
    assert sorted(line for line in told.splitlines() if line[:2] in ("0 ", "1 ")) == ["0 3", "1 3"]
