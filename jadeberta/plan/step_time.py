"""How long a step takes at a world size: compute, update, data, communication, and waiting for the slowest rank.

Pure functions of plain figures. The cost of a ring is Hockney's model of latency and bandwidth (1994), applied to the ring algorithm
(Patarasuk and Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009), with constants that
`jadeberta preflight` measures. What DeepSpeed sends is counted in tests/training/test_comm_meter.py.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jadeberta.utils.hardware import find_peaks

HIDDEN_SHARE = 0.7
"""Share of a backward pass that overlapped communication can run beside; the last layers' gradients come first. Assumed."""
LEAST_EXPOSED = 0.05
"""Smallest share of overlapped communication that stays exposed: the last bucket has no computation beside it. Assumed."""
BACKWARD_SHARE = 2 / 3
"""Share of the backward pass in a micro-batch's time: it costs twice the forward pass."""
SMALL_REDUCTIONS = 5
"""Most all-reduces of a few numbers in a step: tokens, loss, gradient norm, overflow once or twice."""
UPDATE_BYTES = 30
"""Memory traffic of AdamW for a parameter: gradient, fp32 weight and two moments read, the last three and the bf16 weight written."""


@dataclass(frozen=True)
class Ring:
    """Latency and bandwidth that preflight fits: a ring of N ranks passes on S bytes in (N - 1) (latency + S / (N bandwidth)) seconds."""

    latency_s: float
    """Latency of one hop, seconds."""
    bandwidth_bytes_per_s: float
    """Bandwidth of the slowest hop, bytes/s."""

    def pass_round(self, size: float, ranks: int) -> float:
        """Returns the seconds of an all-gather with a result of `size` bytes, or of a reduce-scatter of as many."""
        return (ranks - 1) * (self.latency_s + size / ranks / self.bandwidth_bytes_per_s)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Returns the seconds of an all-reduce of `size` bytes: a reduce-scatter and an all-gather."""
        return 2 * self.pass_round(size, ranks)


@dataclass(frozen=True)
class Network:
    """Rings of one allocation, by collective."""

    all_reduce: Ring
    all_gather: Ring


@dataclass(frozen=True)
class Traffic:
    """Bytes of payload that the ranks send each other in a step; on the wire a rank sends (N - 1) / N of them, twice for an all-reduce."""

    reduced: float
    """Bytes all-reduced each of the `times`."""
    scattered: float
    """Bytes reduce-scattered each of the `times`."""
    gathered: float
    """Bytes all-gathered each of the `times`."""
    times: int
    """Rounds of communication: one per micro-batch, or one per step."""
    gathered_at_end: float
    """Bytes all-gathered once, after the update."""


def traffic(parameters: int, stage: int, precision: str, accumulation: int) -> Traffic:
    """Returns what DeepSpeed 0.19.8 sends in a step; gradients and weights go in the working precision.

    Stage 1 reduces at the end of the accumulation, stage 2 after every micro-batch, both by all-reduce; stage 3 gathers the weights
    for each forward and backward pass and reduce-scatters after each.

    Args:
        parameters: number of parameters of the model; tied ones count once.
        stage: ZeRO stage, 1 to 3.
        precision: bf16 or fp32.
        accumulation: micro-batches of a rank in a step.
    """
    size = parameters * (2 if precision == "bf16" else 4)
    if stage >= 3:
        return Traffic(reduced=0, scattered=size, gathered=2 * size, times=accumulation, gathered_at_end=0)
    # Stage 1 keeps whole gradients and reduces once; stage 2 drops what it does not own, so it must reduce each time.
    times = 1 if stage < 2 else accumulation
    return Traffic(reduced=size, scattered=0, gathered=0, times=times, gathered_at_end=size)


@functools.cache
def expected_maximum(ranks: int) -> float:
    """Returns the mean of the largest of `ranks` standard normal numbers; 0 for one.

    The integral of 1 - F(x)^n - F(-x)^n over x > 0, F the normal distribution (David and Nagaraja: Order statistics, 2003, section 3.1).
    """
    width, points = 10.0, 4000

    def gap(x: float) -> float:
        below = 0.5 * (1 + math.erf(x / math.sqrt(2)))
        return 1 - below**ranks - (1 - below) ** ranks

    inner = sum(gap(width * k / points) for k in range(1, points))
    return width / points * (inner + (gap(0.0) + gap(width)) / 2)


@dataclass(frozen=True)
class RankWork:
    """Work of one rank in a step, without communication."""

    micro_batch_s: float
    """Forward and backward pass of one micro-batch, seconds."""
    accumulation: int
    update_s: float = 0.0
    """Optimizer update of all parameters, seconds; ZeRO divides them over the ranks."""
    data_s: float = 0.0
    """Wait for the batch, seconds."""
    spread: float = 0.0
    """Standard deviation of a rank's computing time from step to step, as a share of it."""
    measured_ranks: int = 1
    """Number of ranks on which the computing time was measured; it already contains the wait for their slowest."""


@dataclass(frozen=True)
class StepTime:
    """Predicted time of a step by part, seconds."""

    compute_s: float
    """Micro-batches and update."""
    communication_s: float
    """Communication that is not hidden behind computation."""
    stragglers_s: float
    """Wait for the slowest rank."""
    data_s: float

    @property
    def step_s(self) -> float:
        return self.compute_s + self.communication_s + self.stragglers_s + self.data_s


def predict(work: RankWork, sent: Traffic, ranks: int, network: Network, overlap: bool = False) -> StepTime:
    """Predicts the time of one step.

    Args:
        work: what one rank computes.
        sent: what the ranks send each other.
        ranks: world size.
        network: rings of the allocation.
        overlap: whether the communication of a micro-batch runs beside its backward pass (`overlap_comm` on GPUs).
    """
    compute = work.accumulation * work.micro_batch_s + work.update_s / ranks
    each = network.all_reduce.all_reduce(sent.reduced, ranks) if sent.reduced else 0.0
    each += network.all_reduce.pass_round(sent.scattered, ranks) if sent.scattered else 0.0
    each += network.all_gather.pass_round(sent.gathered, ranks) if sent.gathered else 0.0
    # Only what does not fit beside the backward pass is exposed.
    if overlap:
        each = max(each - HIDDEN_SHARE * BACKWARD_SHARE * work.micro_batch_s, LEAST_EXPOSED * each)
    end = network.all_gather.pass_round(sent.gathered_at_end, ranks) if sent.gathered_at_end else 0.0
    small = SMALL_REDUCTIONS * network.all_reduce.all_reduce(0, ranks)
    # The measured time already contains the wait for the slowest of the ranks it was measured on.
    slowest = expected_maximum(ranks) - expected_maximum(work.measured_ranks)
    stragglers = max(0.0, work.spread * work.accumulation * work.micro_batch_s * slowest)
    return StepTime(compute, sent.times * each + end + small, stragglers, work.data_s)


def update_seconds(parameters: int, device: str) -> float:
    """Returns the seconds of the optimizer on all parameters, limited by memory bandwidth; 0 where the device is not known."""
    peaks = find_peaks(device)
    return 0.0 if peaks is None else parameters * UPDATE_BYTES / peaks.memory_bytes_per_s


def network_of(constants: Mapping[str, Any]) -> Network | None:
    """Returns the rings that preflight measured; None where it measured none, as on one rank.

    Args:
        constants: of preflight.json. Where it has no figures of the all-gather, those of the all-reduce count.
    """
    latency, bandwidth = constants.get("latency_s"), constants.get("bandwidth_bytes_per_s")
    if latency is None or not bandwidth:
        return None
    reduce = Ring(float(latency), float(bandwidth))
    latency, bandwidth = constants.get("all_gather_latency_s"), constants.get("all_gather_bandwidth_bytes_per_s")
    gather = Ring(float(latency), float(bandwidth)) if latency is not None and bandwidth else reduce
    return Network(reduce, gather)


NO_NETWORK = Network(Ring(0.0, math.inf), Ring(0.0, math.inf))
"""Network of a single rank, which sends nothing."""
