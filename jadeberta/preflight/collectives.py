"""Times all-reduce and all-gather in the current process group, and the matrix product of one device, each within a given time."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from jadeberta.preflight.results import CollectiveFit

TRIPS = {"all_reduce": 2, "all_gather": 1}
"""How many times the data goes around the ring: a ring all-reduce is a reduce-scatter and an all-gather (Thakur et al. 2005)."""

SIZES = (8, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20)
"""Message sizes in bytes. The first shows the latency, the third a bandwidth; a larger one is only timed if it fits into the time."""
MANDATORY = 2
"""Index in SIZES up to which every size is timed."""
LARGEST_ON_CPU = 64 << 20
"""Largest message on CPUs, bytes."""
ROUNDS = 20
"""Most timed rounds of a size."""
WINDOWS = 3
"""Windows of the matrix product. The best one is the device's speed: a passing disturbance is not in it, a lasting one is in all."""

Timings = list[tuple[int, float]]
"""Bytes of a message and seconds."""


def time_collective(collective: str, device: torch.device, seconds: float) -> tuple[Timings, Timings]:
    """Times a collective for growing messages; returns the best and the median round of each size. All ranks of the group must call it.

    Args:
        collective: all_reduce or all_gather; the bytes of the latter are those of the gathered result.
        device: of the message.
        seconds: time limit, approximate.
    """
    best, typical = [], []
    ranks = dist.get_world_size()
    share, last = seconds / len(SIZES), 0.0
    for number, size in enumerate(SIZES):
        if size > LARGEST_ON_CPU and device.type == "cpu":
            break
        if number > MANDATORY and last * size / SIZES[number - 1] > share:
            break
        # A multiple of the number of ranks, because all-gather takes parts of one size.
        numbers = max(ranks, size // 4 // ranks * ranks)
        message = torch.ones(numbers, device=device)
        part = message[: numbers // ranks].clone()

        def once(message: torch.Tensor = message, part: torch.Tensor = part) -> None:
            if collective == "all_reduce":
                dist.all_reduce(message, dist.ReduceOp.MAX)
            else:
                dist.all_gather_single(message, part)

        # The first call connects the ranks and allocates buffers, so it is not counted.
        _timed(once, device)
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
        # The call only queues the work; without waiting for it the clock would show the queueing.
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _slowest(seconds: float, device: torch.device) -> float:
    """The longest time of all ranks, so that all ranks decide alike: a rank with its own number of rounds would wait forever."""
    longest = torch.tensor(seconds, device=device, dtype=torch.float32)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return float(longest)


def gemm_rates(device: torch.device, seconds: float) -> list[float]:
    """Measures the FLOP/s of a square matrix product in each of WINDOWS windows: bf16 on a GPU, fp32 on a CPU.

    Args:
        device: of this rank.
        seconds: of all windows together, after the warm-up.
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


def fit_latency_bandwidth(collective: str, ranks: int, points: Sequence[tuple[int, float]]) -> CollectiveFit | None:
    """Fits latency and bandwidth of a ring (Hockney 1994) to the smallest and the largest message; None for one rank.

    The smallest message shows the latency alone, the largest one the bandwidth.

    Args:
        collective: all_reduce or all_gather.
        ranks: of the group.
        points: bytes and seconds, in ascending order of bytes, at least two.
    """
    if ranks < 2 or len(points) < 2:
        return None
    (small, short), (large, long) = points[0], points[-1]
    steps = TRIPS[collective] * (ranks - 1)
    # If a large message seems no slower than the small one, the clock was too coarse; the bandwidth stays finite.
    seconds_per_byte = max(long - short, long * 1e-3) / (large - small)
    latency = max(0.0, short - seconds_per_byte * small) / steps
    return CollectiveFit(ranks, list(points), latency, steps / ranks / seconds_per_byte)
