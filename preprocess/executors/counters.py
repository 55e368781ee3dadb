"""What one rank has done so far: plain numbers that the stages add to, and that other threads may read at any time."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

Piece_contra = TypeVar("Piece_contra", contravariant=True)
FOR_ALL = "what one rank does for all"
WINDOW_SECONDS = 60.0
"""Rates are those of about the last minute."""


class Weigh(Protocol[Piece_contra]):
    """How long a piece takes as against the others of its call."""

    def __call__(self, piece: Piece_contra, /) -> float: ...


@dataclass
class State:
    """One rank at one moment, as it is written for others to read."""

    stage: str = ""
    call: int = 0
    """The how manieth piece of shared work of the stage this is, from 1."""
    pieces: int = 0
    weight: float = 0.0
    """Of all pieces of the call."""
    pieces_done: int = 0
    weight_done: float = 0.0
    """By this rank."""
    piece: str = ""
    """What it works on; empty: nothing."""
    piece_weight_done: float = 0.0
    """Of the piece that it works on."""
    piece_seconds: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)
    """documents, sentences and bytes of text in this stage."""
    rates: dict[str, float] = field(default_factory=dict)
    """The same a second."""
    call_seconds: float = 0.0


class Account:
    """The work of one rank, kept while it works."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state, self._weights = State(), list[float]()
        self._current = self._weight_in_piece = 0.0
        self._call_began = self._piece_began = clock()
        self._counts: Counter[str] = Counter()
        self._marks: deque[tuple[float, dict[str, float]]] = deque()

    def open_stage(self, stage: str) -> None:
        """Another stage begins; counts start from 0."""
        self._state, self._counts = State(stage), Counter()
        self._marks.clear()

    def open_call(self, weights: list[float]) -> None:
        """Shared work begins, on pieces of such weights."""
        self._weights, self._call_began = weights, self._clock()
        self._state = State(self._state.stage, self._state.call + 1, len(weights), sum(weights))

    def alone(self, begins: bool = True) -> None:
        """Work that one rank does for all begins, or ends."""
        self._state.piece, self._current, self._weight_in_piece = FOR_ALL if begins else "", 0.0, 0.0
        self._piece_began = self._clock()

    def begin(self, number: int, name: str) -> None:
        """Work on a piece begins."""
        self._current, self._weight_in_piece, self._piece_began = self._weights[number], 0.0, self._clock()
        self._state.piece = name

    def end(self) -> None:
        """The piece is done."""
        state = self._state
        state.piece, self._weight_in_piece = "", 0.0
        state.pieces_done, state.weight_done = state.pieces_done + 1, state.weight_done + self._current

    def count(self, documents: int = 0, sentences: int = 0, bytes: int = 0, weight: float | None = None) -> None:
        """Adds what was just done; `weight`, of the piece that is worked on, is that of its bytes where it is not given."""
        self._counts.update(documents=documents, sentences=sentences, bytes=bytes)
        self._weight_in_piece += bytes if weight is None else weight

    def state(self) -> State:
        """This rank now."""
        now, counts = self._clock(), {name: float(n) for name, n in self._counts.items()}
        self._marks.append((now, counts))
        while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW_SECONDS:
            self._marks.popleft()
        then, before = self._marks[0]
        span = now - then
        taken = asdict(self._state) | {
            "counts": counts,
            "rates": {name: (n - before.get(name, 0)) / span for name, n in counts.items()} if span > 0 else {},
            "call_seconds": now - self._call_began,
        }
        if taken["piece"]:
            done = min(self._weight_in_piece, self._current)
            taken |= {"piece_weight_done": done, "piece_seconds": now - self._piece_began}
        return State(**taken)


def state_of(row: dict[str, Any]) -> State:
    """A state as it was read from a file; keys of other versions are passed over."""
    known = State.__dataclass_fields__
    return State(**{key: value for key, value in row.items() if key in known})
