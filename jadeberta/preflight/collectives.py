"""Times all-reduce and all-gather in the process group that is up, within a given time, and the matrix product of one device."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from jadeberta.preflight.results import Line

TRIPS = {"all_reduce": 2, "all_gather": 1}
"""How often the data goes around the ring."""

SIZES = (8, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20)
"""Bytes of a message: the first shows the latency, the third a bandwidth; a larger one is only tried where it fits into the time."""
MANDATORY = 2
LARGEST_ON_CPU = 64 << 20
ROUNDS = 20
"""A size is timed at most so often."""
WINDOWS = 3
"""The best of some windows is a device's own speed: what disturbs it once does not count, what slows it down for good is in all."""

Points = list[tuple[int, float]]


def time_collective(collective: str, device: torch.device, seconds: float) -> tuple[Points, Points]:
    """Seconds by bytes of message, of the best and of the median round. All ranks of the group call it alike.

    Args:
        collective: all_reduce or all_gather; the bytes of the latter are those of the gathered whole.
        device: where the message lies.
        seconds: that it may take, about.
    """
    best, typical = [], []
    ranks = dist.get_world_size()
    share, last = seconds / len(SIZES), 0.0
    for number, size in enumerate(SIZES):
        if size > LARGEST_ON_CPU and device.type == "cpu":
            break
        if number > MANDATORY and last * size / SIZES[number - 1] > share:
            break
        numbers = max(ranks, size // 4 // ranks * ranks)
        message = torch.ones(numbers, device=device)
        part = message[: numbers // ranks].clone()

        def once(message: torch.Tensor = message, part: torch.Tensor = part) -> None:
            if collective == "all_reduce":
                dist.all_reduce(message, dist.ReduceOp.MAX)
            else:
                dist.all_gather_single(message, part)

        _timed(once, device)  # connects, allocates
        first = _slowest(_timed(once, device), device)
        times = [_timed(once, device) for _ in range(max(3, min(ROUNDS, int(share / max(first, 1e-6)))))]
        best.append((numbers * 4, min(times)))
        typical.append((numbers * 4, statistics.median(times)))
        last = first
    return best, typical


def _timed(once: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    once()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _slowest(seconds: float, device: torch.device) -> float:
    """The longest of all ranks' times, so that all decide the same about it."""
    told = torch.tensor(seconds, device=device, dtype=torch.float32)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return float(told)


def gemm_rates(device: torch.device, seconds: float) -> list[float]:
    """FLOP/s of a square matrix product in each of some windows: bf16 on a GPU, fp32 on a CPU.

    Args:
        device: of this rank.
        seconds: of all windows together, after a warm-up.
    """
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)

    def batch(count: int) -> float:
        def multiply() -> None:
            for _ in range(count):
                torch.mm(a, b, out=out)

        return _timed(multiply, device)

    batch(3)  # loads the library, raises the clocks
    window = seconds / WINDOWS
    count = max(1, int(window / 8 / max(batch(3) / 3, 1e-6)))
    rates = []
    for _ in range(WINDOWS):
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < window:
            batch(count)
            done += count
        rates.append(done * 2 * size**3 / (time.perf_counter() - began))
    return rates


def fit(collective: str, ranks: int, points: Sequence[tuple[int, float]]) -> Line | None:
    """The line through the smallest and the largest message, where latency and bandwidth show alone; None for one rank.

    Args:
        collective: all_reduce or all_gather.
        ranks: N.
        points: S in bytes and seconds, in rising order of S, at least two.
    """
    if ranks < 2 or len(points) < 2:
        return None
    (small, short), (large, long) = points[0], points[-1]
    steps = TRIPS[collective] * (ranks - 1)
    # A large message that seems no slower than the small one was only timed too coarsely.
    seconds_per_byte = max(long - short, long * 1e-3) / (large - small)
    latency = max(0.0, short - seconds_per_byte * small) / steps
    return Line(ranks, list(points), latency, steps / ranks / seconds_per_byte)
