"""Who does which piece of a call of a pool, decided from nothing but the names of the files in the call's folder.

`00017.claim-2`: attempt 2 at piece 17 was begun. `00017.failed-2`: it ended with an error. `00017.done`: the piece is done.
"""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, field


@dataclass
class PieceState:
    """What the files of a call say of one piece."""

    attempt: int = -1
    """The newest; -1 where nobody has claimed it."""
    failures: set[int] = field(default_factory=set)
    """Attempts that ended with an error."""
    done: bool = False


@dataclass(frozen=True)
class Step:
    """What to do next in a call."""

    kind: str
    """done, failed (raise the error of `piece` and `attempt`), claim (`piece` as `attempt`), or wait."""
    piece: int = -1
    attempt: int = -1


def read_states(names: Iterable[str], count: int) -> list[PieceState]:
    """The states of a call's pieces from the names of the files in its folder; other names are passed over."""
    states = [PieceState() for _ in range(count)]
    for name in names:
        if found := re.fullmatch(r"(\d{5,})\.(?:(done)|claim-(\d+)|failed-(\d+))", name):
            state = states[int(found[1])]
            state.done |= found[2] is not None
            if found[3] is not None:
                state.attempt = max(state.attempt, int(found[3]))
            if found[4] is not None:
                state.failures.add(int(found[4]))
    return states


def next_step(
    states: list[PieceState], forgiven: Set[tuple[int, int]], dead: Set[int] = frozenset(), unready: Set[int] = frozenset()
) -> Step:
    """What a process does next in a call: an error of now ends it, else it takes the first piece that nobody holds.

    Args:
        states: of all pieces.
        forgiven: failed attempts (piece, attempt) from before this process, which may be made again.
        dead: pieces whose holder is dead.
        unready: pieces that cannot be begun yet.
    """
    open_ = [(number, state) for number, state in enumerate(states) if not state.done]
    if not open_:
        return Step("done")
    for number, state in open_:
        if state.attempt in state.failures and (number, state.attempt) not in forgiven:
            return Step("failed", number, state.attempt)
    for number, state in open_:
        if number not in unready and (state.attempt < 0 or state.attempt in state.failures or number in dead):
            return Step("claim", number, state.attempt + 1)
    return Step("wait")
