"""The measurements of a finished point: medians over its steps, from metrics, ledger and preflight. Pure functions of their rows."""

import statistics
from dataclasses import dataclass
from typing import Any

from jadeberta.scaling.points_dir import LOG
from jadeberta.status.attempts import read_history, stall_seconds
from jadeberta.training.guard import NORMAL
from jadeberta.utils.json_lines import JsonRow, finite


@dataclass(frozen=True)
class Measured:
    """Medians over the steps of a point after its warm-up; times in seconds."""

    steps: int
    """Number of measured steps."""
    step_s: float
    data_s: float
    communication_s: float
    """Communication that compute does not hide, on rank 0."""
    tokens_per_second: float
    mfu: float | None
    spread: float
    """Robust standard deviation (from the median absolute deviation) of the step time."""
    stall_s: float
    """Mean time that a save stalled the training."""
    memory_bytes: int | None
    """Peak memory of rank 0, of its GPU or else of the host."""
    on_gpu: bool

    @property
    def compute_s(self) -> float:
        """The rest of the step: forward, backward, update."""
        return max(0.0, self.step_s - self.data_s - self.communication_s)


def measure(ledger: list[JsonRow], metrics: list[JsonRow], warm_up: int) -> Measured | None:
    """The medians of the last attempt's steps; None where there are none after the warm-up.

    Args:
        ledger, metrics: rows of the point's run.
        warm_up: steps at the beginning of the attempt that are left out.
    """
    attempts = [attempt for attempt in read_history(ledger, metrics) if len(attempt.steps)]
    if not attempts:
        return None
    steps = attempts[-1].steps[warm_up:]
    trained = [metrics[place] for place in steps.place[~steps.lost]]
    rows = [row for row in trained if finite(row, "step_s") and finite(row, "communication_s") is not None]
    if not rows:
        return None

    def median(key: str) -> float:
        return statistics.median(finite(row, key) or 0.0 for row in rows)

    step_s = median("step_s")
    saves = [stall_seconds(event) for event in attempts[-1].events if event.get("event") == "save"]
    ends = [event for event in attempts[-1].events if event.get("event") == "done"]
    starts = [event for event in attempts[-1].events if event.get("event") == "start"]
    memory = finite(ends[-1], "peak_memory_bytes") if ends else None
    return Measured(
        steps=len(rows),
        step_s=step_s,
        data_s=median("data_wait_s"),
        communication_s=median("communication_s"),
        tokens_per_second=median("tokens_per_second"),
        mfu=median("mfu") if finite(rows[0], "mfu") is not None else None,
        spread=NORMAL * statistics.median(abs((finite(row, "step_s") or 0.0) - step_s) for row in rows),
        stall_s=statistics.fmean(saves) if saves else 0.0,
        memory_bytes=None if memory is None else int(memory),
        on_gpu=any(str(event.get("device", "")).startswith("cuda") for event in starts),
    )


def warnings_of(preflight: dict[str, Any]) -> list[str]:
    """Faults that preflight found in the allocation; an empty report means that it did not finish."""
    if not preflight:
        return [f"it did not finish, so that nothing is predicted; {LOG} tells why"]
    unfit = preflight.get("unfit") or {}
    hosts = [f"{host}: {reason}" for host, reasons in unfit.items() for reason in reasons]
    return hosts + [str(fault) for fault in preflight.get("common") or []]
