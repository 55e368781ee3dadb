"""Counters of one rank's work: plain numbers that the stages add to, and that other threads may read at any time."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

Task_contra = TypeVar("Task_contra", contravariant=True)
SINGLE_RANK_WORK = "work of one rank for all"
"""Name of what a rank does in `Executor.run_on_root`, in place of a task's name."""
WINDOW_SECONDS = 60.0
"""Rates are averages over about the last minute."""
OLD_KEYS = {"pieces": "tasks", "pieces_done": "tasks_done", "piece": "task"} | {
    f"piece_{name}": f"task_{name}" for name in ("weight_done", "seconds")
}
"""Keys of progress files of earlier versions, old spelling to new; read only."""


class Weigh(Protocol[Task_contra]):
    """A function that says how long a task takes, relative to the others of its call of `map`."""

    def __call__(self, task: Task_contra, /) -> float: ...


@dataclass
class RankState:
    """State of one rank at one moment, as it is written for others to read. A "call" is one call of `Executor.map`."""

    stage: str = ""
    call: int = 0
    """Number of the call within the stage, from 1."""
    tasks: int = 0
    """Number of tasks of the call, all ranks together."""
    weight: float = 0.0
    """Sum of the weights of all tasks of the call."""
    tasks_done: int = 0
    """Number of tasks that this rank has finished."""
    weight_done: float = 0.0
    """Sum of the weights of those."""
    task: str = ""
    """Name of the task that the rank works on; empty: it works on none."""
    task_weight_done: float = 0.0
    """Finished part of that task's weight."""
    task_seconds: float = 0.0
    """Time since that task began."""
    counts: dict[str, float] = field(default_factory=dict)
    """Number of documents, sentences and bytes of text that this rank has done in the stage."""
    rates: dict[str, float] = field(default_factory=dict)
    """Rates of those numbers, a second."""
    call_seconds: float = 0.0
    """Time since the call began."""


class Counters:
    """Counts the work of one rank while it works."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state, self._weights = RankState(), list[float]()
        self._current = self._weight_in_task = 0.0
        self._call_began = self._task_began = clock()
        self._counts: Counter[str] = Counter()
        self._marks: deque[tuple[float, dict[str, float]]] = deque()

    def open_stage(self, stage: str) -> None:
        """Begins another stage; all counts start from 0."""
        self._state, self._counts = RankState(stage), Counter()
        self._marks.clear()

    def open_call(self, weights: list[float]) -> None:
        """Begins a call of `map` on tasks of these weights."""
        self._weights, self._call_began = weights, self._clock()
        self._state = RankState(self._state.stage, self._state.call + 1, len(weights), sum(weights))

    def begin_single_rank_work(self) -> None:
        """Begins work that this rank does for all."""
        self._state.task, self._current, self._weight_in_task = SINGLE_RANK_WORK, 0.0, 0.0
        self._task_began = self._clock()

    def end_single_rank_work(self) -> None:
        """Ends work that this rank did for all."""
        self._state.task = ""

    def begin(self, number: int, name: str) -> None:
        """Begins work on a task, given its number in the call and its name."""
        self._current, self._weight_in_task, self._task_began = self._weights[number], 0.0, self._clock()
        self._state.task = name

    def end(self) -> None:
        """Ends work on the task."""
        state = self._state
        state.task, self._weight_in_task = "", 0.0
        state.tasks_done, state.weight_done = state.tasks_done + 1, state.weight_done + self._current

    def count(self, documents: int = 0, sentences: int = 0, bytes: int = 0, weight: float | None = None) -> None:
        """Adds what was just done.

        Args:
            documents: number of documents.
            sentences: number of sentences.
            bytes: UTF-8 bytes of text.
            weight: how much of the current task's weight this is; None: as much as `bytes`.
        """
        self._counts.update(documents=documents, sentences=sentences, bytes=bytes)
        self._weight_in_task += bytes if weight is None else weight

    def state(self) -> RankState:
        """Returns the state of this rank now; rates are those since the last minute's first call of this function."""
        now, counts = self._clock(), {name: float(n) for name, n in self._counts.items()}
        self._marks.append((now, counts))
        # Keep one mark that is older than the window, so that the rate covers all of it.
        while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW_SECONDS:
            self._marks.popleft()
        then, before = self._marks[0]
        span = now - then
        taken = asdict(self._state) | {
            "counts": counts,
            "rates": {name: (n - before.get(name, 0)) / span for name, n in counts.items()} if span > 0 else {},
            "call_seconds": now - self._call_began,
        }
        if taken["task"]:
            # Weights are estimates: a task may count more than its own.
            done = min(self._weight_in_task, self._current)
            taken |= {"task_weight_done": done, "task_seconds": now - self._task_began}
        return RankState(**taken)


def parse_state(row: dict[str, Any]) -> RankState:
    """Makes a state from the content of a progress file; unknown keys are ignored."""
    known = RankState.__dataclass_fields__
    renamed = {OLD_KEYS.get(key, key): value for key, value in row.items()}
    return RankState(**{key: value for key, value in renamed.items() if key in known})
