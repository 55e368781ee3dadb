"""The verdict of a preflight: a pure function of the results. The limits are in `checks`."""

from collections import Counter
from collections.abc import Mapping, Sequence

from jadeberta.preflight import checks
from jadeberta.preflight.requirements import Requirements
from jadeberta.preflight.results import LocalResults, Measurements
from jadeberta.preflight.verdict import HostFaults, Verdict


def judge(
    local_results: Mapping[int, LocalResults],
    measurements: Measurements,
    requirements: Requirements | None,
    device_share: float = checks.DEVICE_SHARE,
    link_share: float = checks.LINK_SHARE,
) -> Verdict:
    """Decides which hosts are unfit to train, and which faults belong to no host.

    Args:
        local_results: by rank, of every rank that reported any, also of ranks that did not reach the rendezvous.
        measurements: of the ranks that did.
        requirements: of the run; None if they are not known.
        device_share: share of the median of all devices below which a device is slow.
        link_share: share of the median of all hosts' best links below which a host's best link is slow.

    Returns:
        The verdict.
    """
    verdict, faults = Verdict(), HostFaults()
    hosts = list(dict.fromkeys([*(f.host for f in local_results.values()), *measurements.absent_hosts.values()]))
    _absent(measurements, hosts, local_results, faults, verdict)
    for each in local_results.values():
        for fault in each.faults:
            faults.add(fault.kind, each.host, fault.sentence)
        verdict.warnings += [f"{each.host}: {warning}" for warning in each.warnings]
    present = {rank: each for rank, each in local_results.items() if rank not in measurements.absent}
    _same_everywhere(present, faults, verdict)
    checks.devices(present, measurements, device_share, faults)
    checks.clocks(measurements.clocks, faults, verdict)
    for host in measurements.blind_hosts:
        faults.add("run.dir", host, "does not see a file that rank 0 made in run.dir; the directory must be shared by all hosts")
    if requirements is not None:
        checks.memory(present, requirements, faults, verdict)
        checks.disks(present, requirements, faults, verdict)
    checks.writes(present, measurements, requirements, faults, verdict)
    checks.links(local_results, measurements, link_share, faults, verdict)
    _attribute(faults, len(hosts), verdict)
    return verdict


def _attribute(faults: HostFaults, hosts: int, verdict: Verdict) -> None:
    """Assigns faults to hosts; a fault that most hosts have is blamed on none of them."""
    for kind, by_host in faults.by_kind.items():
        for host in by_host:
            verdict.marks.setdefault(host, set()).add(kind)
        if hosts > 1 and 2 * len(by_host) > hosts:
            first = next(iter(by_host))
            verdict.common.append(f"{len(by_host)} of {hosts} hosts, {first} for one: {by_host[first]}")
        elif hosts == 1 and kind in ("shards", "run.dir"):
            verdict.common += by_host.values()  # another host would find the same
        else:
            for host, sentence in by_host.items():
                verdict.unfit.setdefault(host, []).append(sentence)
    if hosts > 1 and 2 * len(verdict.unfit) > hosts:
        verdict.common.append(
            f"{len(verdict.unfit)} of {hosts} hosts are unfit, for different reasons; look for what they have in common"
        )


def _absent(
    measurements: Measurements,
    hosts: Sequence[str],
    local_results: Mapping[int, LocalResults],
    faults: HostFaults,
    verdict: Verdict,
) -> None:
    root = local_results[0].host if 0 in local_results else ""
    missing = {host for rank, host in measurements.absent_hosts.items() if rank in measurements.absent}
    if len(missing) > 1 and missing == set(hosts) - {root}:
        # No host reached rank 0: the host that all broken connections share is that of rank 0.
        faults.add("rendezvous", root, f"none of the other {len(missing)} hosts could reach rank 0 here")
        return
    for rank, sentence in measurements.absent.items():
        if host := measurements.absent_hosts.get(rank):
            faults.add("rendezvous", host, f"rank {rank} {sentence}")
        else:
            verdict.common.append(f"rank {rank} {sentence}; nothing tells on which host it should be")
    for rank, measurement in measurements.lost.items():
        faults.add("rendezvous", local_results[rank].host, f"rank {rank} stopped answering during: {measurement}")


def _same_everywhere(local_results: Mapping[int, LocalResults], faults: HostFaults, verdict: Verdict) -> None:
    names = dict.fromkeys(name for each in local_results.values() for name in each.versions)
    for name in names:
        _same(
            name,
            "program",
            {r: each.versions.get(name, "missing") for r, each in local_results.items()},
            local_results,
            faults,
            verdict,
        )
    indices = {rank: each.index_sha256[:12] for rank, each in local_results.items() if each.index_sha256}
    _same("the hash of data.shards' index.json", "shards", indices, local_results, faults, verdict)


def _same(
    name: str,
    kind: str,
    values: Mapping[int, str],
    local_results: Mapping[int, LocalResults],
    faults: HostFaults,
    verdict: Verdict,
) -> None:
    """Adds a fault for each host whose value differs from that of most hosts.

    Args:
        name: of the value, for messages.
        kind: of the fault.
        values: by rank.
        local_results: by rank, for the hosts.
        faults: added to.
        verdict: takes the fault if no value is that of most hosts.
    """
    by_host: dict[str, str] = {}
    for rank, value in values.items():
        host = local_results[rank].host
        if by_host.setdefault(host, value) != value:
            faults.add(f"{kind}: {name}", host, f"its own ranks have different {name}: {by_host[host]} and {value}")
    counts = Counter(by_host.values()).most_common()
    if len(counts) < 2:
        return
    median, number = counts[0]
    if 2 * number <= len(by_host):
        values_on_hosts = "; ".join(f"{value} on {', '.join(h for h, v in by_host.items() if v == value)}" for value, _ in counts)
        verdict.common.append(f"{name} differs and no value is that of most hosts: {values_on_hosts}")
        return
    for host, value in by_host.items():
        if value != median:
            faults.add(f"{kind}: {name}", host, f"{name}: {value} here, {median} on {number} other hosts")
