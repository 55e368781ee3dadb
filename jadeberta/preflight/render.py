"""The account of a preflight: preflight.json for programs, a table and sentences for people."""

import statistics
from collections.abc import Mapping
from typing import Any

from jadeberta.preflight.checks import best_links
from jadeberta.preflight.results import Findings, Measurements
from jadeberta.preflight.verdict import Verdict

Document = dict[str, Any]


def document(
    findings: Mapping[int, Findings], measured: Measurements, verdict: Verdict, world_size: int, now: float, took_s: float
) -> Document:
    """Everything that was found, as preflight.json holds it.

    Args:
        findings: by rank.
        measured: of those that met.
        verdict: on both.
        world_size: ranks that there should be.
        now: Unix time.
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
        "constants": constants(measured),
        "hosts": hosts(findings, measured),
        "pairs": [vars(pair) for pair in measured.pairs],
        "rounds": {"played": measured.rounds[0], "of": measured.rounds[1]},
    }


def constants(measured: Measurements) -> dict[str, Any]:
    """What predicts the time of a step; null where it was not measured. `fit` has the model behind latency and bandwidth.

    latency_s, bandwidth_bytes_per_s: of an all-reduce over `ranks` ranks (median times); points: the bytes and seconds behind them.
    gemm_flops_per_second_per_rank: the median of all ranks, each its median window, all at work at the same time.
    fsync_bytes_per_second: run.dir, the slowest host.
    """
    all_reduce, all_gather = measured.all_reduce, measured.all_gather
    rates = [speeds["run.dir"] for speeds in measured.writes.values() if "run.dir" in speeds]
    gemm = list(measured.gemm_typical.values())
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


def hosts(findings: Mapping[int, Findings], measured: Measurements) -> list[Document]:
    """Figures of each host, in order of their first rank; null where one was not measured."""
    best = best_links(measured.pairs)
    rows = []
    for host in dict.fromkeys([*(each.host for each in findings.values()), *measured.absent_hosts.values()]):
        own = [each for each in findings.values() if each.host == host]
        gone = [rank for rank, name in measured.absent_hosts.items() if name == host]
        ranks = sorted({*(each.rank for each in own), *gone})
        rates = [measured.gemm_best[rank] for rank in ranks if rank in measured.gemm_best]
        clock = measured.clocks.get(host)
        rows.append(
            {
                "host": host,
                "ranks": ranks,
                "device": own[0].device_name if own else None,
                "gemm_flops_per_second": min(rates) if rates else None,
                "link_bandwidth_bytes_per_s": best.get(host) or None,
                "inside_bandwidth_bytes_per_s": measured.inside.get(host),
                "write_bytes_per_second": measured.writes.get(host, {}),
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
    ("ranks", "meeting", lambda row: _ranges(row["ranks"])),
    ("TFLOP/s", "gemm", lambda row: _figure(row["gemm_flops_per_second"], 1e12)),
    ("link MB/s", "link", lambda row: _figure(row["link_bandwidth_bytes_per_s"], 1e6)),
    ("inside MB/s", "inside", lambda row: _figure(row["inside_bandwidth_bytes_per_s"], 1e6)),
    ("write MB/s", "write", lambda row: _figure(min(row["write_bytes_per_second"].values(), default=None), 1e6)),
    ("disk GiB", "run.dir checkpoint.staging", lambda row: _figure(min(row["free_bytes"].values(), default=None), 2**30)),
    ("memory GiB", "memory", lambda row: _figure(row["memory_free_bytes"], 2**30)),
    ("clock s", "clock", lambda row: _figure(row["clock_offset_s"], 1.0, "+.4f")),
)
"""Title, the kinds of faults that mark it, and the text of a row of `hosts`."""


def table(told: Document, verdict: Verdict) -> str:
    """A line a host, what is odd marked with !, and what follows from it."""
    lines = [["host", *(title for title, _, _ in COLUMNS)]]
    for row in told["hosts"]:
        marks = verdict.marks.get(row["host"], set())
        cells = [text(row) + ("!" if marks & set(kinds.split()) else "") for _, kinds, text in COLUMNS]
        lines.append([row["host"] + ("!" if row["host"] in told["unfit"] else ""), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    played, of = told["rounds"]["played"], told["rounds"]["of"]
    if played < of:
        text.append(
            f"links: {played} of {of} rounds of pairs were played in the time there was; every host was tried with as many others"
        )
    text += _overall(told["constants"])
    text += [f"warning: {sentence}" for sentence in told["warnings"]]
    for host, reasons in told["unfit"].items():
        text += [f"UNFIT {host}: {reason}" for reason in reasons]
    text += [f"UNFIT, no host's own fault: {sentence}" for sentence in told["common"]]
    total = len(told["hosts"])
    what = f"fit: {total} host{'s' * (total > 1)}, {told['world_size']} rank{'s' * (told['world_size'] > 1)}"
    if not told["fit"]:
        what = f"not fit: {len(told['unfit'])} of {total} hosts are unfit, {len(told['common'])} faults are no host's own"
    text.append(f"{what}; preflight took {told['took_s']:.0f} s")
    return "\n".join(text)


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
    """0-7 for ranks without gaps."""
    whole = len(ranks) > 1 and ranks == [*range(ranks[0], ranks[-1] + 1)]
    return f"{ranks[0]}-{ranks[-1]}" if whole else ",".join(map(str, ranks))
