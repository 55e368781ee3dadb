"""The order is a function of seed and step alone: every sample once an epoch, the same batches for any ranks and workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jadeberta.data.batches import StepDataset, iterate_steps
from jadeberta.data.masking import Masker
from jadeberta.data.order import SampleOrder, derive_key, permute, rank_share
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


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return open_shards(make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (10, 10), "cc100": (23, 1)}))


def batches(shards, world_size: int, workers: int, first: int, end: int) -> list[list[tuple]]:
    """Per step the global batch, put together from every rank: (row, its masked ids, its labels), in the order of the batch."""
    order = SampleOrder.of(7, 12, shards.corpora, {"wikipedia": 10, "cc100": 1})
    masker = Masker(7, 64)
    steps: list[dict[int, tuple]] = [{} for _ in range(first, end)]
    for rank in range(world_size):
        dataset = StepDataset(shards, order, masker, 1, rank, world_size, by_document=True)
        for batch in iterate_steps(dataset, first, end, workers, 2):
            for place, micro in zip(dataset.share[:, 0], batch.micro_batches, strict=True):
                labels = np.zeros(512, np.int64)
                labels[micro.masked_index.numpy()] = micro.labels.numpy()
                ids, documents = micro.input_ids.numpy().tobytes(), micro.document_ids.numpy().tobytes()
                steps[batch.step - first][int(place)] = (batch.batch_hash, ids, documents, labels.tobytes())
    return [[step[place] for place in range(12)] for step in steps]


def test_any_number_of_ranks_and_workers_gives_the_same_global_batches(shards) -> None:
    reference = batches(shards, 1, 0, 0, 4)
    for world_size in (1, 2, 3, 4):
        for workers in (0, 1, 3):
            assert batches(shards, world_size, workers, 0, 4) == reference, (world_size, workers)


def test_starting_at_a_later_step_gives_the_batches_of_the_unbroken_run(shards) -> None:
    assert batches(shards, 2, 1, 2, 4) == batches(shards, 1, 0, 0, 4)[2:]


def test_a_copy_of_a_row_is_masked_differently_and_a_later_epoch_again(shards) -> None:
    masker, tokens = Masker(7, 64), shards[0][0][None]
    keys = [(0, 0), (0, 10), (1, 0)]
    ids = [masker(tokens, np.asarray([epoch]), np.asarray([sample]))[0].tobytes() for epoch, sample in keys]
    assert len(set(ids)) == 3
