"""What the findings of a preflight mean: a pure function from findings to a verdict. What is expected stands in `checks`."""

from collections import Counter
from collections.abc import Mapping, Sequence

from jadeberta.preflight import checks
from jadeberta.preflight.requirements import Need
from jadeberta.preflight.results import Findings, Measurements
from jadeberta.preflight.verdict import Complaints, Verdict


def judge(
    findings: Mapping[int, Findings],
    measured: Measurements,
    need: Need | None,
    device_share: float = checks.DEVICE_SHARE,
    link_share: float = checks.LINK_SHARE,
) -> Verdict:
    """Who is fit to train.

    Args:
        findings: by rank, of every rank that has said something, whether it met the others or not.
        measured: of those that met.
        need: of the run; None where it is not known.
        device_share: of the median of all devices, under which one is slow.
        link_share: of the median of all hosts' best links, under which a host's best is slow.
    """
    verdict, complaints = Verdict(), Complaints()
    hosts = list(dict.fromkeys([*(f.host for f in findings.values()), *measured.absent_hosts.values()]))
    _absent(measured, hosts, findings, complaints, verdict)
    for each in findings.values():
        for fault in each.faults:
            complaints.add(fault.kind, each.host, fault.sentence)
        verdict.warnings += [f"{each.host}: {warning}" for warning in each.warnings]
    present = {rank: each for rank, each in findings.items() if rank not in measured.absent}
    _same_everywhere(present, complaints, verdict)
    checks.devices(present, measured, device_share, complaints)
    checks.clocks(measured.clocks, complaints, verdict)
    for host in measured.blind_hosts:
        complaints.add(
            "run.dir", host, "does not see a file that rank 0 made in run.dir; the directory must be shared by all hosts"
        )
    if need is not None:
        checks.memory(present, need, complaints, verdict)
        checks.disks(present, need, complaints, verdict)
    checks.writes(present, measured, need, complaints, verdict)
    checks.links(findings, measured, link_share, complaints, verdict)
    _attribute(complaints, len(hosts), verdict)
    return verdict


def _attribute(complaints: Complaints, hosts: int, verdict: Verdict) -> None:
    """Decides whose a fault is: what most hosts have is no host's own."""
    for kind, by_host in complaints.of.items():
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
    measured: Measurements, hosts: Sequence[str], findings: Mapping[int, Findings], complaints: Complaints, verdict: Verdict
) -> None:
    root = findings[0].host if 0 in findings else ""
    missing = {host for rank, host in measured.absent_hosts.items() if rank in measured.absent}
    if len(missing) > 1 and missing == set(hosts) - {root}:
        # Nobody met rank 0: of a star whose every arm is broken the centre is what they share.
        complaints.add("meeting", root, f"none of the other {len(missing)} hosts could reach rank 0 here")
        return
    for rank, sentence in measured.absent.items():
        if host := measured.absent_hosts.get(rank):
            complaints.add("meeting", host, f"rank {rank} {sentence}")
        else:
            verdict.common.append(f"rank {rank} {sentence}; nothing tells on which host it should be")
    for rank, place in measured.lost.items():
        complaints.add("meeting", findings[rank].host, f"rank {rank} fell silent at: {place}")


def _same_everywhere(findings: Mapping[int, Findings], complaints: Complaints, verdict: Verdict) -> None:
    names = dict.fromkeys(name for each in findings.values() for name in each.versions)
    for name in names:
        _same(
            name,
            "program",
            {r: each.versions.get(name, "missing") for r, each in findings.items()},
            findings,
            complaints,
            verdict,
        )
    indices = {rank: each.index_sha256[:12] for rank, each in findings.items() if each.index_sha256}
    _same("the hash of data.shards' index.json", "shards", indices, findings, complaints, verdict)


def _same(
    name: str, kind: str, values: Mapping[int, str], findings: Mapping[int, Findings], complaints: Complaints, verdict: Verdict
) -> None:
    """Names the hosts that differ from most."""
    by_host: dict[str, str] = {}
    for rank, value in values.items():
        host = findings[rank].host
        if by_host.setdefault(host, value) != value:
            complaints.add(f"{kind}: {name}", host, f"its own ranks have different {name}: {by_host[host]} and {value}")
    counts = Counter(by_host.values()).most_common()
    if len(counts) < 2:
        return
    usual, number = counts[0]
    if 2 * number <= len(by_host):
        told = "; ".join(f"{value} on {', '.join(h for h, v in by_host.items() if v == value)}" for value, _ in counts)
        verdict.common.append(f"{name} differs and no value is that of most hosts: {told}")
        return
    for host, value in by_host.items():
        if value != usual:
            complaints.add(f"{kind}: {name}", host, f"{name}: {value} here, {usual} on {number} other hosts")
