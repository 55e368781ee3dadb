"""The order is a function of seed and step alone: every sample once an epoch, the same batches for any ranks and workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.data.batches import StepDataset, iterate_steps
from jadeberta.data.masking import IGNORED, Masker
from jadeberta.data.sample_order import SampleOrder, derive_key, permute, rank_share
from jadeberta.shards import open as open_shards
from tests.helpers import make_shards

ORDER = SampleOrder.of(7, 12, {"wikipedia": range(0, 10), "cc100": range(10, 33)}, {"wikipedia": 10, "cc100": 1})


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_hits_every_place_once(size, key) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, np.uint64(key))), np.arange(size))


def test_a_permutation_of_a_huge_range_is_evaluated_anywhere_at_once() -> None:
    places = np.asarray([0, 1, 68_000_000_000, 34_359_738_368])
    found = permute(places, 68_000_000_001, derive_key(1))
    assert len(set(found.tolist())) == 4 and found.min() >= 0 and found.max() < 68_000_000_001


def test_neighbours_in_the_order_are_strangers_in_the_corpus() -> None:
    order = permute(np.arange(50_000), 50_000, derive_key(3))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(order)) == 1).mean() < 0.001


def test_every_sample_comes_once_an_epoch_and_wikipedia_ten_times() -> None:
    size = ORDER.epoch_size
    assert size == 10 * 10 + 23
    steps = [ORDER.step(s) for s in range(3 * size // 12 + 1)]
    epochs, samples = (np.concatenate(x) for x in zip(*steps, strict=True))
    for epoch in range(3):
        seen = samples[epochs == epoch]
        assert np.array_equal(np.sort(seen), np.arange(size))
        rows, times = np.unique(ORDER.rows(seen), return_counts=True)
        assert rows.tolist() == list(range(33)) and times.tolist() == [10] * 10 + [1] * 23
    assert not np.array_equal(samples[epochs == 0], samples[epochs == 1])


def test_another_seed_is_another_order() -> None:
    other = SampleOrder(8, 12, ORDER.corpora)
    assert not np.array_equal(ORDER.step(0)[1], other.step(0)[1])


@pytest.mark.parametrize("world_size,micro_batch_size", [(1, 1), (1, 12), (2, 3), (3, 2), (3, 4), (4, 1), (4, 3), (12, 1)])
def test_ranks_share_the_batch_without_gap_or_overlap(world_size, micro_batch_size) -> None:
    shares = [rank_share(12, micro_batch_size, r, world_size) for r in range(world_size)]
    assert np.array_equal(np.sort(np.concatenate([s.ravel() for s in shares])), np.arange(12))
    assert all(s.shape == (12 // world_size // micro_batch_size, micro_batch_size) for s in shares)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), max_size=3),
    st.integers(1, 12),
    st.sets(st.integers(0, 20), max_size=8),
    st.integers(0, 12),
)
def test_a_growing_batch_reads_every_position_once_whatever_is_stepped_over(warmup, last, over, steps) -> None:
    ranges = tuple((n, n + 1) for n in sorted(over))
    order = SampleOrder(7, last, ((0, 10_000, 1),), ranges, tuple(warmup))
    listed = [size for size, times in warmup for _ in range(times)] + [last] * 60
    ends = np.cumsum(listed)
    # Step by step through a list: what is stepped over keeps its place in the order, nobody reads it.
    data_steps = [n for n in range(60) if n not in over][:steps]
    wanted = [order.sample(0, np.arange(ends[n] - listed[n], ends[n])) for n in data_steps]
    found = [order.step(s)[1] for s in range(steps)]
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert order.batch_sizes.before(30) == ends[29] and order.batch_sizes.of_step(29) == listed[29]


def test_what_divides_all_batches_is_their_greatest_common_divisor() -> None:
    assert [BatchSizes(12, w).common for w in ((), ((4, 1),), ((4, 9), (6, 1)), ((5, 1),))] == [12, 4, 2, 1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return open_shards(make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (10, 10), "cc100": (23, 1)}, length=512))


def batches(shards, world_size: int, workers: int, first: int, end: int, warmup=()) -> list[list[tuple]]:
    """Per step the global batch, put together from every rank: (row, its masked ids, its labels), in the order of the batch."""
    order = SampleOrder.of(7, 12, shards.corpora, {"wikipedia": 10, "cc100": 1}, warmup)
    masker = Masker(7, 64)
    steps: list[dict[int, tuple]] = [{} for _ in range(first, end)]
    for rank in range(world_size):
        dataset = StepDataset(shards, order, masker, 1, rank, world_size, by_document=True)
        for batch in iterate_steps(dataset, first, end, workers, 2):
            size = order.step(batch.step)[0].size
            for place, micro in zip(rank_share(size, 1, rank, world_size)[:, 0], batch.micro_batches, strict=True):
                labels = np.zeros(512, np.int64)
                asked = micro.labels != IGNORED
                labels[micro.masked_index[asked].numpy()] = micro.labels[asked].numpy()
                ids, documents = micro.input_ids.numpy().tobytes(), micro.document_ids.numpy().tobytes()
                steps[batch.step - first][int(place)] = (batch.batch_hash, ids, documents, labels.tobytes())
    return [[step[place] for place in range(len(step))] for step in steps]


def test_any_number_of_ranks_and_workers_gives_the_same_global_batches(shards) -> None:
    reference = batches(shards, 1, 0, 0, 4)
    for world_size, workers in ((1, 1), (1, 3), (2, 0), (2, 3), (3, 1), (4, 0), (4, 1)):
        assert batches(shards, world_size, workers, 0, 4) == reference, (world_size, workers)


def test_a_growing_batch_is_the_same_for_any_number_of_ranks_and_from_any_step(shards) -> None:
    warmup = ((4, 2), (8, 1))
    reference = batches(shards, 1, 0, 0, 5, warmup)
    assert [len(step) for step in reference] == [4, 4, 8, 12, 12]
    for world_size, first in ((2, 0), (4, 1), (2, 3)):
        assert batches(shards, world_size, 1, first, 5, warmup) == reference[first:], (world_size, first)


def test_starting_at_a_later_step_gives_the_batches_of_the_unbroken_run(shards) -> None:
    assert batches(shards, 2, 1, 2, 4) == batches(shards, 1, 0, 0, 4)[2:]


def test_a_copy_of_a_row_is_masked_differently_and_a_later_epoch_again(shards) -> None:
    masker, tokens = Masker(7, 64), shards[0][0][None]
    keys = [(0, 0), (0, 10), (1, 0)]
    ids = [masker(tokens, np.asarray([epoch]), np.asarray([sample]))[0].tobytes() for epoch, sample in keys]
    assert len(set(ids)) == 3
