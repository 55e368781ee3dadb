"""What a run takes beside its days: memory, GPU-hours, energy, disk and core-hours, each with a range. Pure functions.

A range is what follows from the bounds of the figures that were assumed; a figure that was given or measured has none.
"""

import math
from dataclasses import dataclass, field

from jadeberta.config import Recipe
from jadeberta.plan.checkpoint_interval import expected_efficiency
from jadeberta.plan.forecast import ClusterShape, Forecast, Input, forecast, interval_costs
from jadeberta.plan.preprocess_hours import (
    BYTES_A_TOKEN,
    DOCUMENT_SHARE,
    PUBLISHED_GB,
    SHARD_BYTES_A_TOKEN,
    WORD_SHARE,
    core_hours,
    rates_of,
)
from jadeberta.plan.zero_advice import ZeroAdvice
from jadeberta.shards.index import ShardIndex
from jadeberta.utils.hardware import find_peaks

BOUNDS = {
    "mfu": (0.47, 0.10),
    "mtbf_node_hours": (8000.0, 1000.0),
    "queue_seconds": (0.0, 3600.0),
}
"""Best and worst of what is assumed: shares of the peak and times between failures of the sources of `forecast.DEFAULTS`; failures three
times as often, and an hour in the queue, are our own."""
PUE_BOUNDS = (1.10, 1.56)
"""Google's centres in 2023, and the mean of Uptime Institute's survey of 2024."""
LEAST_POWER = 0.5
"""Share of a GPU's largest power that it is taken to draw at least. Assumed."""
METRICS_BYTES, TENSORBOARD_BYTES = 510, 310
"""Bytes of a step in metrics.jsonl, and in TensorBoard's file."""
DEVIATIONS = 2
"""Standard deviations of the number of failures that a range covers."""


@dataclass(frozen=True)
class Span:
    """A figure with its range."""

    value: float
    low: float
    high: float

    def times(self, factor: float, least: float | None = None, most: float | None = None) -> "Span":
        """Returns the product; `least` and `most` are the bounds of the factor, where it has any."""
        return Span(
            self.value * factor, self.low * (factor if least is None else least), self.high * (factor if most is None else most)
        )


@dataclass
class RunCosts:
    """What a run takes beside its days."""

    zero: ZeroAdvice
    days_range: Span
    gpu_hours: Span
    energy_kwh: Span | None
    """None where the power of a GPU is not known."""
    kept_checkpoints: int
    """Checkpoints that are on the disk at once at most, with the one that is being written."""
    disk_bytes: dict[str, Span]
    """By what is stored: checkpoints, metrics, shards, preprocessing."""
    core_hours: dict[str, Span]
    """Of preprocessing, by stage."""
    inputs: dict[str, Input] = field(default_factory=dict)
    """Figures that these are computed from, by option."""


def cost_inputs(device: str, given: dict[str, Input], index: ShardIndex | None, index_name: str) -> dict[str, Input]:
    """Returns the figures that costs are computed from: given, from the shards, else assumed; without those nobody knows.

    Args:
        device: kind of GPU.
        given: figures by option.
        index: of the shards; None where there are none yet.
        index_name: its file, for the source.
    """
    found = {
        "pue": Input(
            1.2, "assumed", "Jean Zay, where BLOOM was trained (arXiv 2211.02001); 1.10 Google 2023, 1.56 Uptime's survey of 2024"
        )
    }
    if (peaks := find_peaks(device)) is not None:
        found["gpu_memory_gb"] = Input(peaks.memory_bytes / 1e9, "assumed", "data sheet of the smallest model for servers")
        found["gpu_watts"] = Input(
            peaks.board_w,
            "assumed",
            f"largest power of the GPU alone, data sheet; range from half of it to {peaks.server_w:,.0f} W, an eighth of a DGX at most",
        )
    if index is None:
        found["text_gb"] = Input(PUBLISHED_GB, "assumed", "the published corpora, each once (docs/preprocess-at-scale.md)")
    else:
        text = tokens_of(index) * BYTES_A_TOKEN / 1e9
        found["text_gb"] = Input(text, "computed", f"tokens in {index_name} x {BYTES_A_TOKEN} bytes of text in a token")
    return found | given


def tokens_of(index: ShardIndex) -> int:
    """Returns the tokens of all shards of the first row length, which hold all text once."""
    entries = [
        entry for corpus in index.of_length(index.sequence_length).corpora.values() for entry in [*corpus.train, *corpus.valid]
    ]
    return sum(entry.tokens for entry in entries)


def kept_checkpoints(recipe: Recipe) -> int:
    """Returns how many checkpoints are kept at the end of a run by the rules of the section `checkpoint`, one more at most."""
    keep, steps = recipe.checkpoint, recipe.training.max_steps
    written = -(-steps // keep.every_steps)  # one is always written at the end
    if keep.keep_last == 0:
        return written
    for_good = steps // math.lcm(keep.keep_every, keep.every_steps) if keep.keep_every else 0
    return min(written, keep.keep_last + for_good)


def days_range(recipe: Recipe, cluster: ClusterShape, inputs: dict[str, Input], plan: Forecast) -> Span:
    """Returns the expected days, and those at the bounds of what is assumed with as many failures more or fewer as chance makes.

    Args:
        recipe: of the run.
        cluster: nodes and GPUs.
        inputs: figures that were given or measured.
        plan: forecast from them.
    """
    ends = []
    for place, sign in ((0, -1), (1, 1)):
        bounds = {name: Input(pair[place], "assumed", "") for name, pair in BOUNDS.items() if _is_assumed(plan, name)}
        other = forecast(recipe, cluster, inputs | bounds, plan.parameters, plan.sequence_length)
        every = other.choices["recipe"]
        each = sum(other.inputs[name].value for name in ("restart_seconds", "queue_seconds", "write_seconds")) + every.seconds / 2
        # Of a number of rare events the variance is the mean (Poisson).
        chance = DEVIATIONS * math.sqrt(other.failures) * each / 86400 if math.isfinite(other.failures) else 0.0
        ends.append(max(other.days_without_faults, every.days + sign * chance))
    expected = plan.choices["recipe"].days
    return Span(expected, min(ends[0], expected), max(ends[1], expected))


def _is_assumed(plan: Forecast, name: str) -> bool:
    return name in plan.inputs and plan.inputs[name].kind == "assumed"


def gpu_hours_of(plan: Forecast, days: Span, cluster: ClusterShape) -> Span:
    """Returns the hours for which GPUs are held: a job in the queue holds none.

    Args:
        plan: forecast of the run.
        days: with their range.
        cluster: nodes and GPUs.
    """
    costs, every = interval_costs(plan.inputs, plan.mtbf_s), plan.choices["recipe"]
    without_queue = costs | {"restart_s": plan.inputs["restart_seconds"].value}
    step_seconds = every.steps * plan.step_s
    held = expected_efficiency(step_seconds, **without_queue)
    share = min(1.0, every.goodput / held) if held > 0 else 1.0
    return days.times(24 * cluster.gpus * share)


def costs_of(
    recipe: Recipe,
    cluster: ClusterShape,
    inputs: dict[str, Input],
    plan: Forecast,
    zero: ZeroAdvice,
    used: dict[str, Input],
    index: ShardIndex | None,
) -> RunCosts:
    """Returns what a run takes.

    Args:
        recipe: of the run.
        cluster: nodes and GPUs.
        inputs: figures for the forecast that were given or measured.
        plan: forecast from them.
        zero: comparison of the stages of ZeRO.
        used: as `cost_inputs` returns them.
        index: of the shards; None where there are none yet.

    Raises:
        ConfigError: the recipe's section `preprocess` cannot be used.
    """
    days = days_range(recipe, cluster, inputs, plan)
    hours = gpu_hours_of(plan, days, cluster)
    energy = None
    if "gpu_watts" in used:
        power, pue, peaks = used["gpu_watts"], used["pue"], find_peaks(cluster.device)
        energy = hours.times(power.value / 1000)
        if power.kind == "assumed" and peaks is not None:
            energy = hours.times(power.value / 1000, LEAST_POWER * peaks.board_w / 1000, peaks.server_w / 1000)
        energy = energy.times(pue.value, *(PUE_BOUNDS if pue.kind == "assumed" else ()))
    kept = kept_checkpoints(recipe) + 1  # one is written before another is removed
    return RunCosts(
        zero, days, hours, energy, kept, _disk(recipe, plan, kept, used["text_gb"].value, index),
        {stage: Span(*each) for stage, each in core_hours(rates_of(recipe), used["text_gb"].value).items()}, used,
    )  # fmt: skip


def _disk(recipe: Recipe, plan: Forecast, kept: int, text_gb: float, index: ShardIndex | None) -> dict[str, Span]:
    """Bytes by what is stored.

    Args:
        recipe: of the run.
        plan: forecast of the run.
        kept: checkpoints that are on the disk at once at most.
        text_gb: GB of text.
        index: of the shards; None where there are none yet.
    """
    steps, text = recipe.training.max_steps, text_gb * 1e9
    row = METRICS_BYTES + TENSORBOARD_BYTES * ("tensorboard" in recipe.logging.sinks)
    if index is None:
        shards = text / BYTES_A_TOKEN * SHARD_BYTES_A_TOKEN
    else:
        shards = sum(entry.bytes for corpus in index.corpora.values() for entry in [*corpus.train, *corpus.valid])
    least, most = (document + word for document, word in zip(DOCUMENT_SHARE, WORD_SHARE, strict=True))
    return {
        "checkpoints": _exact(kept * plan.checkpoint_bytes),
        "metrics": _exact(steps * row),
        "shards": _exact(shards),
        "preprocessing": Span(text * (least + most) / 2, text * least, text * most),
    }


def _exact(value: float) -> Span:
    return Span(float(value), float(value), float(value))
