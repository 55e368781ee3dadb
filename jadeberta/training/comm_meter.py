"""A meter around the collectives of torch.distributed, the loop's and DeepSpeed's: how long a step waits for the other ranks.

It measures exposed communication as one rank sees it: from the call of a collective until the rank goes on, with the wait for slower
ranks. On a GPU that is the compute stream's time, by events on it; what runs beside the computation counts nothing. Without a meter no
function is replaced, and with one no bit of the training changes.
"""

import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

COLLECTIVES = {
    "all_reduce": "all_reduce",
    "reduce": "reduce",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "reduce_scatter_single": "reduce_scatter",
    "all_gather": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "all_gather_single": "all_gather",
    "broadcast": "broadcast",
    "barrier": "barrier",
}
"""Functions of torch.distributed that are measured, and the kind that each counts as."""


@dataclass(frozen=True)
class Communication:
    """What a rank spent in the collectives of one step; the field names are keys of metrics.jsonl."""

    communication_s: float
    """Exposed time, seconds."""
    communication_bytes: dict[str, int]
    """Payload by kind, before it is divided among the ranks: a tensor that is reduced, the whole of what is gathered."""
    communication_calls: dict[str, int]
    """Calls by kind."""


class CollectiveTimer(Protocol):
    """Adds up the times of collectives."""

    def begin(self) -> Any:
        """Marks the call of a collective."""

    def end(self, began: Any) -> None:
        """Marks that the rank goes on; `began` is what `begin` gave."""

    def take(self) -> float:
        """Seconds since the last call."""


class HostTimer:
    """Wall time: on a CPU a collective returns when it is done."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def begin(self) -> float:
        return time.perf_counter()

    def end(self, began: float) -> None:
        self._seconds += time.perf_counter() - began

    def take(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class DeviceTimer:
    """Events on the compute stream, read when the device has passed them: the host never waits for them.

    What a step enqueued after its last wait for the device (the gathering of the weights) has not passed by the step's end and counts
    in the next step.
    """

    def __init__(self, device: torch.device) -> None:
        """Takes the stream that is current now for the compute stream."""
        self.device, self.stream = device, torch.cuda.current_stream(device)
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def begin(self) -> torch.cuda.Event | None:
        """Marks the compute stream; gives None where another stream is current, for which the compute stream does not wait yet."""
        return self._mark() if torch.cuda.current_stream(self.device) == self.stream else None

    def end(self, began: torch.cuda.Event | None) -> None:
        if began is not None:
            self._pending.append((began, self._mark()))

    def take(self) -> float:
        seconds = 0.0
        while self._pending and self._pending[0][1].query():
            began, ended = self._pending.popleft()
            seconds += began.elapsed_time(ended) / 1000
        return seconds

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event


class Stopwatch:
    """Time between two places of a step: on a GPU the compute stream's, read after the host has waited for that stream anyway."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> Any:
        """Marks a place; waits for nothing."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, began: Any, ended: Any) -> float:
        """Returns the seconds between two marks; 0 where the device has not passed the second one."""
        if self._device.type != "cuda":
            return float(ended - began)
        return float(began.elapsed_time(ended)) / 1000 if ended.query() else 0.0


class MeasuredWork:
    """Handle of a collective that runs beside the rank (torch.distributed.Work): only the wait for it counts."""

    def __init__(self, work: Any, timer: CollectiveTimer) -> None:
        self._work, self._timer = work, timer

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Waits as torch's Work does, and counts the time."""
        began = self._timer.begin()
        try:
            return self._work.wait(*arguments, **options)
        finally:
            self._timer.end(began)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


class CommunicationMeter:
    """Measures the collectives of steps until `close`."""

    def __init__(self, device: torch.device) -> None:
        """Replaces the functions; make it before DeepSpeed's engine, which keeps references to some of them."""
        self._counting = False
        self._bytes: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._replaced: list[tuple[Any, str, Any]] = []
        self.timer: CollectiveTimer
        for name, kind in COLLECTIVES.items():
            self._replace(dist, name, functools.partial(self._measured, kind))
        if device.type == "cuda":
            # Where DeepSpeed overlaps, the compute stream waits for a stream of DeepSpeed's, or the host waits for all streams.
            self.timer = DeviceTimer(device)
            self._replace(torch.cuda.Stream, "wait_stream", self._waiting)
            self._replace(torch.cuda, "synchronize", self._waiting)
        else:
            self.timer = HostTimer()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Counts the collectives called within the block; those of saves, evaluations and comparisons lie outside."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def take(self) -> Communication:
        """What this rank spent since the last call."""
        spent = Communication(self.timer.take(), dict(self._bytes), dict(self._calls))
        self._bytes.clear()
        self._calls.clear()
        return spent

    def close(self) -> None:
        """Puts the original functions back."""
        for owner, name, function in self._replaced:
            setattr(owner, name, function)
        self._replaced.clear()

    def _replace(self, owner: Any, name: str, measured: Callable[[Callable], Callable]) -> None:
        function = getattr(owner, name)
        self._replaced.append((owner, name, function))
        setattr(owner, name, measured(function))

    def _measured(self, kind: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def collective(*arguments: Any, **options: Any) -> Any:
            if not self._counting:
                return function(*arguments, **options)
            # The larger of input and output is the whole payload: a gather puts out more than it takes, a scatter takes more.
            self._bytes[kind] += max(map(payload, (*arguments, *options.values())), default=0)
            self._calls[kind] += 1
            began = self.timer.begin()
            try:
                work = function(*arguments, **options)
            finally:
                self.timer.end(began)
            return work if work is None else MeasuredWork(work, self.timer)

        return collective

    def _waiting(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def wait(*arguments: Any, **options: Any) -> Any:
            timer = self.timer
            assert isinstance(timer, DeviceTimer)
            of_another = bool(arguments) and isinstance(arguments[0], torch.cuda.Stream) and arguments[0] != timer.stream
            if not self._counting or of_another:
                return function(*arguments, **options)
            began = timer.begin()
            try:
                return function(*arguments, **options)
            finally:
                timer.end(began)

        return wait


def payload(argument: Any) -> int:
    """Bytes of a tensor or of a list of tensors; 0 for any other argument of a collective."""
    if isinstance(argument, torch.Tensor):
        return argument.numel() * argument.element_size()
    return sum(map(payload, argument)) if isinstance(argument, list | tuple) else 0
