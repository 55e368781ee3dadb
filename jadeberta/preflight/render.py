"""The report of a preflight: preflight.json for programs, a table and sentences for people."""

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jadeberta.preflight.checks import best_links
from jadeberta.preflight.results import LocalResults, Measurements
from jadeberta.preflight.verdict import Verdict
from jadeberta.utils.durations import format_duration
from jadeberta.utils.text_table import format_table

Report = dict[str, Any]


def build_report(
    local_results: Mapping[int, LocalResults],
    measurements: Measurements,
    verdict: Verdict,
    world_size: int,
    now: float,
    took_s: float,
) -> Report:
    """Builds the content of preflight.json.

    Args:
        local_results: by rank.
        measurements: of the ranks that reached the rendezvous.
        verdict: on both.
        world_size: ranks of the job.
        now: Unix time, seconds.
        took_s: seconds since rank 0 was started.
    """
    return {
        "time": now,
        "took_s": took_s,
        "world_size": world_size,
        "fit": verdict.fit,
        "unfit": verdict.unfit,
        "common": verdict.common,
        "warnings": verdict.warnings,
        "constants": constants(measurements),
        "hosts": hosts(local_results, measurements),
        "pairs": [vars(pair) for pair in measurements.pairs],
        "rounds": {"played": measurements.rounds[0], "of": measurements.rounds[1]},
    }


def constants(measurements: Measurements) -> dict[str, Any]:
    """The constants that predict the time of a step; None if not measured. See `fit_latency_bandwidth` for the model.

    latency_s, bandwidth_bytes_per_s: of an all-reduce over `ranks` ranks (median times); points: the bytes and seconds of the fit.
    gemm_flops_per_second_per_rank: the median over ranks of each rank's median window, with all ranks active at the same time.
    fsync_bytes_per_second: of run.dir on the slowest host.
    """
    all_reduce, all_gather = measurements.all_reduce, measurements.all_gather
    rates = [speeds["run.dir"] for speeds in measurements.writes.values() if "run.dir" in speeds]
    gemm = list(measurements.gemm_typical.values())
    return {
        "ranks": all_reduce.ranks if all_reduce else None,
        "latency_s": all_reduce.latency_s if all_reduce else None,
        "bandwidth_bytes_per_s": all_reduce.bandwidth_bytes_per_s if all_reduce else None,
        "all_reduce_points": all_reduce.points if all_reduce else [],
        "all_gather_latency_s": all_gather.latency_s if all_gather else None,
        "all_gather_bandwidth_bytes_per_s": all_gather.bandwidth_bytes_per_s if all_gather else None,
        "all_gather_points": all_gather.points if all_gather else [],
        "gemm_flops_per_second_per_rank": statistics.median(gemm) if gemm else None,
        "fsync_bytes_per_second": min(rates) if rates else None,
    }


def hosts(local_results: Mapping[int, LocalResults], measurements: Measurements) -> list[Report]:
    """The figures of each host, in order of their first rank; None if not measured."""
    best = best_links(measurements.pairs)
    rows = []
    for host in dict.fromkeys([*(each.host for each in local_results.values()), *measurements.absent_hosts.values()]):
        own = [each for each in local_results.values() if each.host == host]
        missing = [rank for rank, name in measurements.absent_hosts.items() if name == host]
        ranks = sorted({*(each.rank for each in own), *missing})
        rates = [measurements.gemm_best[rank] for rank in ranks if rank in measurements.gemm_best]
        clock = measurements.clocks.get(host)
        rows.append(
            {
                "host": host,
                "ranks": ranks,
                "device": own[0].device_name if own else None,
                "gemm_flops_per_second": min(rates) if rates else None,
                "link_bandwidth_bytes_per_s": best.get(host) or None,
                "inside_bandwidth_bytes_per_s": measurements.inside.get(host),
                "write_bytes_per_second": measurements.writes.get(host, {}),
                "free_bytes": {key: disk.free_bytes for key, disk in own[0].disks.items()} if own else {},
                "clock_offset_s": clock.offset_s if clock else None,
                "clock_uncertainty_s": clock.uncertainty_s if clock else None,
                "memory_free_bytes": min(each.memory_free_bytes for each in own) if own else None,
                "device_free_bytes": min(each.device_free_bytes for each in own) if own else None,
                "versions": own[0].versions if own else {},
                "information": own[0].information if own else {},
            }
        )
    return sorted(rows, key=lambda row: row["ranks"])


COLUMNS = (
    ("ranks", "rendezvous", lambda row: _ranges(row["ranks"])),
    ("TFLOP/s", "gemm", lambda row: _figure(row["gemm_flops_per_second"], 1e12)),
    ("link MB/s", "link", lambda row: _figure(row["link_bandwidth_bytes_per_s"], 1e6)),
    ("inside MB/s", "inside", lambda row: _figure(row["inside_bandwidth_bytes_per_s"], 1e6)),
    ("write MB/s", "write", lambda row: _figure(min(row["write_bytes_per_second"].values(), default=None), 1e6)),
    ("disk GiB", "run.dir checkpoint.staging", lambda row: _figure(min(row["free_bytes"].values(), default=None), 2**30)),
    ("memory GiB", "memory", lambda row: _figure(row["memory_free_bytes"], 2**30)),
    ("clock s", "clock", lambda row: _figure(row["clock_offset_s"], 1.0, "+.4f")),
)
"""Title, kinds of faults that mark the column, and the cell for a row of `hosts`."""


def render_table(report: Report, verdict: Verdict) -> str:
    """Formats a line per host with its faults marked by !, then warnings, reasons and the verdict."""
    rows = []
    for row in report["hosts"]:
        marks = verdict.marks.get(row["host"], set())
        cells = [text(row) + ("!" if marks & set(kinds.split()) else "") for _, kinds, text in COLUMNS]
        rows.append([row["host"] + ("!" if row["host"] in report["unfit"] else ""), *cells])
    text = [format_table(["host", *(title for title, _, _ in COLUMNS)], rows, rule=False), _devices(report["hosts"])]
    measured, total = report["rounds"]["played"], report["rounds"]["of"]
    if measured < total:
        text.append(f"links: time allowed {measured} of {total} rounds of pairs; every host was measured with as many others")
    text += _overall(report["constants"])
    text += [f"warning: {sentence}" for sentence in report["warnings"]]
    for host, reasons in report["unfit"].items():
        text += [f"UNFIT {host}: {reason}" for reason in reasons]
    text += [f"UNFIT, no host's own fault: {sentence}" for sentence in report["common"]]
    count = len(report["hosts"])
    summary = f"fit: {count} host{'s' * (count > 1)}, {report['world_size']} rank{'s' * (report['world_size'] > 1)}"
    if not report["fit"]:
        summary = f"not fit: {len(report['unfit'])} of {count} hosts are unfit, {len(report['common'])} faults are no host's own"
    text.append(f"{summary}; preflight took {format_duration(report['took_s'])}")
    return "\n".join(text)


def _devices(rows: list[Report]) -> str:
    """Says on which devices how many ranks are; a rank without a device that works is on none."""
    ranks: Counter[str] = Counter()
    for row in rows:
        ranks[row["device"] or "none"] += len(row["ranks"])
    return "devices: " + ", ".join(f"{number} rank{'s' * (number > 1)} on {name}" for name, number in ranks.items())


def _overall(found: dict[str, Any]) -> list[str]:
    return [
        f"{name} over {found['ranks']} ranks: {1e6 * found[latency]:.3g} us a hop, {found[bandwidth] / 1e6:.4g} MB/s"
        for name, latency, bandwidth in (
            ("all-reduce", "latency_s", "bandwidth_bytes_per_s"),
            ("all-gather", "all_gather_latency_s", "all_gather_bandwidth_bytes_per_s"),
        )
        if found[latency] is not None
    ]


def _figure(value: float | None, unit: float, form: str = ".4g") -> str:
    return "-" if value is None else format(value / unit, form)


def _ranges(ranks: list[int]) -> str:
    """Formats ranks: 0-7 if they have no gaps."""
    contiguous = len(ranks) > 1 and ranks == [*range(ranks[0], ranks[-1] + 1)]
    return f"{ranks[0]}-{ranks[-1]}" if contiguous else ",".join(map(str, ranks))
