"""The device that is measured, and the CPU that stands in for it in a rehearsal: the one file in which the two differ."""

import fcntl
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

AHEAD = 40_000_000
"""Clock cycles that the device waits while the host queues what is timed: 20 ms."""
GIB = 2**30


class Times(NamedTuple):
    """Seconds of one run."""

    device: float
    """From the first to the last piece of work on the device."""
    host: float
    """That the host needed to queue them; where the queue is full it waits for the device."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    model: dict[str, int]
    engine_model: dict[str, Any]
    batch: int
    """Rows of a micro-step."""
    engine_batch: int
    micro_batches: int
    length: int
    rounds: int
    same_bits_model: dict[str, int]
    same_bits_attentions: tuple[str, ...]


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64, "vocab_size": 400}
REAL = Sizes(LARGE, {}, 32, 18, 16, 512, 5, LARGE | {"num_hidden_layers": 2}, ("sdpa", "fused"))
TINY = Sizes(
    SMALL | {"max_position_embeddings": 128},
    {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64},
    2, 1, 2, 128, 2, SMALL | {"max_position_embeddings": 128}, ("sdpa",),
)  # fmt: skip
ROWS_THAT_FIT = 6
"""Rows after which the stand-in has no memory left."""


@dataclass
class Machine:
    """The GPU, or with `rehearse` the CPU."""

    rehearse: bool
    lock: Path | None = None
    """Held while something is timed; None where nobody else times."""
    seconds: float = 1e9
    """That this part has, from now."""
    began: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def sizes(self) -> Sizes:
        """How much is measured; fewer rows where the memory is small, since several models are on the device at once."""
        if self.rehearse:
            return TINY
        batch = 32 if self.total_memory() > 100 * GIB else 16 if self.total_memory() > 60 * GIB else 8
        return REAL if batch == REAL.batch else Sizes(**{**vars(REAL), "batch": batch})

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.rehearse else torch.bfloat16

    def kernel_form(self, attention: str) -> str:
        """The attention, or in a rehearsal what stands in for our kernels, which run on no CPU."""
        return "sdpa" if self.rehearse and attention == "fused" else attention

    def compiled(self, function: Callable[..., Any], whole: bool = True) -> Callable[..., Any]:
        """As the training compiles it; a rehearsal leaves out Inductor alone, which would need a C++ compiler and a minute.

        Args:
            function: to be compiled.
            whole: whether a break of the graph is an error.
        """
        backend = "aot_eager" if self.rehearse else "inductor"
        return torch.compile(function, fullgraph=whole, dynamic=False, backend=backend)

    def left(self) -> float:
        """Seconds until this part is ended."""
        return self.seconds - (time.monotonic() - self.began)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else times meanwhile. The lock goes with the process, also where that is killed."""
        if self.lock is None:
            yield
            return
        with open(self.lock, "ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def timed(self, run: Callable[[], object], ahead: bool = False) -> Times:
        """Seconds of one run.

        Args:
            run: queues the work.
            ahead: whether the device waits until all is queued, so that launches do not count; only for fewer than 1,000 launches, after
                which the queue is full.
        """
        if self.rehearse:
            began = time.perf_counter()
            run()
            took = time.perf_counter() - began
            return Times(took, took)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        if ahead:
            torch.cuda._sleep(AHEAD)
        began = time.perf_counter()
        first.record()
        run()
        last.record()
        host = time.perf_counter() - began
        torch.cuda.synchronize()
        return Times(first.elapsed_time(last) / 1e3, host)

    def synchronize(self) -> None:
        """Waits for the device."""
        if not self.rehearse:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Gives cached memory back, for the processes beside this one."""
        if not self.rehearse:
            torch.cuda.empty_cache()

    def total_memory(self) -> int:
        """Bytes."""
        return 8 * GIB if self.rehearse else int(torch.cuda.get_device_properties(0).total_memory)

    def peak_of(self, run: Callable[[], object], rows: int) -> int:
        """The most bytes that torch holds during a run; the stand-in counts one GiB a row.

        Raises:
            torch.OutOfMemoryError: the memory does not suffice.
        """
        if self.rehearse:
            if rows > ROWS_THAT_FIT:
                raise torch.OutOfMemoryError("no memory is left for the stand-in")
            run()
            return (1 + rows) * GIB
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())


def median_of(times: list[Times]) -> dict[str, float]:
    """Medians in milliseconds, for a row, and the load of the host: host times are too long where more processes run than it has cores."""
    return {
        "device_ms": statistics.median(t.device for t in times) * 1e3,
        "host_ms": statistics.median(t.host for t in times) * 1e3,
        "measured": len(times),
        "load": os.getloadavg()[0],
    }
