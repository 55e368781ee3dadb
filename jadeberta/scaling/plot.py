"""The picture of a scaling report: speed, efficiency, and what a step is made of, measured beside predicted."""

from pathlib import Path
from typing import Any

from jadeberta.scaling.analysis import ReportRow

COLOURS = ("#2166ac", "#d6604d", "#1b7837", "#762a83", "#b8860b", "#4d4d4d")
"""One a series; dark enough for a white page and for paper."""
PARTS = {"compute_s": ("compute", "#4393c3"), "communication_s": ("communication", "#d6604d"), "data_s": ("data", "#5aae61")}
PARTS |= {"save_s": ("save", "#9970ab")}


def draw(rows: list[ReportRow], path: Path, title: str) -> None:
    """Writes a PNG: above tokens/s and efficiency against the number of ranks, below one panel of stacked steps a series."""
    import matplotlib

    # A login node may have no display.
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series: dict[tuple[str, int, int], list[ReportRow]] = {}
    for row in rows:
        series.setdefault((row.mode, row.zero, row.micro_batch), []).append(row)
    columns = 2 if len(series) == 4 else min(3, len(series))
    below = -(-len(series) // columns)
    figure = plt.figure(figsize=(5.2 * max(2, columns), 4.2 * (1 + below)), layout="constrained")
    figure.suptitle(title, fontsize=12)
    top, *lower = figure.subfigures(1 + below, 1, squeeze=False)[:, 0]
    speed, efficiency = top.subplots(1, 2)
    _curves(speed, efficiency, series)
    panels = [axes for each in lower for axes in each.subplots(1, columns, squeeze=False)[0]]
    for axes, (key, points) in zip(panels, series.items(), strict=False):
        _stack(axes, points, _name(key))
    for axes in panels[len(series) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curves(speed: Any, efficiency: Any, series: dict[tuple[str, int, int], list[ReportRow]]) -> None:
    """Tokens/s and efficiency against the number of ranks, predictions dashed."""
    from matplotlib.ticker import LogLocator

    ranks = sorted({row.ranks for points in series.values() for row in points})
    shares = [1.0]
    for number, (key, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        measured = [row for row in points if row.tokens_per_second is not None]
        predicted = [row for row in measured if row.step_s is not None and row.predicted_step_s is not None]
        shares += [row.efficiency for row in measured if row.efficiency is not None]
        for axes, column in ((speed, "tokens_per_second"), (efficiency, "efficiency")):
            axes.plot([r.ranks for r in measured], [getattr(r, column) for r in measured], "o-", color=colour, label=_name(key))
            values = [getattr(r, column) * (r.step_s or 0.0) / (r.predicted_step_s or 1.0) for r in predicted]
            axes.plot([r.ranks for r in predicted], values, "x--", color=colour, linewidth=1)
    base = min((r for points in series.values() for r in points if r.tokens_per_second), key=lambda r: r.ranks, default=None)
    if base is not None:
        speed.plot(ranks, [(base.tokens_per_second or 0.0) * n / base.ranks for n in ranks], ":", color="grey", label="linear")
    speed.plot([], [], "x--", color="grey", linewidth=1, label="predicted")
    _axes(speed, ranks, "tokens/s")
    speed.set_yscale("log")
    speed.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    speed.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    speed.minorticks_off()
    _axes(efficiency, ranks, "efficiency against the smallest")
    efficiency.set_ylim(0, 1.08 * max(shares))
    efficiency.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    speed.legend(fontsize=8)


def _name(key: tuple[str, int, int]) -> str:
    mode, zero, micro_batch = key
    return f"{mode}, ZeRO {zero}, micro-batch {micro_batch}"


def _axes(axes: Any, ranks: list[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.minorticks_off()
    axes.set_xlabel("ranks")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _stack(axes: Any, points: list[ReportRow], name: str) -> None:
    """Bars of the measured parts, and beside each the predicted ones, hatched."""
    width = 0.38
    shown = [row for row in points if row.step_s is not None]
    for place, row in enumerate(shown):
        bottom = 0.0
        for field, (label, colour) in PARTS.items():
            height = getattr(row, field) or 0.0
            axes.bar(place - width / 2, height, width, bottom, color=colour, label=label if place == 0 else None)
            bottom += height
        axes.text(place - width / 2, bottom, f"{row.step_s:.3g} s", ha="center", va="bottom", fontsize=8)
        if row.predicted_step_s is None or row.predicted_compute_s is None or row.predicted_communication_s is None:
            continue
        rest = row.predicted_step_s - row.predicted_compute_s - row.predicted_communication_s
        bottom = 0.0
        heights = (row.predicted_compute_s, row.predicted_communication_s, rest)
        for height, (_, colour) in zip(heights, PARTS.values(), strict=False):
            axes.bar(place + width / 2, height, width, bottom, color=colour, alpha=0.45, hatch="//", edgecolor="white")
            bottom += height
        axes.text(place + width / 2, bottom, f"{row.error:+.1%}", ha="center", va="bottom", fontsize=8, color="dimgrey")
    axes.set_xticks(range(len(shown)), [f"{row.nodes}x{row.ranks // row.nodes}" for row in shown])
    axes.set_xlabel("nodes x ranks of a node; hatched: predicted, and its error")
    axes.set_ylabel("seconds a step")
    axes.set_title(name, fontsize=10)
    axes.set_ylim(0, 1.25 * axes.dataLim.y1)
    axes.legend(fontsize=8, ncols=len(PARTS), loc="upper center")
