"""Slurm's lists of hosts are written out as Slurm itself does."""

import pytest

from jadeberta.cluster.hostlist import expand
from jadeberta.errors import ConfigError
from tests.cluster.conftest import Cluster

LISTS = {
    "": [],
    "node1": ["node1"],
    "node1,other": ["node1", "other"],
    "node[1-3]": ["node1", "node2", "node3"],
    "node[08-11]": ["node08", "node09", "node10", "node11"],
    "a[1,3-4]-ib,b7,c[2]": ["a1-ib", "a3-ib", "a4-ib", "b7", "c2"],
    "rack[1-2]n[01-02]": ["rack1n01", "rack1n02", "rack2n01", "rack2n02"],
    "gpu[099-101]": ["gpu099", "gpu100", "gpu101"],
    "login.cluster.jp,x-[5]": ["login.cluster.jp", "x-5"],
}


@pytest.mark.parametrize("hostlist", LISTS)
def test_a_list_is_written_out_in_its_order(hostlist) -> None:
    assert expand(hostlist) == LISTS[hostlist]


@pytest.mark.parametrize("broken", ["node[1-3", "node1-3]", "node[a-b]", "node[3-1]", "node[]", "n[1][", "n[[1]]"])
def test_a_broken_list_is_refused(broken) -> None:
    with pytest.raises(ConfigError, match="no list of hosts"):
        expand(broken)


def test_slurm_writes_them_out_alike(cluster: Cluster) -> None:
    for hostlist, hosts in LISTS.items():
        if hosts and "]-" not in hostlist:  # Slurm itself takes no text after the last bracket
            assert cluster.run("scontrol", "show", "hostnames", hostlist).split() == hosts
