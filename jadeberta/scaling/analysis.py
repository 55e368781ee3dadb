"""The rows of a scaling report: measurement, efficiency and prediction of each point of each series. Pure functions."""

from dataclasses import dataclass
from typing import Any

from jadeberta.plan.step_time import NO_NETWORK, RankWork, StepTime, network_of, predict, traffic
from jadeberta.scaling.measurements import Measured
from jadeberta.scaling.points import Point, Series


@dataclass(frozen=True)
class ReportRow:
    """One line of the report; the fields are its columns."""

    mode: str
    zero: int
    nodes: int
    ranks: int
    micro_batch: int
    accumulation: int
    global_batch: int
    tokens_per_second: float | None
    """None for a point that has not been measured, like the other measured columns."""
    efficiency: float | None
    """Tokens/s of a rank as a share of those at the smallest size of the series."""
    step_s: float | None
    compute_s: float | None
    communication_s: float | None
    data_s: float | None
    save_s: float | None
    """Stall of a save, shared out over the steps between two saves of the recipe, seconds; not part of step_s."""
    mfu: float | None
    memory_bytes: int | None
    predicted_step_s: float | None
    """Predicted time of a step, seconds; None without the preflight's constants or without a smaller point."""
    predicted_compute_s: float | None
    predicted_communication_s: float | None
    """Predicted communication with the waiting for the slowest rank, which a measurement cannot separate."""
    error: float | None
    """Predicted over measured step time, minus 1."""


@dataclass(frozen=True)
class PointResult:
    """Measurement and preflight constants of a point."""

    measured: Measured | None
    constants: dict[str, Any]
    """Constants of its preflight; empty if there are none."""


def report_rows(
    series: Series, found: dict[Point, PointResult], parameters: int, precision: str, overlap: bool, save_every_steps: int
) -> list[ReportRow]:
    """Builds the rows of a series, smallest point first.

    Args:
        series: the points.
        found: results by point.
        parameters: of the model, tied ones once.
        precision: bf16 or fp32.
        overlap: whether DeepSpeed overlaps communication with the backward pass.
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
            ReportRow(
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
    point: Point, base: Point, found: dict[Point, PointResult], parameters: int, precision: str, overlap: bool
) -> StepTime | None:
    """Predicts the step time of a point from the compute time of the smallest point and the preflight constants of its own allocation.

    The compute time is scaled by the ratio of the matrix-product rates of the two allocations, which accounts for slower devices and shared
    cores. The optimizer update is part of the time of the micro-batches, because it is too small to separate.

    Args:
        point: predicted.
        base: the smallest measured point of the series.
        found: results by point.
        parameters: of the model, tied ones once.
        precision: bf16 or fp32.
        overlap: whether DeepSpeed overlaps communication with the backward pass.

    Returns:
        The prediction, or None if a constant is missing.
    """
    of_base, constants = found[base].measured, found[point].constants
    assert of_base is not None
    network = NO_NETWORK if point.ranks == 1 else network_of(constants)
    had, has = (each.get("gemm_flops_per_second_per_rank") for each in (found[base].constants, constants))
    if network is None or not had or not has:
        return None
    # A single rank does not communicate: the time of its collectives is compute.
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


def _rate(base: Point, found: dict[Point, PointResult]) -> float:
    measured = found[base].measured
    assert measured is not None
    return measured.tokens_per_second / base.ranks
