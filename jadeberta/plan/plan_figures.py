"""Every figure of a plan with its formula and the source of what went into it: what `--explain` prints and the page shows."""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from jadeberta.config import Recipe
from jadeberta.plan.forecast import ClusterShape, Forecast, Input, bytes_per_parameter
from jadeberta.plan.preprocess_hours import (
    BYTES_A_TOKEN,
    DOCUMENT_SHARE,
    PAGE,
    SHARD_BYTES_A_TOKEN,
    TRAIN_SECONDS,
    WORD_SHARE,
    rates_of,
)
from jadeberta.plan.run_costs import DEVIATIONS, METRICS_BYTES, TENSORBOARD_BYTES, RunCosts, Span
from jadeberta.plan.zero_advice import ALIKE, USABLE, ZeroStage
from jadeberta.shards.index import ShardIndex

COUNTED = "bench/step.py --parts account and bench/row_memory.py; docs/performance.md"
PART_NAMES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "buckets": "DeepSpeed's buckets",
    "layers": "kept by the layers for backward",
    "generator": "kept by the generator's layers",
    "head": "output layer",
    "attention": "attention of one layer",
}
"""Parts of the memory, in words."""
CHOICES = {"recipe": "checkpoint.every_steps", "young": "Young 1974", "daly": "Daly 2006", "best": "best"}
"""Intervals between checkpoints (`Forecast.choices`), in words."""
PHASE_HEADERS = ("phase", "steps", "row", "micro-batch", "10^9 tokens", "tokens/s", "step, s", "days", "activations, GB")


@dataclass(frozen=True)
class Figure:
    """One figure of a plan."""

    key: str
    group: str
    label: str
    value: float | None
    """None where it is not known."""
    unit: str
    text: str
    """Value and unit for people."""
    formula: str
    source: str
    low: float | None = None
    high: float | None = None


def explain(figures: list[Figure], width: int) -> list[str]:
    """Returns the figures as lines of text.

    Args:
        figures: of a plan.
        width: columns to wrap at.
    """
    lines: list[str] = []
    for place, figure in enumerate(figures):
        if place == 0 or figure.group != figures[place - 1].group:
            lines += ["", figure.group]
        lines += textwrap.wrap(f"  {figure.label}: {figure.text}", width, subsequent_indent="    ")
        for name, words in (("formula", figure.formula), ("source", figure.source)):
            lines += textwrap.wrap(f"      {name}: {words}", width, subsequent_indent=" " * 10)
    return lines


def figures_of(
    recipe: Recipe, cluster: ClusterShape, plan: Forecast, costs: RunCosts, index: ShardIndex | None = None
) -> list[Figure]:
    """Returns every figure of a plan.

    Args:
        recipe: of the run.
        cluster: nodes and GPUs.
        plan: forecast of the run.
        costs: what it takes beside its days.
        index: of the shards; None where there are none yet.
    """
    return [
        *_work(recipe, plan),
        *_time(cluster, plan, costs),
        *_memory(recipe, costs),
        *_money(cluster, costs),
        *_disk(plan, costs, recipe, index),
        *_preprocessing(recipe, costs),
    ]


def phase_rows(plan: Forecast) -> list[tuple[str, ...]]:
    """Returns the phases of a plan as rows below `PHASE_HEADERS`."""
    return [
        (
            str(number), f"{p.steps:,}", f"{p.sequence_length:,}", str(p.micro_batch_size), f"{p.tokens / 1e9:,.4g}",
            f"{p.tokens_per_second:,.0f}", f"{p.step_s:.3f}", f"{p.days_without_faults:.2f}", f"{p.activation_bytes / 1e9:.1f}",
        )
        for number, p in enumerate(plan.phases, 1)
    ]  # fmt: skip


def _work(recipe: Recipe, plan: Forecast) -> Iterator[Figure]:
    group = "Work"
    yield Figure(
        "parameters", group, "parameters", plan.parameters, "", f"{plan.parameters:,}", "sum of the sizes of all weights, tied ones once",
        "counted on the model of the recipe, built without memory",
    )  # fmt: skip
    yield Figure(
        "tokens", group, "tokens", plan.tokens, "tokens", f"{plan.tokens / 1e9:,.4g} billion",
        "sum over all steps of global_batch_size x tokens in a row; padding counts, as it is computed", "the recipe",
    )  # fmt: skip
    yield Figure(
        "flops_per_token", group, "work of a token", plan.flops_per_token, "FLOP", f"{plan.flops_per_token / 1e9:.3f} GFLOP",
        "3 x the matrix products of a forward pass: layers, attention with its positions, and the head on masked tokens alone",
        "training_flops_per_token in jadeberta/training/metrics.py, checked against PyTorch's own count of FLOPs",
    )  # fmt: skip
    yield Figure(
        "total_flops", group, "work of the run", plan.total_flops, "FLOP", f"{plan.total_flops:.3g} FLOP",
        f"{plan.tokens:,} tokens x {plan.flops_per_token:.4g} FLOP", "the two figures above",
    )  # fmt: skip


def _time(cluster: ClusterShape, plan: Forecast, costs: RunCosts) -> Iterator[Figure]:
    group, gpus, inputs = "Time", cluster.gpus, plan.inputs
    if "tokens_per_second_per_gpu" in inputs:
        speed = f"{inputs['tokens_per_second_per_gpu'].value:,.0f} tokens/s of a GPU x {gpus} GPUs"
        source = _source(inputs, "tokens_per_second_per_gpu")
    else:
        speed = f"{gpus} GPUs x peak of {cluster.device} x MFU {inputs['mfu'].value:g} / FLOP of a token"
        source = f"peak: data sheet; MFU: {_source(inputs, 'mfu')}"
    yield Figure(
        "tokens_per_second",
        group,
        "speed",
        plan.tokens_per_second,
        "tokens/s",
        f"{plan.tokens_per_second:,.0f} tokens/s",
        speed,
        source,
    )
    yield Figure(
        "step_s", group, "step", plan.step_s, "s", f"{plan.step_s:.3f} s", "tokens of a step / speed", "the figures above"
    )
    yield Figure(
        "days_without_faults", group, "days without faults", plan.days_without_faults, "days", f"{plan.days_without_faults:.1f} days",
        f"{plan.tokens:,} tokens / {plan.tokens_per_second:,.0f} tokens/s / 86,400", "the figures above",
    )  # fmt: skip
    yield Figure(
        "mtbf_s", group, "time between failures", plan.mtbf_s, "s", f"{plan.mtbf_s / 86400:,.1f} days",
        f"{inputs['mtbf_node_hours'].value:,g} hours of a node / {cluster.nodes} nodes: failures are independent",
        _source(inputs, "mtbf_node_hours"),
    )  # fmt: skip
    every, best = plan.choices["recipe"], plan.choices["best"]
    yield Figure(
        "failures", group, "failures to expect", plan.failures, "", f"{plan.failures:.1f}", "expected days / time between failures",
        "the figures around",
    )  # fmt: skip
    costs_from = "; ".join(f"{name} {inputs[name].value:g}: {inputs[name].kind}" for name in ("stall_seconds", "write_seconds"))
    yield Figure(
        "best_interval_s", group, "best checkpoint interval", _finite(best.seconds), "s",
        f"{best.seconds / 60:,.1f} minutes, {best.steps:,} steps (recipe: {every.steps:,}; Young {plan.choices['young'].steps:,}, Daly "
        f"{plan.choices['daly'].steps:,})",
        "the interval with the largest goodput; Young 1974: sqrt(2 d M), Daly 2006: its next order (d: stall, M: time between failures)",
        f"jadeberta/plan/checkpoint_interval.py, checked against a simulation; {costs_from}",
    )  # fmt: skip
    restarts = "; ".join(
        f"{name} {inputs[name].value:g}: {inputs[name].kind}" for name in ("restart_seconds", "queue_seconds", "time_limit_hours")
    )
    yield Figure(
        "goodput", group, "goodput", every.goodput, "", f"{100 * every.goodput:.2f}% of the wall time (best: {100 * best.goodput:.2f}%)",
        "expected useful time between two ends / expected time between two ends, at the recipe's interval (renewal-reward theorem)",
        f"jadeberta/plan/checkpoint_interval.py; {restarts}",
    )  # fmt: skip
    yield _spanned(
        "days", group, "days", costs.days_range, 1.0, "days", ".1f",
        "days without faults / goodput; range: the same at the best and the worst of what is assumed, with "
        f"{DEVIATIONS} standard deviations of failures fewer and more (Poisson)",
        "the figures above; bounds in BOUNDS of jadeberta/plan/run_costs.py",
    )  # fmt: skip


def _memory(recipe: Recipe, costs: RunCosts) -> Iterator[Figure]:
    group, zero = "Memory of a GPU", costs.zero
    own, precision = zero.own, recipe.training.precision
    for name, size in own.memory.items():
        yield Figure(f"memory_{name}", group, PART_NAMES[name], size, "bytes", f"{size / 1e9:.2f} GB", _formula_of(name, own, recipe), (
            f"precision {precision} and ZeRO {own.stage}, counted on a real engine in tests/plan/test_engine_memory.py"
            if name in ("weights", "gradients", "optimizer", "buckets") else COUNTED
        ))  # fmt: skip
    yield Figure(
        "memory", group, "together", own.bytes, "bytes", f"{own.bytes / 1e9:.2f} GB", "sum of the parts", "the figures above"
    )
    limit = costs.inputs.get("gpu_memory_gb")
    if limit is None or own.largest_micro_batch is None:
        text, source = "not known: give --gpu-memory-gb", "nobody said how much memory the GPU has"
    else:
        text = f"{own.largest_micro_batch} rows that divide the batch; {own.most_rows:,} fit (recipe: {recipe.training.micro_batch_size})"
        source = f"memory of the GPU: {_source(costs.inputs, 'gpu_memory_gb')}; {1 - USABLE:.0%} is left for CUDA, NCCL and gaps (assumed)"
    usable = "" if limit is None else f" {USABLE:g} x {limit.value:g} GB"
    yield Figure(
        "largest_micro_batch", group, "largest micro-batch", own.largest_micro_batch, "rows", text,
        f"the most rows whose parts are together at most{usable}, and which divide the batch of a rank", source,
    )  # fmt: skip
    advice = "none" if zero.stage is None else f"ZeRO {zero.stage}"
    yield Figure(
        "zero_stage", group, "ZeRO", zero.stage, "", f"{advice} (the recipe has {zero.recipe_stage}): {zero.reason}",
        f"of the stages that fit, the simplest whose step is within {ALIKE:.0%} of the fastest; ZeRO 3 overlaps, 2 if its file says so",
        "bytes sent counted in tests/training/test_comm_meter.py; times by jadeberta/plan/step_time.py",
    )  # fmt: skip


def _formula_of(name: str, stage: ZeroStage, recipe: Recipe) -> str:
    bf16 = recipe.training.precision == "bf16"
    average = " + 4 of the running average" * bool(recipe.training.ema_decay)
    shared = " / ranks"
    match name:
        case "weights":
            return f"parameters x {2 if bf16 else 4} bytes{shared if stage.stage >= 3 else ''}"
        case "gradients":
            each = "(2 + 4 of the fp32 sum)" if bf16 and stage.stage < 2 else "4"
            return f"parameters x {each} bytes{shared if stage.stage >= 2 else ''}"
        case "optimizer":
            fewer = {"muon": ", 4 fewer of a hidden matrix", "lion": ", 4 fewer"}.get(recipe.training.optimizer, "")
            return f"parameters x (4 of the fp32 weight + 8 of two moments{average}{fewer}) bytes / ranks"
        case "buckets":
            return "reduce_bucket_size x bytes of a number, twice where ZeRO 1 or 2 overlaps; none under ZeRO 1 in bf16"
        case "head":
            return "rows x masked tokens of a row x vocab_size x (bytes of a number + 4 of the fp32 loss)"
        case "attention":
            return "score matrices of one layer while it runs; of long rows a block of them"
    kept = {"cheap": ", x 0.67 for recompute: cheap", "layers": ", of one layer, and each layer's input, for recompute: layers"}
    return "rows x tokens of a row x (10 hidden_size + 2 intermediate_size) x bytes of a number x layers" + kept.get(
        recipe.training.recompute, ""
    )


def _money(cluster: ClusterShape, costs: RunCosts) -> Iterator[Figure]:
    group, gpus = "GPU-hours and energy", cluster.gpus
    yield _spanned(
        "gpu_hours", group, "GPU-hours", costs.gpu_hours, 1.0, "h", ",.0f",
        f"days x 24 x {gpus} GPUs x goodput / goodput without the queue, in which a job holds no GPU", "the figures above",
    )  # fmt: skip
    if costs.energy_kwh is None:
        yield Figure(
            "energy_kwh",
            group,
            "energy",
            None,
            "kWh",
            "not known: give --gpu-watts",
            "GPU-hours x power x PUE",
            "the GPU's power is not known",
        )
        return
    watts, pue = costs.inputs["gpu_watts"], costs.inputs["pue"]
    yield _spanned(
        "energy_kwh", group, "energy", costs.energy_kwh, 1.0, "kWh", ",.0f",
        f"GPU-hours x {watts.value:,g} W / 1,000 x PUE {pue.value:g}",
        f"power: {_source(costs.inputs, 'gpu_watts')}; PUE: {_source(costs.inputs, 'pue')}",
    )  # fmt: skip


def _disk(plan: Forecast, costs: RunCosts, recipe: Recipe, index: ShardIndex | None) -> Iterator[Figure]:
    group, keep, disk = "Disk", recipe.checkpoint, costs.disk_bytes
    rule = (
        "all of them (keep_last 0)" if keep.keep_last == 0
        else f"keep_last {keep.keep_last}" + f", and multiples of keep_every {keep.keep_every:,}" * bool(keep.keep_every)
    )  # fmt: skip
    yield Figure(
        "checkpoint_bytes", group, "a checkpoint", plan.checkpoint_bytes, "bytes", f"{plan.checkpoint_bytes / 1e9:.2f} GB",
        f"parameters x {bytes_per_parameter(recipe.training)} bytes: weights, fp32 masters, moments; less what the optimizer does not keep",
        "jadeberta/plan/forecast.py",
    )  # fmt: skip
    yield _spanned(
        "disk_checkpoints", group, "checkpoints", disk["checkpoints"], 1e9, "GB", ",.1f",
        f"{costs.kept_checkpoints} checkpoints: {rule}, and one that is being written", "section checkpoint of the recipe",
    )  # fmt: skip
    sinks = f" + {TENSORBOARD_BYTES} in TensorBoard's file" * ("tensorboard" in recipe.logging.sinks)
    yield _spanned(
        "disk_metrics", group, "metrics", disk["metrics"], 1e9, "GB", ",.2f",
        f"{recipe.training.max_steps:,} steps x ({METRICS_BYTES} bytes in metrics.jsonl{sinks})", "rows of the metrics writer",
    )  # fmt: skip
    text = costs.inputs["text_gb"]
    ratios = "{:g} to {:g} of documents + {:g} to {:g} of words".format(*DOCUMENT_SHARE, *WORD_SHARE)
    yield _spanned(
        "disk_shards", group, "shards", disk["shards"], 1e9, "GB", ",.1f",
        f"{text.value:,.4g} GB of text / {BYTES_A_TOKEN} bytes a token x {SHARD_BYTES_A_TOKEN} bytes" if index is None
        else "sizes of the files in index.json",
        f"{PAGE}; text: {_source(costs.inputs, 'text_gb')}" if index is None else "index.json of the shards",
    )  # fmt: skip
    yield _spanned(
        "disk_preprocessing", group, "preprocessing, until you delete it", disk["preprocessing"], 1e9, "GB", ",.0f",
        f"{text.value:,.4g} GB of text x ({ratios})",
        f"ratios of the sample, {PAGE}; text: {_source(costs.inputs, 'text_gb')}",
    )  # fmt: skip


def _preprocessing(recipe: Recipe, costs: RunCosts) -> Iterator[Figure]:
    group, text = "Preprocessing", costs.inputs["text_gb"]
    rates = rates_of(recipe)
    for stage, hours in costs.core_hours.items():
        training = f", and at most {TRAIN_SECONDS:g} s of sentencepiece on one rank" if stage == "tokenizer" else ""
        yield _spanned(
            f"core_hours_{stage}", group, stage, hours, 1.0, "core-hours", ",.1f",
            f"{text.value:,.4g} GB of text / {rates[stage].value:g} MB a core-second{training}", rates[stage].source,
        )  # fmt: skip
    each = costs.core_hours.values()
    whole = Span(sum(one.value for one in each), sum(one.low for one in each), sum(one.high for one in each))
    yield _spanned(
        "core_hours",
        group,
        "all stages",
        whole,
        1.0,
        "core-hours",
        ",.0f",
        "sum of the stages",
        f"text: {_source(costs.inputs, 'text_gb')}",
    )


def _source(inputs: dict[str, Input], name: str) -> str:
    used = inputs[name]
    return f"{used.kind}{': ' if used.source else ''}{used.source}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spanned(key: str, group: str, label: str, span: Span, per: float, unit: str, form: str, formula: str, source: str) -> Figure:
    """A figure with a range, which is left out of the text where it says no more than the figure.

    Args:
        key: name in JSON.
        group: heading.
        label: words.
        span: value and range.
        per: what a unit is of the value: 1e9 for GB of bytes.
        unit: of the text.
        form: format of a number in the text.
        formula: how it is computed.
        source: of what goes into it.
    """
    if not math.isfinite(span.value):
        return Figure(key, group, label, None, unit, "no end", formula, source)
    shown, low, high = (
        format(value / per, form) if math.isfinite(value) else "no end" for value in (span.value, span.low, span.high)
    )
    text = f"{shown} {unit}" + ("" if low == high else f" ({low} to {high})")
    # Bytes stay bytes for programs.
    return Figure(
        key,
        group,
        label,
        span.value,
        "bytes" if per == 1e9 else unit,
        text,
        formula,
        source,
        _finite(span.low),
        _finite(span.high),
    )
