"""From results written by hand follows which hosts are unfit, and which faults are no host's own."""

from collections.abc import Callable
from dataclasses import asdict, replace

import orjson
import pytest

from jadeberta.preflight.checks import slow_devices, slow_links
from jadeberta.preflight.collectives import fit_latency_bandwidth
from jadeberta.preflight.judge import judge
from jadeberta.preflight.render import build_report, constants, render_table
from jadeberta.preflight.requirements import Requirements
from jadeberta.preflight.results import ClockOffset, DiskSpace, Fault, HostPair, LocalResults, Measurements
from jadeberta.preflight.round_robin import rounds
from jadeberta.preflight.verdict import Verdict

GB = 10**9
REQUIREMENTS = Requirements(checkpoint_bytes=5 * GB, world_size=8, soon=3, whole_run=9, save_s=450.0)


class Cluster:
    """Healthy hosts node1, node2 ... with two ranks each, on which a test breaks something."""

    def __init__(self, hosts: int = 4) -> None:
        self.hosts = [f"node{n + 1}" for n in range(hosts)]
        self.local_results = {
            2 * n + local: LocalResults(
                2 * n + local, local, host, 4000 + local, versions={"torch": "2.13.0", "jadeberta's files": "aaa"},
                device="cuda", device_name="A100", device_free_bytes=39 * GB, device_total_bytes=40 * GB,
                memory_free_bytes=200 * GB, index_sha256="e0" * 32, disks={"run.dir": DiskSpace("/runs/large", 900 * GB, 10**6)},
            )
            for n, host in enumerate(self.hosts) for local in (0, 1)
        }  # fmt: skip
        pairs = [HostPair(self.hosts[a], self.hosts[b], 1e-5, 20e9) for played in rounds(hosts) for a, b in played]
        self.measurements = Measurements(
            clocks={host: ClockOffset(0.001, 0.0002) for host in self.hosts},
            writes={host: {"run.dir": 1e9} for host in self.hosts},
            gemm_best=dict.fromkeys(self.local_results, 250e12),
            gemm_typical=dict.fromkeys(self.local_results, 240e12),
            inside=dict.fromkeys(self.hosts, 200e9) if hosts else {},
            pairs=pairs,
            rounds=(len(rounds(hosts)),) * 2,
        )

    def of(self, host: str) -> list[LocalResults]:
        return [each for each in self.local_results.values() if each.host == host]

    def slow_link(self, host: str, rate: float = 1e9) -> None:
        """Seen, and seen again."""
        own = [pair for pair in self.measurements.pairs if host in (pair.a, pair.b)]
        for pair in own:
            pair.bandwidth_bytes_per_s = rate
        self.measurements.pairs.append(replace(own[0]))

    def break_pair(self, *hosts: str) -> None:
        for pair in self.measurements.pairs:
            if {pair.a, pair.b} == set(hosts):
                pair.bandwidth_bytes_per_s, pair.error = 0.0, "connection refused"

    def lose(self, rank: int, host: str | None) -> None:
        """A rank that never says anything."""
        del self.local_results[rank]
        self.measurements.absent[rank] = "has not appeared within 30 s"
        if host:
            self.measurements.absent_hosts[rank] = host

    def verdict(self) -> Verdict:
        return judge(self.local_results, self.measurements, REQUIREMENTS)


def old_torch(cluster: Cluster) -> None:
    for each in cluster.of("node2"):
        each.versions["torch"] = "2.12.1"


def other_files(cluster: Cluster) -> None:
    for each in cluster.of("node4"):
        each.versions["jadeberta's files"] = "bbb"


def no_driver(cluster: Cluster) -> None:
    del cluster.local_results[5].versions["torch"]
    cluster.local_results[4].versions.pop("torch")


def other_index(cluster: Cluster) -> None:
    for each in cluster.of("node3"):
        each.index_sha256 = "f1" * 32


def one_slow_device(cluster: Cluster) -> None:
    cluster.measurements.gemm_best[5] = 150e12


def slow_link(cluster: Cluster) -> None:
    cluster.slow_link("node3")


def cut_off(cluster: Cluster) -> None:
    for other in ("node1", "node2", "node4"):
        cluster.break_pair("node3", other)


def slow_inside(cluster: Cluster) -> None:
    cluster.measurements.inside["node1"] = 20e9


def clock_ahead(cluster: Cluster) -> None:
    cluster.measurements.clocks["node2"] = ClockOffset(-40.0, 0.001)


def full_disk(cluster: Cluster) -> None:
    for each in cluster.of("node3"):
        each.disks["run.dir"] = DiskSpace("/runs/large", 1 << 20, 100)


def full_staging(cluster: Cluster) -> None:
    for each in cluster.local_results.values():
        each.disks["checkpoint.staging"] = DiskSpace("/scratch", (1 if each.host == "node2" else 100) * GB, None)


def no_inodes(cluster: Cluster) -> None:
    for each in cluster.of("node1"):
        each.disks["run.dir"] = DiskSpace("/runs/large", 900 * GB, 12)


def slow_writes(cluster: Cluster) -> None:
    cluster.measurements.writes["node4"]["run.dir"] = 1e6


def not_writable(cluster: Cluster) -> None:
    cluster.measurements.write_errors["node4"] = {"run.dir": "/runs/large: Input/output error"}


def little_memory(cluster: Cluster) -> None:
    for each in cluster.of("node2"):
        each.memory_free_bytes = GB


def device_taken(cluster: Cluster) -> None:
    cluster.local_results[3].device_free_bytes = 20 * GB


def no_device(cluster: Cluster) -> None:
    cluster.local_results[6].device = "cpu"


def other_mount(cluster: Cluster) -> None:
    cluster.measurements.blind_hosts = ["node3"]


def hung_shards(cluster: Cluster) -> None:
    cluster.local_results[2].faults.append(Fault("shards", "data.shards /data/shards: no answer within 10 s"))


def absent_host(cluster: Cluster) -> None:
    for rank in (4, 5):
        cluster.lose(rank, "node3")


def unreached_host(cluster: Cluster) -> None:
    for rank in (4, 5):
        cluster.measurements.absent[rank] = "finished its local checks but did not reach rank 0 within 30 s"
        cluster.measurements.absent_hosts[rank] = "node3"


def silent_rank(cluster: Cluster) -> None:
    cluster.measurements.lost[7] = "writing"


ONE_HOST: list[tuple[Callable[[Cluster], None], str, str]] = [
    (old_torch, "node2", "torch: 2.12.1 here, 2.13.0 on 3 other hosts"),
    (other_files, "node4", "jadeberta's files: bbb here, aaa on 3 other hosts"),
    (no_driver, "node3", "torch: missing here"),
    (other_index, "node3", "index.json: f1f1f1f1f1f1 here"),
    (one_slow_device, "node3", "local rank 1 multiplies matrices at 150 TFLOP/s, 60% of the median"),
    (slow_link, "node3", "fastest link to another host has 1e+03 MB/s, 5% of the median"),
    (cut_off, "node3", "reaches none of the 3 hosts that were tried (connection refused)"),
    (slow_inside, "node1", "an all-reduce of its own ranks has 2e+04 MB/s, 10% of the median"),
    (clock_ahead, "node2", "clock is 40.00 s behind the others'"),
    (full_disk, "node3", "/runs/large: 0.00 GiB are free; the next 3 checkpoints need 14.03 GiB"),
    (full_staging, "node2", "/scratch: 0.93 GiB are free; its part of a checkpoint needs 1.23 GiB"),
    (no_inodes, "node1", "12 files can still be made; the next 3 checkpoints need 60"),
    (slow_writes, "node4", "its part of a checkpoint would take 1250 s, a save is given up after 450 s"),
    (not_writable, "node4", "Input/output error while writing"),
    (little_memory, "node2", "0.93 GiB of memory are free, a save copies 1.16 GiB there"),
    (device_taken, "node2", "GPU 1: 18.63 GiB of 37.25 GiB are free"),
    (no_device, "node4", "torch sees no GPU here"),
    (other_mount, "node3", "does not see a file that rank 0 made in run.dir"),
    (hung_shards, "node2", "no answer within 10 s"),
    (absent_host, "node3", "rank 4 has not appeared within 30 s"),
    (unreached_host, "node3", "rank 4 finished its local checks but did not reach rank 0"),
    (silent_rank, "node4", "rank 7 stopped answering during: writing"),
]


@pytest.mark.parametrize("fault,host,sentence", ONE_HOST, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_wrong_with_one_host_makes_that_host_unfit_and_no_other(fault, host, sentence) -> None:
    cluster = Cluster()
    fault(cluster)
    verdict = cluster.verdict()
    assert not verdict.fit and verdict.common == [] and verdict.unfit.keys() == {host}
    assert len(verdict.unfit[host]) == 1 and sentence in verdict.unfit[host][0]


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 17])
def test_a_healthy_allocation_is_fit_without_a_warning(hosts) -> None:
    assert Cluster(hosts).verdict() == Verdict()


def test_of_many_hosts_several_can_be_unfit_each_for_its_own_reason() -> None:
    cluster = Cluster(9)
    for fault in (old_torch, slow_link, slow_writes):
        fault(cluster)
    verdict = cluster.verdict()
    assert verdict.unfit.keys() == {"node2", "node3", "node4"} and verdict.common == []


def test_where_more_than_half_of_the_hosts_are_unfit_for_different_reasons_it_says_so() -> None:
    cluster = Cluster(4)
    for fault in (old_torch, slow_link, slow_writes):
        fault(cluster)
    verdict = cluster.verdict()
    assert len(verdict.unfit) == 3
    assert len(verdict.common) == 1 and "3 of 4 hosts are unfit, for different reasons" in verdict.common[0]


def test_what_most_hosts_have_is_no_host_s_own_fault() -> None:
    cluster = Cluster()
    for each in cluster.local_results.values():
        each.disks["run.dir"] = DiskSpace("/runs/large", GB, 10**6)
    verdict = cluster.verdict()
    assert verdict.unfit == {} and len(verdict.common) == 1
    assert verdict.common[0].startswith("4 of 4 hosts, node1 for one: run.dir /runs/large: 0.93 GiB are free")


def test_of_one_host_a_fault_of_what_is_shared_is_common_and_one_of_its_own_is_its_own() -> None:
    cluster = Cluster(1)
    cluster.local_results[0].faults.append(Fault("shards", "data.shards shards: No such file or directory"))
    cluster.local_results[1].device_free_bytes = GB
    verdict = cluster.verdict()
    assert verdict.common == ["data.shards shards: No such file or directory"]
    assert verdict.unfit.keys() == {"node1"} and "GPU 1" in verdict.unfit["node1"][0]


def test_a_slow_link_that_was_not_measured_again_is_only_warned_of() -> None:
    cluster = Cluster()
    slow_link(cluster)
    cluster.measurements.pairs.pop()
    verdict = cluster.verdict()
    assert verdict.fit and verdict.marks == {"node3": {"link"}}
    (warning,) = verdict.warnings
    assert warning.startswith("node3: its fastest link") and warning.endswith("there was no time to measure again")


def test_a_host_that_was_fast_when_looked_at_again_is_not_slow() -> None:
    cluster = Cluster()
    slow_link(cluster)
    cluster.measurements.pairs[-1].bandwidth_bytes_per_s = 19e9
    assert cluster.verdict() == Verdict()


def test_where_all_links_are_slow_none_is() -> None:
    cluster = Cluster()
    for pair in cluster.measurements.pairs:
        pair.bandwidth_bytes_per_s = 1e6
    assert cluster.verdict().fit


def test_a_link_between_two_hosts_has_nothing_to_be_compared_with() -> None:
    cluster = Cluster(2)
    cluster.slow_link("node2", 1.0)
    assert cluster.verdict().fit


def test_of_two_hosts_that_differ_neither_is_called_the_odd_one() -> None:
    cluster = Cluster(2)
    old_torch(cluster)
    verdict = cluster.verdict()
    assert verdict.unfit == {}
    assert verdict.common == ["torch differs and no value is that of most hosts: 2.13.0 on node1; 2.12.1 on node2"]


def test_two_hosts_that_reach_others_but_not_each_other_are_told_as_a_pair() -> None:
    cluster = Cluster()
    cluster.break_pair("node1", "node3")
    verdict = cluster.verdict()
    assert verdict.unfit == {} and verdict.common == ["node1 and node3 cannot talk to each other (connection refused)"]


def test_two_hosts_that_cannot_talk_are_told_as_a_pair() -> None:
    cluster = Cluster(2)
    cluster.break_pair("node1", "node2")
    verdict = cluster.verdict()
    assert verdict.unfit == {} and verdict.common == ["node1 and node2 cannot talk to each other (connection refused)"]


def test_where_nobody_meets_rank_0_its_host_is_the_one_that_is_cut_off() -> None:
    cluster = Cluster()
    for rank, each in cluster.local_results.items():
        if each.host != "node1":
            cluster.measurements.absent[rank] = "finished its local checks but did not reach rank 0 within 30 s"
            cluster.measurements.absent_hosts[rank] = each.host
    verdict = cluster.verdict()
    assert verdict.unfit == {"node1": ["none of the other 3 hosts could reach rank 0 here"]} and verdict.common == []


def test_a_rank_of_an_unknown_host_is_told_without_one() -> None:
    cluster = Cluster()
    cluster.lose(5, None)
    verdict = cluster.verdict()
    assert verdict.common == ["rank 5 has not appeared within 30 s; nothing tells on which host it should be"]


def test_after_a_rank_fell_silent_the_failure_of_the_others_is_not_told_as_a_fault_of_its_own() -> None:
    cluster = Cluster()
    silent_rank(cluster)
    cluster.break_pair("node1", "node4")
    cluster.measurements.overall_error = "Connection closed by peer"
    verdict = cluster.verdict()
    assert verdict.unfit.keys() == {"node4"} and verdict.common == []


def test_an_all_reduce_that_fails_with_all_ranks_there_is_a_common_fault() -> None:
    cluster = Cluster()
    cluster.measurements.overall_error = "unhandled system error"
    assert cluster.verdict().common == ["an all-reduce over all ranks failed (unhandled system error)"]


def test_little_is_warned_of_and_does_not_keep_from_training() -> None:
    cluster = Cluster()
    for each in cluster.local_results.values():
        each.disks["run.dir"] = replace(each.disks["run.dir"], free_bytes=30 * GB)
    for each in cluster.of("node2"):
        each.memory_free_bytes = int(1.3 * GB)
    cluster.measurements.clocks["node3"] = ClockOffset(1.5, 0.001)
    cluster.measurements.writes["node4"]["run.dir"] = 100e6
    cluster.local_results[2].warnings.append("GPU 0 is also used by process 77 (python), 500 MiB")
    verdict = cluster.verdict()
    assert verdict.fit and len(verdict.warnings) == 5
    for part in ("the whole run keeps need 41.91 GiB", "node2: 1.21 GiB of memory", "node3: its clock is 1.50 s ahead",
                 "node4: run.dir: writes and flushes 100 MB/s", "node2: GPU 0 is also used"):  # fmt: skip
        assert any(part in warning for warning in verdict.warnings), part


def test_a_clock_that_may_be_right_is_not_blamed() -> None:
    cluster = Cluster()
    cluster.measurements.clocks["node2"] = ClockOffset(6.0, 5.8)
    assert cluster.verdict() == Verdict()


def test_slow_is_what_lies_under_a_share_of_the_median() -> None:
    assert slow_devices({0: 100.0, 1: 71.0, 2: 69.0, 3: 100.0, 4: 100.0}, 0.7) == [2]
    assert slow_devices({0: 100.0, 1: 71.0, 2: 69.0, 3: 100.0, 4: 100.0}, 0.75) == [1, 2]
    assert slow_devices({}, 0.7) == []
    links = [HostPair("a", "b", 0, 100.0), HostPair("a", "c", 0, 30.0), HostPair("b", "c", 0, 49.0)]
    assert slow_links(links, 0.5) == ["c"]
    assert slow_links(links, 0.4) == []


def test_local_results_come_back_from_json_unchanged() -> None:
    cluster = Cluster()
    full_staging(cluster)
    hung_shards(cluster)
    for each in cluster.local_results.values():
        assert LocalResults.from_json(orjson.loads(orjson.dumps(asdict(each)))) == each


def test_the_report_names_the_odd_host_and_carries_the_constants() -> None:
    cluster = Cluster()
    slow_link(cluster)
    cluster.measurements.gemm_typical[3] = 100e12
    cluster.measurements.all_reduce = fit_latency_bandwidth("all_reduce", 8, [(8, 1.4e-4), (1 << 20, 2e-4)])
    verdict = cluster.verdict()
    report = build_report(cluster.local_results, cluster.measurements, verdict, 8, 1.7e9, 31.4)
    assert report["fit"] is False and report["unfit"].keys() == {"node3"} and report["common"] == [] and report["world_size"] == 8
    assert [row["host"] for row in report["hosts"]] == cluster.hosts and report["hosts"][1]["ranks"] == [2, 3]
    found = report["constants"]
    assert found == constants(cluster.measurements)
    assert found["gemm_flops_per_second_per_rank"] == 240e12 and found["fsync_bytes_per_second"] == 1e9
    assert found["latency_s"] == pytest.approx(1e-5, rel=1e-3) and found["all_gather_latency_s"] is None
    lines = render_table(report, verdict).splitlines()
    assert "node3!" in lines[3] and "1000!" in lines[3] and "!" not in lines[1] + lines[2] + lines[4]
    assert any(line.startswith("UNFIT node3: its fastest link") for line in lines)
    assert lines[-1] == "not fit: 1 of 4 hosts are unfit, 0 faults are no host's own; preflight took 31s"
    orjson.dumps(report)
