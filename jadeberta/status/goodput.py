"""Goodput: where every hour of a run went, from its ledger and metrics alone.

Pure functions of plain rows. The parts of the time are disjoint and sum to the wall time; time that no row explains is named as such.
Times between two events come from the wall clock of the host that wrote them; a gap that two hosts' clocks make negative counts as 0.
"""

from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np

from jadeberta.errors import RequeueRequested, StopRequested
from jadeberta.status.attempts import AttemptHistory, read_history, stall_seconds
from jadeberta.status.downtime import time_between_steps
from jadeberta.status.step_table import LARGEST, Floats, StepTable
from jadeberta.training.watchdog.energy_sums import Energy, energy_of, total
from jadeberta.utils.json_lines import JsonRow, finite, time_of

RECENT_STEPS = 100
"""Number of last steps over which present loss and speed are averaged."""

PARTS = {
    "productive_s": "steps that stayed",
    "lost_s": "steps that were lost",
    "skipped_s": "steps that were skipped",
    "save_stall_s": "waiting for saves",
    "evaluation_s": "evaluations",
    "startup_s": "starting up",
    "rollback_s": "rolling back",
    "hang_s": "hanging",
    "down_s": "between two attempts",
    "unaccounted_s": "not accounted for",
}
"""Labels of the parts that sum to the wall time, by the field of Goodput that holds them."""


@dataclass
class Attempt:
    """One attempt of a run."""

    number: int
    """Number, from 0."""
    ended: str
    """How it ended: the event requeue, stop, hang, lost_rank or done; killed where there is none; running where it still runs."""
    host: str
    """Host of rank 0; empty where no row names it."""
    started: float | None
    """Unix time of its first row."""
    last: float | None
    """Unix time of its last row."""
    first_step: int | None
    """Number of the first step that it trained; None where it trained none."""
    last_step: int | None
    """Number of the last step that it trained."""
    failed: bool
    """Whether it ended by a failure: killed, hung, or with numbers that could not be trusted."""
    gpu_kwh: float | None = None
    """Energy of its GPUs; None where it was not measured."""
    cpu_kwh: float | None = None
    """Energy of the processors and memory of its hosts; None where it was not measured."""
    recovery_s: float | None = None
    """Seconds from its last row until the run was back at the furthest step reached; None where it is not yet."""


@dataclass
class Goodput:
    """Where the time of a run went, in seconds, and how far the run is."""

    wall_s: float = 0.0
    """Time from the first start to the last row, or to now where the run is alive."""
    productive_s: float = 0.0
    """Time in steps that stayed and changed weights."""
    goodput: float = 0.0
    """productive_s / wall_s."""
    lost_s: float = 0.0
    """Time in steps that the run went back to before."""
    skipped_s: float = 0.0
    """Time in steps that stayed but changed no weight, because their numbers were not finite or a spike."""
    save_stall_s: float = 0.0
    """Time for which the training stood still for saves, failed ones included, and until the last checkpoint of an attempt was safe;
    writing in the background is not part of it."""
    evaluation_s: float = 0.0
    """Time in evaluations during the training."""
    startup_s: float = 0.0
    """Time from the start of each attempt to the beginning of its first step."""
    rollback_s: float = 0.0
    """Time from the last step before a roll-back to the first step after it."""
    hang_s: float = 0.0
    """Time without progress until the watchdog ended the job."""
    down_s: float = 0.0
    """Time from the last row of each attempt to the start of the next: the step that it died in, the queue, the launcher."""
    unaccounted_s: float = 0.0
    """The rest: time between the steps, and steps in flight when an attempt ended in order."""
    data_wait_s: float = 0.0
    """Time in steps that stayed during which they waited for data."""
    steps: int = 0
    """Rows of steps that stayed, skipped ones included."""
    lost_steps: int = 0
    """Rows of steps that did not stay."""
    skipped_steps: int = 0
    """Steps that stayed and changed no weight."""
    step: int = 0
    """Number of the newest step that stayed."""
    tokens: int = 0
    """Tokens trained on up to there."""
    loss: float | None = None
    """Mean over the last 100 steps that stayed and changed weights."""
    step_s: float | None = None
    """Mean seconds of the last 100 steps that stayed."""
    tokens_per_second: float | None = None
    """Mean over the time in steps that stayed."""
    mfu: float | None = None
    """Share of the devices' peak, mean over the time in steps that stayed; None where the peak is not known."""
    attempts: list[Attempt] = field(default_factory=list)
    """Attempts, first to last."""
    energy: Energy = field(default_factory=Energy)
    """Of all attempts together, kWh."""
    failures: int = 0
    """Attempts that ended by a failure."""
    recovery_s: list[float | None] = field(default_factory=list)
    """`Attempt.recovery_s` of each attempt that another one followed."""
    saves: int = 0
    failed_saves: int = 0
    rollbacks: int = 0
    hangs: list[dict[str, Any]] = field(default_factory=list)
    """Fields rank, host, phase, step and seconds of each hang; None where the ledger does not have one."""

    def parts(self) -> dict[str, float]:
        """Seconds by what they were spent on; disjoint, they sum to wall_s."""
        return {label: getattr(self, name) for name, label in PARTS.items()}


def compute_goodput(ledger: list[JsonRow], metrics: list[JsonRow] | StepTable, now: float | None = None) -> Goodput:
    """Adds up where the time of a run went.

    Args:
        ledger: rows of ledger.jsonl, in its order.
        metrics: rows of metrics.jsonl in its order, or its steps.
        now: unix time, for a run that is alive: its wall time goes up to it; None for one that is not.
    """
    return goodput_of(read_history(ledger, metrics), now)


def goodput_of(histories: list[AttemptHistory], now: float | None = None) -> Goodput:
    """Adds up where the time of a run went, from its attempts; `now` as in `compute_goodput`."""
    result = Goodput()
    for place, history in enumerate(histories):
        _add_attempt(result, history, histories[place + 1] if place + 1 < len(histories) else None, now)
    standing = [history.standing for history in histories if len(history.steps)]
    _add_state(result, histories, standing)
    _add_recoveries(result, histories)
    # The wall time is the sum of the parts, not a difference of clocks: so the shares add up to 1 whatever the clocks did.
    result.wall_s = sum(result.parts().values())
    result.goodput = result.productive_s / result.wall_s if result.wall_s > 0 else 0.0
    return result


def _add_attempt(result: Goodput, history: AttemptHistory, following: AttemptHistory | None, now: float | None) -> None:
    """Adds one attempt, and the time after it."""
    ending = history.ending
    ended = "killed" if ending is None else str(ending["event"])
    if following is None and now is not None and ending is None:
        ended = "running"
    no_failure = (None, StopRequested.exit_status, RequeueRequested.exit_status)
    failed = ended in ("killed", "hang") or (ending is not None and ending.get("status") not in no_failure)
    begin, end = history.started, history.last
    host = next((str(e["host"]) for e in history.events if e.get("event") != "hang" and e.get("host")), "")
    steps = history.steps
    first, last = (int(steps.number[0]), int(steps.number[-1])) if len(steps) else (None, None)
    used = energy_of(history.events).get(history.attempt, Energy(attempts=1))
    result.energy = total((result.energy, used))
    result.attempts.append(Attempt(history.attempt, ended, host, begin, end, first, last, failed, used.gpu_kwh, used.cpu_kwh))
    result.failures += failed

    gaps = time_between_steps(history)
    _add_steps(result, steps)
    spent = [float(steps.seconds.sum())]
    for event in history.events:
        stall, kind = stall_seconds(event), event.get("event")
        result.evaluation_s += stall if kind == "evaluation" else 0.0
        result.save_stall_s += stall if kind != "evaluation" else 0.0
        spent.append(stall)
        result.saves += kind == "save"
        result.failed_saves += kind == "save_failed"
        result.rollbacks += kind == "rollback"
        if kind == "hang":
            result.hangs.append({key: event.get(key) for key in ("rank", "host", "phase", "step", "seconds")})
    result.startup_s += gaps.startup
    result.rollback_s += gaps.rollback
    result.hang_s += gaps.hang
    result.save_stall_s += gaps.last_save
    if begin is None or end is None:
        return
    # Steps are timed by a monotonic clock; where the wall clock was set back meanwhile, the steps are right.
    result.unaccounted_s += max(0.0, end - begin - sum(spent) - sum(astuple(gaps)))
    if following is not None and following.started is not None:
        result.down_s += max(0.0, following.started - end)
    elif now is not None and ended == "running":
        result.unaccounted_s += max(0.0, now - end)
    # A run that was stopped or is done waits for nobody: only one that is to go on is down.
    elif now is not None and ended in ("requeue", "hang"):
        result.down_s += max(0.0, now - end)


def _add_steps(result: Goodput, steps: StepTable) -> None:
    stayed = ~steps.lost
    skipped, productive = stayed & steps.skipped, stayed & ~steps.skipped
    result.lost_s += float(steps.seconds[steps.lost].sum())
    result.lost_steps += int(steps.lost.sum())
    result.steps += int(stayed.sum())
    result.data_wait_s += float(np.nansum(steps.data_wait_s[stayed]))
    result.skipped_s += float(steps.seconds[skipped].sum())
    result.skipped_steps += int(skipped.sum())
    result.productive_s += float(steps.seconds[productive].sum())


def _add_state(result: Goodput, histories: list[AttemptHistory], standing: list[StepTable]) -> None:
    """Adds how far the run is, and the means of its last steps."""
    end = next((steps[-1:] for steps in reversed(standing) if len(steps)), None)
    if end is not None:
        result.step, result.tokens = int(end.number[0]), int(np.nan_to_num(end.tokens[0]))
    for history in histories:
        for event in (e for e in history.events if e.get("event") in ("resume", "rollback", "done")):
            # Where the disk was full the ledger may have a later step than the metrics.
            # A number beyond is damage, as in metrics.jsonl.
            if (
                (at := finite(event, "step")) is not None
                and abs(at) < LARGEST
                and (end is None or _is_after(history.attempt, event, end))
            ):
                result.step = int(at)
                tokens = finite(event, "tokens") or 0.0
                result.tokens = int(tokens) if 0 < tokens < LARGEST else result.tokens
    result.loss = _mean_of_last([steps.loss[~steps.skipped & ~np.isnan(steps.loss)] for steps in standing], RECENT_STEPS)
    seconds = _last([steps.seconds for steps in standing], RECENT_STEPS)
    result.step_s = float(seconds[seconds > 0].mean()) if np.any(seconds > 0) else None
    result.tokens_per_second = _time_weighted([(steps.tokens_per_second, steps.seconds) for steps in standing])
    result.mfu = _time_weighted([(steps.mfu, steps.seconds) for steps in standing])


def _is_after(attempt: int, event: JsonRow, step: StepTable) -> bool:
    if attempt != step.attempt[0]:
        return bool(attempt > step.attempt[0])
    return bool(time_of(event) > step.time[0])


def _last(columns: list[Floats], count: int) -> Floats:
    """The last `count` values of a column that lies in pieces."""
    found: list[Floats] = []
    for column in reversed(columns):
        if (missing := count - sum(map(len, found))) > 0:
            found.append(column[-missing:])
    return np.concatenate(found[::-1]) if found else np.zeros(0)


def _mean_of_last(columns: list[Floats], count: int) -> float | None:
    last = _last(columns, count)
    return float(last.mean()) if len(last) else None


def _time_weighted(columns: list[tuple[Floats, Floats]]) -> float | None:
    """The mean of a figure over the time in steps, from (figure, seconds) of each piece; None where no step has it."""
    total = weight = 0.0
    for values, seconds in columns:
        known = ~np.isnan(values) & (seconds > 0)
        total += float(values[known] @ seconds[known])
        weight += float(seconds[known].sum())
    return total / weight if weight else None


def _add_recoveries(result: Goodput, histories: list[AttemptHistory]) -> None:
    """Adds to each attempt that another one followed when the run was back where it had been."""
    furthest = 0
    waiting: list[tuple[Attempt, int]] = []
    for history, attempt in zip(histories, result.attempts, strict=True):
        steps, still = history.steps, []
        for dead, goal in waiting:
            reached = np.flatnonzero(steps.number >= goal)
            if not len(reached):
                still.append((dead, goal))
                continue
            first = reached[0]
            moment = float(steps.begin[first] if steps.number[first] > goal else steps.time[first])
            dead.recovery_s = None if np.isnan(moment) or dead.last is None else max(0.0, moment - dead.last)
        waiting = still
        furthest = max(furthest, int(steps.number.max()) if len(steps) else 0)
        waiting.append((attempt, furthest))
    result.recovery_s = [attempt.recovery_s for attempt in result.attempts[:-1]]
