"""An honest account of every hour of a run, from its ledger and metrics alone.

Pure functions of plain rows. The parts of the time are disjoint and sum to the wall time; what no row explains is named as such.
Times between two events are read from the wall clock of the host that wrote them; a gap that two hosts' clocks make negative is 0.
"""

from dataclasses import astuple, dataclass, field
from typing import Any

from jadeberta.errors import RequeueRequested, StopRequested
from jadeberta.status.attempts import History, Row, Step, finite, read_history, stall_seconds
from jadeberta.status.downtime import time_between_steps

RECENT_STEPS = 100
"""Steps behind the figures of the present moment."""

PARTS = {
    "productive_s": "steps that stayed",
    "lost_s": "steps that were lost",
    "skipped_s": "steps that were skipped",
    "save_stall_s": "waiting for saves",
    "evaluation_s": "evaluations",
    "startup_s": "starting up",
    "rollback_s": "going back",
    "hang_s": "hanging",
    "down_s": "between two lives",
    "unaccounted_s": "not accounted for",
}
"""The parts that sum to the wall time, by the field of Account that holds them."""


@dataclass
class Life:
    """One process life of a run."""

    number: int
    """Counted from 0."""
    ended: str
    """requeue, stop, hang or done, as it said itself; killed where it said nothing; running where it lives."""
    host: str
    """Where rank 0 ran; empty where no row says."""
    started: float | None
    """Unix time of its first sign of life."""
    last: float | None
    """Unix time of its last sign of life."""
    first_step: int | None
    """Number of the first step that it trained; None where it came to none."""
    last_step: int | None
    """Number of the last step that it trained."""
    failed: bool
    """It ended in a way that nobody asked for: killed, a hang, or numbers that could not be trusted."""
    recovery_s: float | None = None
    """From its last sign of life until the run was again at the furthest step it had reached; None where it is not yet."""


@dataclass
class Account:
    """Where the time of a run went, seconds, and how far it came."""

    wall_s: float = 0.0
    """From the first start to the last sign of life, or to now where the run lives."""
    productive_s: float = 0.0
    """In steps that stayed and changed weights."""
    goodput: float = 0.0
    """productive_s / wall_s."""
    lost_s: float = 0.0
    """In steps that the run went back to before."""
    skipped_s: float = 0.0
    """In steps that stayed but changed no weight, as their numbers were not finite or a spike."""
    save_stall_s: float = 0.0
    """Training stood still for saves, failed ones included, and for the last checkpoint of a life to be safe; what is written beside
    the training is not in it."""
    evaluation_s: float = 0.0
    """In evaluations while training."""
    startup_s: float = 0.0
    """From the start of each life to the beginning of its first step."""
    rollback_s: float = 0.0
    """From the last step before a roll-back to the first after it."""
    hang_s: float = 0.0
    """Nothing moved until the watchdog ended the job."""
    down_s: float = 0.0
    """From the last sign of life of each life to the start of the next: the step it died in, the queue, the launcher."""
    unaccounted_s: float = 0.0
    """The rest: between the steps, and steps in flight when a life ended in order."""
    data_wait_s: float = 0.0
    """Of the time in steps that stayed: waiting for data."""
    steps: int = 0
    """Rows of steps that stayed, skipped ones included."""
    lost_steps: int = 0
    """Rows of steps that did not stay."""
    skipped_steps: int = 0
    """Of the steps that stayed, those that changed no weight."""
    step: int = 0
    """Where the run stands: updates since its beginning."""
    tokens: int = 0
    """Tokens up to there."""
    loss: float | None = None
    """Mean over the last 100 steps that stayed and changed weights."""
    step_s: float | None = None
    """Mean seconds of a step over the last 100 that stayed."""
    tokens_per_second: float | None = None
    """Mean over the time in steps that stayed."""
    mfu: float | None = None
    """Share of the devices' peak, mean over the time in steps that stayed; None where the peak is not known."""
    lives: list[Life] = field(default_factory=list)
    """First to last."""
    failures: int = 0
    """Lives that ended in a way that nobody asked for."""
    recovery_s: list[float | None] = field(default_factory=list)
    """For each life that another followed: seconds until the run was where it had been; None where it is not yet."""
    saves: int = 0
    failed_saves: int = 0
    rollbacks: int = 0
    hangs: list[dict[str, Any]] = field(default_factory=list)
    """rank, host, phase, step and seconds of each, as far as the ledger names them."""

    def parts(self) -> dict[str, float]:
        """Seconds by what they were spent on; disjoint, they sum to wall_s."""
        return {label: getattr(self, name) for name, label in PARTS.items()}


def account(ledger: list[Row], metrics: list[Row], now: float | None = None) -> Account:
    """The account of a run.

    Args:
        ledger: rows of ledger.jsonl, in its order.
        metrics: rows of metrics.jsonl, in its order.
        now: unix time, for a run that lives; its wall time goes up to it.
    """
    histories = read_history(ledger, metrics)
    result = Account()
    for place, history in enumerate(histories):
        _add_life(result, history, histories[place + 1] if place + 1 < len(histories) else None, now)
    standing = [step for history in histories for step in history.steps if not step.lost]
    _add_state(result, histories, standing)
    _add_recoveries(result, histories)
    result.wall_s = sum(result.parts().values())
    result.goodput = result.productive_s / result.wall_s if result.wall_s > 0 else 0.0
    return result


def _add_life(result: Account, history: History, following: History | None, now: float | None) -> None:
    """Adds one life, and the gap after it."""
    ending = history.ending
    ended = "killed" if ending is None else str(ending["event"])
    if following is None and now is not None and ending is None:
        ended = "running"
    asked = (None, StopRequested.exit_status, RequeueRequested.exit_status)
    failed = ended in ("killed", "hang") or (ending is not None and ending.get("status") not in asked)
    begin, end = history.started, history.last
    host = next((str(e["host"]) for e in history.events if e.get("event") != "hang" and e.get("host")), "")
    first, last = (history.steps[0].number, history.steps[-1].number) if history.steps else (None, None)
    result.lives.append(Life(history.life, ended, host, begin, end, first, last, failed))
    result.failures += failed

    gaps = time_between_steps(history)
    spent = [_spent_on_steps(result, step) for step in history.steps]
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
    # Steps are timed by a clock that nobody sets; where the wall clock was set back meanwhile, they are the truth.
    result.unaccounted_s += max(0.0, end - begin - sum(spent) - sum(astuple(gaps)))
    if following is not None and following.started is not None:
        result.down_s += max(0.0, following.started - end)
    elif now is not None and ended == "running":
        result.unaccounted_s += max(0.0, now - end)
    elif now is not None and ended in ("requeue", "hang"):
        result.down_s += max(0.0, now - end)


def _spent_on_steps(result: Account, step: Step) -> float:
    if step.lost:
        result.lost_s += step.seconds
        result.lost_steps += 1
        return step.seconds
    result.steps += 1
    result.data_wait_s += finite(step.row, "data_wait_s") or 0.0
    if step.skipped:
        result.skipped_s += step.seconds
        result.skipped_steps += 1
    else:
        result.productive_s += step.seconds
    return step.seconds


def _add_state(result: Account, histories: list[History], standing: list[Step]) -> None:
    """Adds where the run stands, and its means."""
    end = standing[-1] if standing else None
    if end is not None:
        result.step, result.tokens = end.number, int(finite(end.row, "tokens") or 0)
    for history in histories:
        for event in (e for e in history.events if e.get("event") in ("resume", "rollback", "done")):
            # Where a disk took no metrics, the ledger knows more.
            if (at := finite(event, "step")) is not None and (end is None or _is_after(history.life, event, end)):
                result.step = int(at)
                result.tokens = int(finite(event, "tokens") or result.tokens)
    losses = [v for s in standing if not s.skipped and (v := finite(s.row, "loss")) is not None][-RECENT_STEPS:]
    result.loss = sum(losses) / len(losses) if losses else None
    recent = [s.seconds for s in standing[-RECENT_STEPS:] if s.seconds > 0]
    result.step_s = sum(recent) / len(recent) if recent else None
    result.tokens_per_second = _time_weighted("tokens_per_second", standing)
    result.mfu = _time_weighted("mfu", standing)


def _is_after(life: int, event: Row, step: Step) -> bool:
    if life != step.life:
        return life > step.life
    return step.time is not None and (finite(event, "time") or 0.0) > step.time


def _time_weighted(key: str, steps: list[Step]) -> float | None:
    told = [(value, s.seconds) for s in steps if (value := finite(s.row, key)) is not None and s.seconds > 0]
    return sum(value * seconds for value, seconds in told) / sum(seconds for _, seconds in told) if told else None


def _add_recoveries(result: Account, histories: list[History]) -> None:
    """Adds, for each life that another followed, when the run was where it had been before."""
    furthest = 0
    waiting: list[tuple[Life, int]] = []
    for history, life in zip(histories, result.lives, strict=True):
        for step in history.steps:
            still = []
            for dead, goal in waiting:
                if step.number < goal:
                    still.append((dead, goal))
                    continue
                moment = step.begin if step.number > goal else step.time
                dead.recovery_s = None if moment is None or dead.last is None else max(0.0, moment - dead.last)
            waiting = still
            furthest = max(furthest, step.number)
        waiting.append((life, furthest))
    result.recovery_s = [life.recovery_s for life in result.lives[:-1]]
