"""Latency and bandwidth of a collective from timings of some sizes: pure functions.

The model is a message's cost latency + bytes / bandwidth (Hockney, Parallel Computing 20, 1994) over the ring (Patarasuk and Yuan,
J. Parallel Distrib. Comput. 69, 2009; Thakur, Rabenseifner and Gropp, IJHPCA 19, 2005). With N ranks and S bytes:

    all-reduce   2 (N - 1) latency + 2 (N - 1) / N S / bandwidth
    all-gather     (N - 1) latency +   (N - 1) / N S / bandwidth      S: of the gathered whole

A library may take another way for small messages; the latency is then the one that a ring would need to be as fast.
"""

from collections.abc import Sequence

from jadeberta.cluster.preflight.findings import Line

TRIPS = {"all_reduce": 2, "all_gather": 1}
"""How often the data goes around the ring."""


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
