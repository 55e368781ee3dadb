"""What a run will cost: work, days, checkpoint interval and goodput, from a recipe and a few figures about the cluster.

Pure functions. Every figure that was not measured carries its source, so that a reader can judge the result.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jadeberta.config import Recipe, TrainingConfig
from jadeberta.config.phases import Phase, phases_of, require_divisible, with_lengths
from jadeberta.errors import ConfigError
from jadeberta.plan.checkpoint_interval import best_interval, daly, expected_efficiency, young
from jadeberta.plan.gpu_memory import activation_parts
from jadeberta.plan.optimizer_memory import saved_bytes
from jadeberta.plan.training_flops import flops_and_tokens_of
from jadeberta.status.attempts import read_history, stall_seconds
from jadeberta.status.step_table import StepTable
from jadeberta.training.guard import NORMAL
from jadeberta.utils.hardware import PEAKS, peak_flops
from jadeberta.utils.json_lines import JsonRow, finite

SIGNAL_LEAD_S = 300.0
"""Time before the time limit at which Slurm sends USR1, as the scripts in slurm/ ask for it."""
STEPS_FOR_SPREAD = 16
"""Fewest steps from which the spread of step times is computed."""
OPTIMIZER_BYTES = 12
"""Bytes of a parameter's fp32 master weight and two Adam moments."""
AVERAGE_BYTES = 4
"""Bytes of a parameter's fp32 running average, where the recipe keeps one."""


@dataclass
class Input:
    """A figure that the forecast is computed from."""

    value: float
    kind: str
    """How it is known: given, measured or assumed."""
    source: str
    """Source of the value."""


DEFAULTS = {
    "mfu": Input(
        0.3,
        "assumed",
        "10% in the published run of this model; 33-39% torchtitan, Llama 3 8B on H100; 47% NVIDIA, BERT large on A100",
    ),
    "mtbf_node_hours": Input(
        3000.0,
        "assumed",
        "the worst of three published: 3,100 OPT-175B (54 restarts in 56 days on 124 nodes), 6,300 Llama 3 (419 unplanned "
        "interruptions in 54 days on 2,048 nodes, arXiv 2407.21783), 8,000 BLOOM (a GPU a week on 48 nodes)",
    ),
    "stall_seconds": Input(
        1.0, "assumed", "0.78 s for PyTorch's asynchronous checkpoints of Llama 3 70B (PyTorch blog, April 2025)"
    ),
    "write_seconds": Input(10.0, "assumed", "the 4.8 GB of the large model at 0.5 GB/s, a shared file system"),
    "restart_seconds": Input(180.0, "assumed", "imports, process group, reading and verifying a checkpoint, first step"),
    "queue_seconds": Input(600.0, "assumed", "Slurm's queue after every end; ask your cluster's sacct"),
    "time_limit_hours": Input(24.0, "assumed", "slurm/pretrain_large.sh"),
}
"""Values that are assumed where nothing is given or measured, by option."""


@dataclass
class ClusterShape:
    """Nodes, GPUs and kind of GPU that a run is planned for."""

    nodes: int = 1
    gpus_per_node: int = 8
    device: str = "A100"
    """A name in `hardware.PEAKS`; any other where the speed is given."""

    @property
    def gpus(self) -> int:
        """GPUs of the job, one rank each."""
        return self.nodes * self.gpus_per_node


@dataclass
class IntervalPlan:
    """One interval between checkpoints and its consequences."""

    seconds: float
    """Training between two saves, seconds."""
    steps: int
    """Training between two saves, whole steps."""
    goodput: float
    """Expected share of the wall time that is useful."""
    days: float
    """Expected days, with failures, queue and planned ends."""


@dataclass
class PhaseForecast:
    """Plan of one phase."""

    steps: int
    sequence_length: int
    micro_batch_size: int
    tokens: int
    """Of the phase; every position of every row counts."""
    flops_per_token: float
    tokens_per_second: float
    step_s: float
    days_without_faults: float
    activation_bytes: int
    """What a micro-batch takes on a GPU, beside weights, gradients and optimizer."""


@dataclass
class Forecast:
    """Plan of a run."""

    parameters: int
    tokens: int
    """Tokens of the whole run; every position of every row counts."""
    flops_per_token: float
    """FLOP of forward and backward pass, with the head on the masked positions alone."""
    total_flops: float
    tokens_per_second: float
    """Speed of all devices together."""
    mfu: float | None
    """Share of the devices' peak; None where the peak is not known."""
    step_s: float
    days_without_faults: float
    checkpoint_bytes: int
    mtbf_s: float
    """Mean time between failures of all nodes together, seconds."""
    failures: float
    """Failures to expect over the run, at the recipe's interval."""
    choices: dict[str, IntervalPlan]
    """Intervals by name: recipe, young, daly, best."""
    inputs: dict[str, Input]
    """Figures that the plan is computed from, by option."""
    phases: list[PhaseForecast] = field(default_factory=list)
    """Of a recipe with phases, each; the figures above are then those of all together, step_s and tokens_per_second their means."""
    sequence_length: int = 0
    """Tokens in a row; of phases, where one does not say it."""
    activation_bytes: int = 0
    """What a micro-batch takes on a GPU; of phases, the one that takes most."""
    state_bytes: int = 0
    """Weights, gradients and optimizer of a GPU."""


def bytes_per_parameter(training: TrainingConfig) -> int:
    """Returns the bytes that a checkpoint holds for each parameter under AdamW."""
    return OPTIMIZER_BYTES + AVERAGE_BYTES * bool(training.ema_decay) + (2 if training.precision == "bf16" else 4)


def checkpoint_bytes(recipe: Recipe, parameters: int) -> int:
    """Returns the bytes of a checkpoint.

    Args:
        recipe: of the run.
        parameters: of the model.
    """
    return parameters * bytes_per_parameter(recipe.training) - saved_bytes(recipe, parameters)


def measured_inputs(ledger: list[JsonRow], metrics: list[JsonRow] | StepTable, name: str) -> dict[str, Input]:
    """Returns what a run's own rows say about stall, write, restart and speed, as far as they do.

    Args:
        ledger: rows of ledger.jsonl.
        metrics: rows of metrics.jsonl, or its steps.
        name: name of the run, for the source.
    """
    histories = read_history(ledger, metrics)
    saves = [event for event in ledger if event.get("event") == "save"]
    starts = [float(h.steps.begin[0]) - h.started for h in histories if len(h.steps) and h.started is not None]
    worlds = [world for event in ledger if event.get("event") == "start" and (world := finite(event, "world_size"))]
    stayed = [h.steps[~h.steps.lost & (h.steps.seconds > 0)] for h in histories if len(h.steps)]
    seconds = np.concatenate([np.zeros(0), *(steps.seconds for steps in stayed)])
    rates = np.concatenate([np.zeros(0), *(steps.tokens_per_second for steps in stayed)])
    known = ~np.isnan(rates)
    found = {
        "stall_seconds": [stall_seconds(event) for event in saves],
        # write_s counts from the beginning of the stall; where a save names none, the training waited for all of it.
        "write_seconds": [max(0.0, (finite(event, "write_s") or 0.0) - stall_seconds(event)) for event in saves],
        "restart_seconds": [max(0.0, wait) for wait in starts if not math.isnan(wait)],
    }
    result = {
        option: Input(sum(values) / len(values), "measured", f"mean of {len(values)} in {name}")
        for option, values in found.items()
        if values
    }
    # Robust, because a single slow step (a save, an evaluation) is not the spread of the others.
    if len(seconds) >= STEPS_FOR_SPREAD:
        middle = np.median(seconds)
        spread = float(NORMAL * np.median(np.abs(seconds - middle)) / middle)
        result["spread"] = Input(spread, "measured", f"robust deviation of {len(seconds)} steps in {name}")
    if known.any() and worlds:
        rate = float(rates[known] @ seconds[known] / seconds[known].sum()) / worlds[-1]
        result["tokens_per_second_per_gpu"] = Input(
            rate, "measured", f"mean of {known.sum()} steps on {int(worlds[-1])} ranks in {name}"
        )
    return result


def forecast(
    recipe: Recipe, cluster: ClusterShape, inputs: dict[str, Input], parameters: int, length: int | None = None
) -> Forecast:
    """Plans a run.

    Args:
        recipe: checked recipe.
        cluster: nodes and GPUs to run on.
        inputs: figures by option, which replace DEFAULTS; `tokens_per_second_per_gpu` takes precedence over `mfu`.
        parameters: number of parameters of the model.
        length: tokens in a row where the recipe does not say it; None: the model's longest.

    Raises:
        ConfigError: the batch does not divide over the GPUs, the device's peak is needed and not known, or no time is left to train.
    """
    training, gpus = recipe.training, cluster.gpus
    require_divisible(recipe, gpus)
    used = {**{name: value for name, value in DEFAULTS.items() if name != "mfu"}, **inputs}
    peak = peak_flops(cluster.device)
    if "tokens_per_second_per_gpu" not in used and peak is None:
        raise ConfigError(
            f"--device {cluster.device}: its peak is not known ({', '.join(PEAKS)} are); give --tokens-per-second-per-gpu."
        )
    # mfu is only assumed where it is used, so that the printed inputs are those of the result.
    if "tokens_per_second_per_gpu" not in used:
        used.setdefault("mfu", DEFAULTS["mfu"])
    length = length or recipe.model.max_position_embeddings
    phases = [_of_phase(recipe, phase, used, peak, gpus) for phase in with_lengths(phases_of(recipe), length)]
    tokens, seconds = sum(p.tokens for p in phases), sum(p.tokens / p.tokens_per_second for p in phases)
    flops = sum(p.tokens * p.flops_per_token for p in phases) / tokens
    # Failures are independent, so n nodes fail n times as often as one.
    mtbf = used["mtbf_node_hours"].value * 3600 / cluster.nodes
    rate, days = tokens / seconds, seconds / 86400
    step_s = seconds / training.max_steps if recipe.phases else phases[0].step_s
    costs = interval_costs(used, mtbf)

    # Whole steps: a run saves after a step, never within one.
    def choice(seconds: float, steps: int | None = None) -> IntervalPlan:
        steps = steps or min(training.max_steps, max(1, round(seconds / step_s)))
        goodput = expected_efficiency(steps * step_s, **costs)
        return IntervalPlan(seconds, steps, goodput, days / goodput if goodput > 0 else float("inf"))

    every = recipe.checkpoint.every_steps
    choices = {
        "recipe": choice(every * step_s, every),
        "young": choice(young(costs["stall_s"], mtbf)),
        "daly": choice(daly(costs["stall_s"], mtbf)),
        "best": choice(best_interval(**costs)),
    }
    return Forecast(
        parameters=parameters,
        tokens=tokens,
        flops_per_token=flops,
        total_flops=flops * tokens,
        tokens_per_second=rate,
        mfu=rate * flops / (peak * gpus) if peak is not None else None,
        step_s=step_s,
        days_without_faults=days,
        checkpoint_bytes=checkpoint_bytes(recipe, parameters),
        mtbf_s=mtbf,
        failures=choices["recipe"].days * 86400 / mtbf,
        choices=choices,
        inputs=used,
        phases=phases if recipe.phases else [],
        sequence_length=length,
        activation_bytes=max(p.activation_bytes for p in phases),
    )


def _of_phase(recipe: Recipe, phase: Phase, used: dict[str, Input], peak: float | None, gpus: int) -> PhaseForecast:
    """Plans one phase, or a run that has none.

    Args:
        recipe: of the run.
        phase: of it, with its row length.
        used: figures by option.
        peak: of the device, FLOP/s; None where it is not known.
        gpus: of the job.
    """
    length = phase.sequence_length
    assert length is not None
    all_flops, tokens = flops_and_tokens_of(recipe, phase)
    flops = all_flops / tokens
    if "tokens_per_second_per_gpu" in used:
        rate = used["tokens_per_second_per_gpu"].value * gpus
    else:
        assert peak is not None
        rate = used["mfu"].value * peak / flops * gpus
    activations = sum(activation_parts(recipe, phase, phase.micro_batch_size).values())
    step_s = phase.global_batch_size * length / rate
    return PhaseForecast(
        phase.steps, length, phase.micro_batch_size, tokens, flops, rate, step_s, tokens / rate / 86400, activations
    )


def interval_costs(inputs: dict[str, Input], mtbf_s: float) -> dict[str, Any]:
    """Returns the arguments of `expected_efficiency`, without the interval.

    Raises:
        ConfigError: no time is left to train.
    """
    restart, hours = inputs["restart_seconds"].value, inputs["time_limit_hours"].value
    limit = hours * 3600 - SIGNAL_LEAD_S - restart if hours > 0 else float("inf")
    if limit <= 0:
        raise ConfigError(
            f"--time-limit-hours {hours:g}: {restart:g} s to start and {SIGNAL_LEAD_S:g} s from the signal to the limit leave no time "
            "to train; give a longer limit, or 0 for none."
        )
    return {
        "stall_s": inputs["stall_seconds"].value,
        "write_s": inputs["write_seconds"].value,
        "restart_s": restart + inputs["queue_seconds"].value,
        "mtbf_s": mtbf_s,
        "limit_s": limit,
    }
