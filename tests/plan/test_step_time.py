"""The model of a step: the ring against a simulation hop by hop, the slowest rank against random numbers, what DeepSpeed's stages send."""

import random

import pytest

from jadeberta.plan.step_time import (
    NO_NETWORK,
    SMALL_REDUCTIONS,
    Network,
    RankWork,
    Ring,
    expected_maximum,
    network_of,
    predict,
    traffic,
    update_seconds,
)

RING = Ring(latency_s=1e-3, bandwidth_bytes_per_s=1e6)
NETWORK = Network(RING, RING)


def ring_by_hops(size: float, ranks: int, ring: Ring) -> float:
    """Seconds of an all-reduce, played hop by hop: in each all ranks at once send one of N parts to their neighbour."""
    seconds = 0.0
    sums = [[{rank} for _ in range(ranks)] for rank in range(ranks)]  # [rank][part]: whose numbers are in it
    for hop in range(2 * (ranks - 1)):
        reduces = hop < ranks - 1
        sent = [(rank, (rank - hop) % ranks) for rank in range(ranks)]
        arriving = [((rank + 1) % ranks, part, set(sums[rank][part])) for rank, part in sent]
        for rank, part, numbers in arriving:
            sums[rank][part] = sums[rank][part] | numbers if reduces else numbers
        seconds += ring.latency_s + size / ranks / ring.bandwidth_bytes_per_s
    assert all(part == set(range(ranks)) for rank in sums for part in rank)
    return seconds


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_an_all_reduce_costs_what_its_hops_cost(ranks) -> None:
    assert RING.all_reduce(4e6, ranks) == pytest.approx(ring_by_hops(4e6, ranks, RING))
    assert RING.pass_round(4e6, ranks) == pytest.approx(ring_by_hops(4e6, ranks, RING) / 2)


def test_a_ring_of_one_costs_nothing_and_a_large_one_twice_the_message() -> None:
    assert RING.all_reduce(4e6, 1) == 0
    assert Ring(0, 1e6).all_reduce(4e6, 10_000) == pytest.approx(2 * 4, rel=1e-3)


@pytest.mark.parametrize("ranks", [2, 4, 8, 32])
def test_the_slowest_of_some_ranks_is_as_slow_as_random_numbers_say(ranks) -> None:
    generator = random.Random(5)
    tried = 20_000
    mean = sum(max(generator.gauss(0, 1) for _ in range(ranks)) for _ in range(tried)) / tried
    assert expected_maximum(ranks) == pytest.approx(mean, abs=0.03)
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)


def test_a_step_is_the_sum_of_its_parts() -> None:
    work = RankWork(micro_batch_s=0.5, accumulation=4, update_s=0.8, data_s=0.1, spread=0.05)
    time = predict(work, traffic(1000, 1, "bf16", 4), 4, NETWORK)
    assert time.compute_s == pytest.approx(4 * 0.5 + 0.8 / 4)
    assert time.communication_s == pytest.approx(3 * RING.pass_round(2000, 4) + SMALL_REDUCTIONS * RING.all_reduce(0, 4))
    assert time.stragglers_s == pytest.approx(0.05 * 2.0 * expected_maximum(4))
    assert time.step_s == pytest.approx(time.compute_s + time.communication_s + time.stragglers_s + 0.1)


def test_a_single_rank_only_computes() -> None:
    time = predict(RankWork(0.5, 4, data_s=0.1, spread=0.2), traffic(10**9, 3, "fp32", 4), 1, NO_NETWORK)
    assert time.step_s == pytest.approx(2.1) and time.communication_s == 0 and time.stragglers_s == 0


def test_ranks_that_were_measured_together_have_waited_for_their_slowest_already() -> None:
    work = RankWork(1.0, 1, spread=0.1, measured_ranks=8)
    assert predict(work, traffic(0, 1, "bf16", 1), 8, NETWORK).stragglers_s == 0
    more = predict(work, traffic(0, 1, "bf16", 1), 64, NETWORK).stragglers_s
    assert more == pytest.approx(0.1 * (expected_maximum(64) - expected_maximum(8)))


def test_stage_2_reduces_after_every_micro_batch_and_stage_1_once() -> None:
    one, two = traffic(1000, 1, "bf16", 16), traffic(1000, 2, "bf16", 16)
    assert (one.reduced, one.times, one.gathered_at_end) == (2000, 1, 2000)
    assert (two.reduced, two.times, two.gathered_at_end) == (2000, 16, 2000)
    assert traffic(1000, 1, "fp32", 16).reduced == 4000
    slow = [predict(RankWork(0.1, 16), each, 8, NETWORK).communication_s for each in (one, two)]
    assert slow[1] - slow[0] == pytest.approx(15 * RING.all_reduce(2000, 8))


def test_communication_hides_behind_the_backward_pass_only_as_far_as_that_goes() -> None:
    sent = traffic(1_000_000, 2, "bf16", 1)
    each, end = RING.all_reduce(2e6, 8), RING.pass_round(2e6, 8) + SMALL_REDUCTIONS * RING.all_reduce(0, 8)
    hidden = predict(RankWork(100.0, 1), sent, 8, NETWORK, overlap=True).communication_s
    half = predict(RankWork(3.0, 1), sent, 8, NETWORK, overlap=True).communication_s
    assert hidden == pytest.approx(0.05 * each + end)
    assert half == pytest.approx(each - 0.7 * 3.0 * 2 / 3 + end)


def test_the_update_takes_what_the_memory_takes() -> None:
    # reference: AdamW moves about 30 bytes a parameter; an A100 with 40 GB moves 1.555 TB a second.
    assert update_seconds(340_000_000, "NVIDIA A100-SXM4-40GB") == pytest.approx(6.56e-3, rel=1e-2)
    assert update_seconds(340_000_000, "cpu") == 0


def test_preflights_constants_make_the_rings() -> None:
    constants = {
        "latency_s": 1e-4,
        "bandwidth_bytes_per_s": 5e6,
        "all_gather_latency_s": 2e-4,
        "all_gather_bandwidth_bytes_per_s": 6e6,
    }
    assert network_of(constants) == Network(Ring(1e-4, 5e6), Ring(2e-4, 6e6))
    assert network_of({"latency_s": 1e-4, "bandwidth_bytes_per_s": 5e6}) == Network(Ring(1e-4, 5e6), Ring(1e-4, 5e6))
    assert network_of({"latency_s": None, "bandwidth_bytes_per_s": None}) is None and network_of({}) is None
