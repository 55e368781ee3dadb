"""What is expected of devices, clocks, memory, disks and links, with the reasons: pure functions that complain."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from jadeberta.checkpoint.commit import SPACE_LEFT
from jadeberta.preflight.requirements import Need
from jadeberta.preflight.results import Clock, Disk, Findings, Measurements, Pair
from jadeberta.preflight.verdict import Complaints, Verdict, gib

DEVICE_SHARE = 0.7
"""Of the median of all devices. Chips of one kind differ by less than a tenth; the slowest sets the pace of all."""
LINK_SHARE = 0.5
"""Of the median of all hosts' best links. Other jobs share the switches: half is more than they take from every link of one host."""
WRITE_SHARE = 0.25
"""Of the median of all hosts, for a warning: the servers behind a shared file system are busier at one moment than at another."""
CLOCK_UNFIT_S = 5.0
"""A host that asks a time server is within milliseconds. This far off its service is dead; the account of a run that moves between
hosts is then wrong by as much as a checkpoint takes."""
CLOCK_WARN_S = 0.5
DEVICE_FREE_SHARE = 0.9
"""Of a GPU's memory. An idle driver and our own context take a few per cent; the micro-batch is chosen for an empty GPU."""
MEMORY_SPARE = 1.5
"""Of the copy that a save makes, for a warning: the loaders need memory too."""


def slow_devices(rates: Mapping[int, float], share: float) -> list[int]:
    """Ranks whose device is slower than a share of the median of all."""
    usual = statistics.median(rates.values()) if rates else 0.0
    return [rank for rank, rate in rates.items() if rate < share * usual]


def devices(findings: Mapping[int, Findings], measured: Measurements, share: float, complaints: Complaints) -> None:
    kinds = Counter(each.device for each in findings.values() if each.device)
    for each in findings.values():
        if each.device == "cpu" and kinds["cuda"]:
            complaints.add("device", each.host, "torch sees no GPU here, on other hosts it does; look at the driver")
        if each.device == "cuda" and each.device_free_bytes < DEVICE_FREE_SHARE * each.device_total_bytes:
            complaints.add(
                "device memory",
                each.host,
                f"GPU {each.local_rank}: {gib(each.device_free_bytes)} of {gib(each.device_total_bytes)} are free; another process holds "
                "the rest",
            )
    for rank, error in measured.gemm_errors.items():
        complaints.add(
            "device", findings[rank].host, f"the matrix product of local rank {findings[rank].local_rank} failed ({error})"
        )
    usual = statistics.median(measured.gemm_best.values()) if measured.gemm_best else 0.0
    for rank in slow_devices(measured.gemm_best, share):
        rate, each = measured.gemm_best[rank], findings[rank]
        complaints.add(
            "gemm",
            each.host,
            f"the device of local rank {each.local_rank} multiplies matrices at {rate / 1e12:.3g} TFLOP/s, "
            f"{100 * rate / usual:.2g}% of the median of all",
        )


def clocks(found: Mapping[str, Clock], complaints: Complaints, verdict: Verdict) -> None:
    if len(found) < 2:
        return
    middle = statistics.median(clock.offset_s for clock in found.values())
    for host, clock in found.items():
        off = clock.offset_s - middle
        told = f"its clock is {abs(off):.2f} s {'ahead of' if off > 0 else 'behind'} the others' (+- {clock.uncertainty_s:.3f} s)"
        sure = abs(off) - clock.uncertainty_s
        if sure > CLOCK_UNFIT_S:
            complaints.add("clock", host, told)
        elif sure > CLOCK_WARN_S:
            verdict.warn("clock", host, told)


def memory(findings: Mapping[int, Findings], need: Need, complaints: Complaints, verdict: Verdict) -> None:
    ranks = Counter(each.host for each in findings.values())
    for host, count in ranks.items():
        free = min(each.memory_free_bytes for each in findings.values() if each.host == host)
        wanted = need.share(count)
        told = f"{gib(free)} of memory are free, a save copies {gib(wanted)} there"
        if free < wanted:
            complaints.add("memory", host, told)
        elif free < MEMORY_SPARE * wanted:
            verdict.warn("memory", host, f"{told}, which leaves little for loaders")


def disks(findings: Mapping[int, Findings], need: Need, complaints: Complaints, verdict: Verdict) -> None:
    ranks = Counter(each.host for each in findings.values())
    for_whole_run: list[str] = []
    for each in findings.values():
        for key, disk in each.disks.items():
            if key == "run.dir":
                wanted, inodes = float(need.soon * need.checkpoint_bytes), need.soon * need.files
                what = f"the next {need.soon} checkpoints need"
                if disk.free_bytes < need.whole_run * need.checkpoint_bytes + SPACE_LEFT:
                    for_whole_run.append(
                        f"run.dir {disk.path}: {gib(disk.free_bytes)} are free; the checkpoints that the whole run keeps need "
                        f"{gib(need.whole_run * need.checkpoint_bytes)}"
                    )
            else:
                wanted, inodes, what = need.share(ranks[each.host]), need.files, "its part of a checkpoint needs"
            _room(each.host, key, disk, wanted, inodes, what, complaints)
    if for_whole_run and not complaints.of.get("run.dir"):
        verdict.warnings.append(for_whole_run[0])


def _room(host: str, key: str, disk: Disk, wanted: float, inodes: int, what: str, complaints: Complaints) -> None:
    if disk.free_bytes < wanted + SPACE_LEFT:
        complaints.add(key, host, f"{key} {disk.path}: {gib(disk.free_bytes)} are free; {what} {gib(wanted + SPACE_LEFT)}")
    if disk.free_inodes is not None and disk.free_inodes < inodes:
        complaints.add(key, host, f"{key} {disk.path}: {disk.free_inodes} files can still be made; {what} {inodes}")


def writes(
    findings: Mapping[int, Findings], measured: Measurements, need: Need | None, complaints: Complaints, verdict: Verdict
) -> None:
    ranks = Counter(each.host for each in findings.values())
    for host, errors in measured.write_errors.items():
        for key, error in errors.items():
            complaints.add(key, host, f"{key} {error} while writing")
    for key in dict.fromkeys(key for speeds in measured.writes.values() for key in speeds):
        speeds = {host: told[key] for host, told in measured.writes.items() if key in told}
        usual = statistics.median(speeds.values())
        for host, speed in speeds.items():
            told = f"{key}: writes and flushes {speed / 1e6:.3g} MB/s"
            if need is not None and need.share(ranks[host]) / speed > need.save_s:
                part = f"its part of a checkpoint would take {need.share(ranks[host]) / speed:.0f} s"
                complaints.add("write", host, f"{told}; {part}, a save is given up after {need.save_s:.0f} s")
            elif speed < WRITE_SHARE * usual:
                verdict.warn("write", host, f"{told}, the median of all hosts is {usual / 1e6:.3g} MB/s")


def best_links(pairs: Sequence[Pair]) -> dict[str, float]:
    """Bandwidth of the fastest pair of each host, bytes/s; 0 where none of its pairs could talk."""
    best: dict[str, float] = {}
    for pair in pairs:
        for host in (pair.a, pair.b):
            best[host] = max(best.get(host, 0.0), pair.bandwidth_bytes_per_s)
    return best


def slow_links(pairs: Sequence[Pair], share: float) -> list[str]:
    """Hosts whose every link is slower than a share of the median of all hosts' best links.

    The best, because a slow partner slows its partners' links to it and no other. With two hosts there is nothing to compare with.
    """
    best = {host: rate for host, rate in best_links(pairs).items() if rate}
    if len(best) < 3:
        return []
    usual = statistics.median(best.values())
    return [host for host, rate in best.items() if rate < share * usual]


def links(
    findings: Mapping[int, Findings], measured: Measurements, share: float, complaints: Complaints, verdict: Verdict
) -> None:
    """Between hosts and within them."""
    gone = {findings[rank].host for rank in measured.lost}
    _broken_links(measured.pairs, gone, complaints, verdict)
    best = best_links(measured.pairs)
    usual = statistics.median(rate for rate in best.values() if rate) if any(best.values()) else 0.0
    met = Counter(frozenset((pair.a, pair.b)) for pair in measured.pairs)
    for host in slow_links(measured.pairs, share):
        told = f"its fastest link to another host has {best[host] / 1e6:.3g} MB/s"
        told += f", {100 * best[host] / usual:.2g}% of the median of all hosts"
        if any(times > 1 for both, times in met.items() if host in both):
            complaints.add("link", host, told)
        else:
            verdict.warn("link", host, f"{told}; there was no time to look again")
    for host, error in measured.inside_errors.items():
        complaints.add("inside", host, f"its own ranks cannot talk to each other ({error})")
    if len(measured.inside) > 2:
        usual = statistics.median(measured.inside.values())
        for host, rate in measured.inside.items():
            if rate < share * usual:
                complaints.add(
                    "inside",
                    host,
                    f"an all-reduce of its own ranks has {rate / 1e6:.3g} MB/s, {100 * rate / usual:.2g}% of the median",
                )
    if measured.overall_error and not gone:
        verdict.common.append(f"an all-reduce over all ranks failed ({measured.overall_error})")


def _broken_links(pairs: Sequence[Pair], gone: set[str], complaints: Complaints, verdict: Verdict) -> None:
    """A host that reaches nobody is to blame; of two that reach others but not each other neither is."""
    partners: dict[str, set[str]] = {}
    for pair in pairs:
        partners.setdefault(pair.a, set()).add(pair.b)
        partners.setdefault(pair.b, set()).add(pair.a)
    reached = {frozenset((pair.a, pair.b)) for pair in pairs if not pair.error}
    silent = {host for host in partners if not any(host in pair for pair in reached)} if len(partners) > 2 else set()
    told: set[frozenset[str]] = set()
    for pair in pairs:
        both = frozenset((pair.a, pair.b))
        if not pair.error or both in reached | told or both & gone:
            continue
        told.add(both)
        if not both & silent:
            verdict.common.append(f"{pair.a} and {pair.b} cannot talk to each other ({pair.error})")
        for host in both & silent:
            complaints.add("link", host, f"reaches none of the {len(partners[host])} hosts that were tried ({pair.error})")
