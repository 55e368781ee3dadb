"""The rows of a scaling report: each point of each series with its efficiency and its prediction. Pure functions."""

from dataclasses import dataclass
from typing import Any

from jadeberta.plan.step_time import NO_NETWORK, RankWork, StepTime, network_of, predict, traffic
from jadeberta.scaling.measurements import Measured
from jadeberta.scaling.points import Point, Series


@dataclass(frozen=True)
class Row:
    """One line of the report; the fields are its columns."""

    mode: str
    zero: int
    nodes: int
    ranks: int
    micro_batch: int
    accumulation: int
    global_batch: int
    tokens_per_second: float | None
    """The measured columns are None for a point that has not been measured."""
    efficiency: float | None
    """Tokens/s of a rank as a share of those at the smallest size of the series."""
    step_s: float | None
    compute_s: float | None
    communication_s: float | None
    data_s: float | None
    save_s: float | None
    """Stall of a save, shared out over the steps between two saves of the recipe; not part of step_s."""
    mfu: float | None
    memory_bytes: int | None
    predicted_step_s: float | None
    """None without preflight's constants, or without a smaller point."""
    predicted_compute_s: float | None
    predicted_communication_s: float | None
    """With what the slowest rank is waited for, which a measurement cannot tell apart."""
    error: float | None
    """Predicted over measured, less 1."""


@dataclass(frozen=True)
class Found:
    """What is known of a point."""

    measured: Measured | None
    constants: dict[str, Any]
    """Of its preflight; empty where there are none."""


def rows_of(
    series: Series, found: dict[Point, Found], parameters: int, precision: str, overlap: bool, save_every_steps: int
) -> list[Row]:
    """The rows of a series, smallest first.

    Args:
        series: its points.
        found: by point.
        parameters: of the model, tied ones once.
        precision: bf16 or fp32.
        overlap: DeepSpeed communicates beside the backward pass where it can.
        save_every_steps: of the recipe.
    """
    base = next((point for point in series.points if found[point].measured is not None), None)
    rows = []
    for point in series.points:
        measured = found[point].measured
        predicted = None if base is None else forecast(point, base, found, parameters, precision, overlap)
        predicted_s = None if predicted is None else predicted.step_s
        rate = None if measured is None else measured.tokens_per_second / point.ranks
        rows.append(
            Row(
                mode=series.mode,
                zero=point.zero,
                nodes=point.nodes,
                ranks=point.ranks,
                micro_batch=point.micro_batch_size,
                accumulation=point.accumulation,
                global_batch=point.global_batch_size,
                tokens_per_second=None if measured is None else measured.tokens_per_second,
                efficiency=None if rate is None or base is None else rate / _rate(base, found),
                step_s=None if measured is None else measured.step_s,
                compute_s=None if measured is None else measured.compute_s,
                communication_s=None if measured is None else measured.communication_s,
                data_s=None if measured is None else measured.data_s,
                save_s=None if measured is None else measured.stall_s / save_every_steps,
                mfu=None if measured is None else measured.mfu,
                memory_bytes=None if measured is None else measured.memory_bytes,
                predicted_step_s=predicted_s,
                predicted_compute_s=None if predicted is None else predicted.compute_s,
                predicted_communication_s=None if predicted is None else predicted.communication_s + predicted.stragglers_s,
                error=None if measured is None or predicted_s is None else predicted_s / measured.step_s - 1,
            )
        )
    return rows


def forecast(
    point: Point, base: Point, found: dict[Point, Found], parameters: int, precision: str, overlap: bool
) -> StepTime | None:
    """The step of a point from the compute of the smallest point and preflight's constants of its own allocation.

    Compute goes by the ratio of the two allocations' matrix-product rates, so that slower devices, or cores that ranks share, count.
    None where a constant is missing. The update is part of the micro-batches' time: it is too small to be told apart.
    """
    of_base, constants = found[base].measured, found[point].constants
    assert of_base is not None
    network = NO_NETWORK if point.ranks == 1 else network_of(constants)
    had, has = (each.get("gemm_flops_per_second_per_rank") for each in (found[base].constants, constants))
    if network is None or not had or not has:
        return None
    # A single rank talks to nobody: what its collectives take is work of its own.
    computing = of_base.compute_s + (of_base.communication_s if base.ranks == 1 else 0.0)
    share = point.accumulation * point.micro_batch_size / (base.accumulation * base.micro_batch_size)
    work = RankWork(
        micro_batch_s=computing / base.accumulation * had / has,
        accumulation=point.accumulation,
        data_s=of_base.data_s * share,
        spread=of_base.spread / computing if computing else 0.0,
        measured_ranks=base.ranks,
    )
    sent = traffic(parameters, point.zero, precision, point.accumulation)
    return predict(work, sent, point.ranks, network, overlap and of_base.on_gpu and point.zero >= 2)


def _rate(base: Point, found: dict[Point, Found]) -> float:
    measured = found[base].measured
    assert measured is not None
    return measured.tokens_per_second / base.ranks
