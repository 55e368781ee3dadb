"""The limits for devices, clocks, memory, disks and links, with their reasons: pure functions that add faults and warnings."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from jadeberta.checkpoint.commit import RESERVED_SPACE
from jadeberta.preflight.requirements import Requirements
from jadeberta.preflight.results import ClockOffset, DiskSpace, HostPair, LocalResults, Measurements
from jadeberta.preflight.verdict import HostFaults, Verdict, gib

DEVICE_SHARE = 0.7
"""Share of the median of all devices below which a device is slow. Chips of one kind differ by less than a tenth, and the slowest one sets
the pace of all."""
LINK_SHARE = 0.5
"""Share of the median of all hosts' best links below which a host's links are slow. Other jobs share the switches, but they do not
take half of every link of one host."""
WRITE_SHARE = 0.25
"""Share of the median of all hosts below which writes get a warning only: the load of a shared file system changes all the time."""
CLOCK_UNFIT_S = 5.0
"""Clock error that makes a host unfit. A host with a time service is within milliseconds; with this error the service is dead, and the
goodput of a run that moves between hosts is wrong by as much as a checkpoint takes."""
CLOCK_WARN_S = 0.5
"""Clock error that gives a warning."""
DEVICE_FREE_SHARE = 0.9
"""Share of a GPU's memory that must be free. An idle driver and this process's own context take a few per cent; the micro-batch is
chosen for an empty GPU."""
MEMORY_SPARE = 1.5
"""Free memory as a multiple of the copy that a save makes, below which a warning is given: the loaders need memory too."""


def slow_devices(rates: Mapping[int, float], share: float) -> list[int]:
    """Returns the ranks whose device is slower than a share of the median of all."""
    median = statistics.median(rates.values()) if rates else 0.0
    return [rank for rank, rate in rates.items() if rate < share * median]


def devices(local_results: Mapping[int, LocalResults], measurements: Measurements, share: float, faults: HostFaults) -> None:
    """Adds a fault for each device that is missing, occupied, failing or slow.

    Args:
        local_results: by rank.
        measurements: with the rate of the matrix product of each rank, FLOP/s.
        share: of the median rate, below which a device is slow.
        faults: added to.
    """
    kinds = Counter(each.device for each in local_results.values() if each.device)
    for each in local_results.values():
        # Where no host has a GPU, the run is meant for CPUs.
        if each.device == "cpu" and kinds["cuda"]:
            faults.add("device", each.host, "torch sees no GPU here, on other hosts it does; look at the driver")
        if each.device == "cuda" and each.device_free_bytes < DEVICE_FREE_SHARE * each.device_total_bytes:
            faults.add(
                "device memory",
                each.host,
                f"GPU {each.local_rank}: {gib(each.device_free_bytes)} of {gib(each.device_total_bytes)} are free; another process holds "
                "the rest",
            )
    for rank, error in measurements.gemm_errors.items():
        faults.add(
            "device",
            local_results[rank].host,
            f"the matrix product of local rank {local_results[rank].local_rank} failed ({error})",
        )
    median = statistics.median(measurements.gemm_best.values()) if measurements.gemm_best else 0.0
    for rank in slow_devices(measurements.gemm_best, share):
        rate, each = measurements.gemm_best[rank], local_results[rank]
        faults.add(
            "gemm",
            each.host,
            f"the device of local rank {each.local_rank} multiplies matrices at {rate / 1e12:.3g} TFLOP/s, "
            f"{100 * rate / median:.2g}% of the median of all",
        )


def clocks(found: Mapping[str, ClockOffset], faults: HostFaults, verdict: Verdict) -> None:
    """Compares the hosts' clocks with their median; an offset within its uncertainty is no fault."""
    if len(found) < 2:
        return
    middle = statistics.median(clock.offset_s for clock in found.values())
    for host, clock in found.items():
        off = clock.offset_s - middle
        sentence = (
            f"its clock is {abs(off):.2f} s {'ahead of' if off > 0 else 'behind'} the others' (+- {clock.uncertainty_s:.3f} s)"
        )
        sure = abs(off) - clock.uncertainty_s
        if sure > CLOCK_UNFIT_S:
            faults.add("clock", host, sentence)
        elif sure > CLOCK_WARN_S:
            verdict.warn("clock", host, sentence)


def memory(local_results: Mapping[int, LocalResults], requirements: Requirements, faults: HostFaults, verdict: Verdict) -> None:
    """Compares the free memory of each host with the copy that a save makes there.

    Args:
        local_results: by rank.
        requirements: of the run.
        faults: added to.
        verdict: takes the warnings.
    """
    ranks = Counter(each.host for each in local_results.values())
    for host, count in ranks.items():
        free = min(each.memory_free_bytes for each in local_results.values() if each.host == host)
        wanted = requirements.share(count)
        sentence = f"{gib(free)} of memory are free, a save copies {gib(wanted)} there"
        if free < wanted:
            faults.add("memory", host, sentence)
        elif free < MEMORY_SPARE * wanted:
            verdict.warn("memory", host, f"{sentence}, which leaves little for loaders")


def disks(local_results: Mapping[int, LocalResults], requirements: Requirements, faults: HostFaults, verdict: Verdict) -> None:
    """Compares free space and inodes of run.dir and checkpoint.staging with what the checkpoints need.

    Args:
        local_results: by rank.
        requirements: of the run.
        faults: added to.
        verdict: takes the warnings.
    """
    ranks = Counter(each.host for each in local_results.values())
    for_whole_run: list[str] = []
    for each in local_results.values():
        for key, disk in each.disks.items():
            if key == "run.dir":
                wanted, inodes = float(requirements.soon * requirements.checkpoint_bytes), requirements.soon * requirements.files
                what = f"the next {requirements.soon} checkpoints need"
                if disk.free_bytes < requirements.whole_run * requirements.checkpoint_bytes + RESERVED_SPACE:
                    for_whole_run.append(
                        f"run.dir {disk.path}: {gib(disk.free_bytes)} are free; the checkpoints that the whole run keeps need "
                        f"{gib(requirements.whole_run * requirements.checkpoint_bytes)}"
                    )
            else:
                wanted, inodes, what = requirements.share(ranks[each.host]), requirements.files, "its part of a checkpoint needs"
            _room(each.host, key, disk, wanted, inodes, what, faults)
    if for_whole_run and not faults.by_kind.get("run.dir"):
        # One sentence is enough, because all hosts share the run directory.
        verdict.warnings.append(for_whole_run[0])


def _room(host: str, key: str, disk: DiskSpace, wanted: float, inodes: int, what: str, faults: HostFaults) -> None:
    if disk.free_bytes < wanted + RESERVED_SPACE:
        faults.add(key, host, f"{key} {disk.path}: {gib(disk.free_bytes)} are free; {what} {gib(wanted + RESERVED_SPACE)}")
    if disk.free_inodes is not None and disk.free_inodes < inodes:
        faults.add(key, host, f"{key} {disk.path}: {disk.free_inodes} files can still be made; {what} {inodes}")


def writes(
    local_results: Mapping[int, LocalResults],
    measurements: Measurements,
    requirements: Requirements | None,
    faults: HostFaults,
    verdict: Verdict,
) -> None:
    ranks = Counter(each.host for each in local_results.values())
    for host, errors in measurements.write_errors.items():
        for key, error in errors.items():
            faults.add(key, host, f"{key} {error} while writing")
    for key in dict.fromkeys(key for speeds in measurements.writes.values() for key in speeds):
        speeds = {host: by_key[key] for host, by_key in measurements.writes.items() if key in by_key}
        median = statistics.median(speeds.values())
        for host, speed in speeds.items():
            sentence = f"{key}: writes and flushes {speed / 1e6:.3g} MB/s"
            if requirements is not None and requirements.share(ranks[host]) / speed > requirements.save_s:
                part = f"its part of a checkpoint would take {requirements.share(ranks[host]) / speed:.0f} s"
                faults.add("write", host, f"{sentence}; {part}, a save is given up after {requirements.save_s:.0f} s")
            elif speed < WRITE_SHARE * median:
                verdict.warn("write", host, f"{sentence}, the median of all hosts is {median / 1e6:.3g} MB/s")


def best_links(pairs: Sequence[HostPair]) -> dict[str, float]:
    """Returns the bandwidth of the fastest pair of each host, bytes/s; 0 if none of its pairs could connect."""
    best: dict[str, float] = {}
    for pair in pairs:
        for host in (pair.a, pair.b):
            best[host] = max(best.get(host, 0.0), pair.bandwidth_bytes_per_s)
    return best


def slow_links(pairs: Sequence[HostPair], share: float) -> list[str]:
    """Returns the hosts whose fastest link is slower than a share of the median of all hosts' fastest links.

    The fastest link counts, because a slow host also slows its partners' links to it. With two hosts there is nothing to compare with.
    """
    best = {host: rate for host, rate in best_links(pairs).items() if rate}
    if len(best) < 3:
        return []
    median = statistics.median(best.values())
    return [host for host, rate in best.items() if rate < share * median]


def links(
    local_results: Mapping[int, LocalResults], measurements: Measurements, share: float, faults: HostFaults, verdict: Verdict
) -> None:
    """Adds faults and warnings for links between hosts and within them.

    Args:
        local_results: by rank.
        measurements: of pairs, of ranks within hosts and of all ranks.
        share: of the median, below which a link is slow.
        faults: added to.
        verdict: takes the warnings, and faults of no single host.
    """
    lost_hosts = {local_results[rank].host for rank in measurements.lost}
    _broken_links(measurements.pairs, lost_hosts, faults, verdict)
    best = best_links(measurements.pairs)
    median = statistics.median(rate for rate in best.values() if rate) if any(best.values()) else 0.0
    met = Counter(frozenset((pair.a, pair.b)) for pair in measurements.pairs)
    for host in slow_links(measurements.pairs, share):
        sentence = f"its fastest link to another host has {best[host] / 1e6:.3g} MB/s"
        sentence += f", {100 * best[host] / median:.2g}% of the median of all hosts"
        if any(times > 1 for both, times in met.items() if host in both):
            faults.add("link", host, sentence)
        else:
            verdict.warn("link", host, f"{sentence}; there was no time to measure again")
    for host, error in measurements.inside_errors.items():
        faults.add("inside", host, f"its own ranks cannot talk to each other ({error})")
    if len(measurements.inside) > 2:
        median = statistics.median(measurements.inside.values())
        for host, rate in measurements.inside.items():
            if rate < share * median:
                faults.add(
                    "inside",
                    host,
                    f"an all-reduce of its own ranks has {rate / 1e6:.3g} MB/s, {100 * rate / median:.2g}% of the median",
                )
    if measurements.overall_error and not lost_hosts:
        verdict.common.append(f"an all-reduce over all ranks failed ({measurements.overall_error})")


def _broken_links(pairs: Sequence[HostPair], lost_hosts: set[str], faults: HostFaults, verdict: Verdict) -> None:
    """Blames a host that reaches no other host; of two hosts that reach others but not each other, neither is blamed."""
    partners: dict[str, set[str]] = {}
    for pair in pairs:
        partners.setdefault(pair.a, set()).add(pair.b)
        partners.setdefault(pair.b, set()).add(pair.a)
    reached = {frozenset((pair.a, pair.b)) for pair in pairs if not pair.error}
    silent = {host for host in partners if not any(host in pair for pair in reached)} if len(partners) > 2 else set()
    reported: set[frozenset[str]] = set()
    for pair in pairs:
        both = frozenset((pair.a, pair.b))
        if not pair.error or both in reached | reported or both & lost_hosts:
            continue
        reported.add(both)
        if not both & silent:
            verdict.common.append(f"{pair.a} and {pair.b} cannot talk to each other ({pair.error})")
        for host in both & silent:
            faults.add("link", host, f"reaches none of the {len(partners[host])} hosts that were tried ({pair.error})")
