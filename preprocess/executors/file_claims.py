"""Decides what a process of a pool does next, from nothing but the names of the files in a call's folder.

`00017.claim-2`: attempt 2 at task 17 was begun. `00017.failed-2`: it ended with an error. `00017.done`: the task is done.
"""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, field


@dataclass
class TaskState:
    """State of one task by the files of its call."""

    attempt: int = -1
    """Number of the newest attempt; -1: nobody has claimed the task."""
    failures: set[int] = field(default_factory=set)
    """Attempts that ended with an error."""
    done: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do next in a call."""

    kind: str
    """done, failed (raise the error of `task` and `attempt`), claim (`task` as `attempt`), or wait."""
    task: int = -1
    attempt: int = -1


def read_states(names: Iterable[str], count: int) -> list[TaskState]:
    """Returns the states of a call's `count` tasks from the names of the files in its folder; other names are ignored."""
    states = [TaskState() for _ in range(count)]
    for name in names:
        if found := re.fullmatch(r"(\d{5,})\.(?:(done)|claim-(\d+)|failed-(\d+))", name):
            state = states[int(found[1])]
            state.done |= found[2] is not None
            if found[3] is not None:
                state.attempt = max(state.attempt, int(found[3]))
            if found[4] is not None:
                state.failures.add(int(found[4]))
    return states


def unclaimed(states: list[TaskState], after: Decision, unready: Set[int]) -> list[Decision]:
    """Returns the claims that a process may try after another one, without a new look at the folder: of tasks that nobody has begun.

    Args:
        states: of all tasks.
        after: the claim before.
        unready: tasks that cannot be begun yet.
    """
    rest = ((number, states[number]) for number in range(after.task + 1, len(states)))
    return [
        Decision("claim", number, 0) for number, state in rest if state.attempt < 0 and not state.done and number not in unready
    ]


def decide(
    states: list[TaskState], forgiven: Set[tuple[int, int]], dead: Set[int] = frozenset(), unready: Set[int] = frozenset()
) -> Decision:
    """Decides what a process does next: an error of another process ends the call, else it claims the first task that nobody holds.

    Args:
        states: of all tasks.
        forgiven: failed attempts (task, attempt) from before this process joined, which may be tried again.
        dead: tasks whose holder is dead.
        unready: tasks that cannot be begun yet.
    """
    open_ = [(number, state) for number, state in enumerate(states) if not state.done]
    if not open_:
        return Decision("done")
    # Errors first: the call has failed, so no further task is begun.
    for number, state in open_:
        if state.attempt in state.failures and (number, state.attempt) not in forgiven:
            return Decision("failed", number, state.attempt)
    for number, state in open_:
        if number not in unready and (state.attempt < 0 or state.attempt in state.failures or number in dead):
            return Decision("claim", number, state.attempt + 1)
    return Decision("wait")
