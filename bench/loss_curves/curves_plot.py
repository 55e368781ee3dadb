"""The picture of a comparison: the curves on top of each other, and below them the differences beside the noise."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from bench.loss_curves.runs import Curve
from bench.loss_curves.significance import LIMIT, Comparison

COLOURS = ("#2166ac", "#d6604d", "#1b7837", "#762a83", "#b8860b", "#4d4d4d")
"""One a seed."""
SMOOTHED = 10
"""Steps in the moving mean of a drawn curve."""


def draw(curves: dict[tuple[str, int], Curve], seeds: Sequence[int], found: Comparison, path: Path, title: str) -> None:
    """Writes a picture in the format of its suffix."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "curves"  # the same figures give the same file
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 8.4), sharex=True, height_ratios=(1.2, 1), layout="constrained")
    figure.suptitle(title, fontsize=11)
    _losses(above, curves, seeds)
    _differences(below, seeds, found)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _losses(axes: Any, curves: dict[tuple[str, int], Curve], seeds: Sequence[int]) -> None:
    for colour, seed in zip(cycle(COLOURS), seeds, strict=False):
        for variant, style, width, alpha in (("eager", "-", 3.2, 0.35), ("sdpa", "-", 1.0, 1.0)):
            losses = curves[variant, seed].losses
            length = min(SMOOTHED, len(losses))
            smooth = np.convolve(losses, np.ones(length) / length, "valid")
            name = "Hugging Face eager" if variant == "eager" else "sdpa"
            label = f"{name}, seed {seed}"
            axes.plot(np.arange(length, len(losses) + 1), smooth, style, color=colour, linewidth=width, alpha=alpha, label=label)
    axes.set_ylabel(f"loss, mean of {SMOOTHED} steps")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=len(seeds))


def _differences(axes: Any, seeds: Sequence[int], found: Comparison) -> None:
    ends = np.asarray(found.ends)
    middles = ends - ends[0] / 2
    limit = LIMIT * found.window_error
    axes.axhspan(-limit, limit, color="#4d4d4d", alpha=0.12, linewidth=0, label=f"within {LIMIT:g} standard errors of the mean")
    axes.axhline(0, color="black", linewidth=0.6)
    for number, (colour, seed) in enumerate(zip(cycle(COLOURS), seeds, strict=False)):
        shift = ends[0] * 0.08 * (number - (len(seeds) - 1) / 2)
        axes.plot(middles + shift, found.redrawn[number], "x", color=colour, markersize=6, alpha=0.7)
        axes.plot(middles + shift, found.differences[number], "o", color=colour, markersize=4, label=f"seed {seed}")
    axes.plot(middles, np.mean(found.differences, axis=0), "-", color="black", linewidth=1.5, label="mean over seeds")
    axes.plot([], [], "x", color="grey", label="eager less eager with other dropout")
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss of sdpa less eager's, windows of {ends[0]} steps")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="upper right")
