"""Weights hold to one row over every prefix; phases that draw the same share an order and go on in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jadeberta.config.phases import Phase
from jadeberta.data.phase_order import PhasedOrder, draw_of
from jadeberta.data.sample_order import SampleOrder
from jadeberta.data.weighted_order import WeightedOrder, pattern_of, whole_shares

CORPORA = {"wiki": range(0, 10), "web": range(10, 33)}
REPEATS = {"wiki": 2, "web": 1}


def phase(number: int, first: int, steps: int, batch: int = 4, **changed: object) -> Phase:
    values: dict = {"sequence_length": 128, "micro_batch_size": 1, "weights": {}, "repeats": REPEATS, "attention": "sdpa"}
    values |= {"mask_probability": (0.15, 0.15), "mask_steps": (0, 100)} | changed
    return Phase(number=number, first_step=first, steps=steps, global_batch_size=batch, **values)


def order_of(*entries: tuple[int, int, dict]) -> PhasedOrder:
    """Phases of (steps, batch, weights)."""
    phases, draws, first = [], [], 0
    for number, (steps, batch, weights) in enumerate(entries, 1):
        phases.append(phase(number, first, steps, batch, weights=weights))
        draws.append(draw_of(7, 128, CORPORA, REPEATS, weights, is_published=not weights))
        first += steps
    return PhasedOrder(tuple(phases), tuple(draws))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 100), max_size=5))
def test_every_prefix_holds_each_corpus_to_less_than_one_row(cuts) -> None:
    weights = tuple((np.diff([0, *sorted(cuts), 100]) / 100).tolist())
    corpora = tuple((f"c{i}", 1000 * i, 7 + i, weight) for i, weight in enumerate(weights))
    order = WeightedOrder(3, corpora)
    rows = order.rows(order.at(np.arange(700))[1])
    counted = np.arange(1, 701)
    for i, weight in enumerate(weights):
        assert np.abs(np.cumsum(rows // 1000 == i) - counted * weight).max() < 1 + 1e-3
        assert weight or not (rows // 1000 == i).any()


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.333333,) * 3, (0.333333, 0.333333, 0.333334)])
def test_weights_that_are_written_with_few_digits_are_shares_of_a_short_period(weights) -> None:
    shares = whole_shares(weights)
    assert sum(shares) in (3, 1_000_000) and np.abs(np.asarray(shares) / sum(shares) - weights).max() < 1e-6


def test_a_weight_of_many_digits_is_rounded_and_a_tiny_one_keeps_a_row() -> None:
    shares = whole_shares((0.12345678, 0.87654312, 1e-7))
    assert sum(shares) == 1_000_000 and shares[2] == 1 and shares[0] in (123456, 123457)


def test_a_corpus_is_read_to_its_end_before_a_row_comes_again_and_otherwise_in_the_next_pass() -> None:
    order = WeightedOrder(3, (("wiki", 0, 10, 0.3), ("web", 10, 23, 0.7)))
    passes, samples = order.at(np.arange(400))
    rows = order.rows(samples)
    for name, first, count in (("wiki", 0, 10), ("web", 10, 23)):
        mine = (rows >= first) & (rows < first + count)
        whole = len(rows[mine]) // count
        assert whole > 4, name
        read = rows[mine][: whole * count].reshape(whole, count)
        assert (np.sort(read) == np.arange(first, first + count)).all()
        assert (read[0] != read[1]).any() and passes[mine][: whole * count].tolist() == np.repeat(
            np.arange(whole), count
        ).tolist()
    # Any position is the same from everywhere.
    assert np.array_equal(order.at(np.asarray([5, 399, 17]))[1], samples[[5, 399, 17]])
    assert order.at(np.asarray([10**15]))[1][0] < 33


def test_the_pattern_of_a_million_positions_takes_no_list_in_the_order() -> None:
    corpora, ranks = pattern_of((1, 999))
    assert (corpora == 0).sum() == 1 and ranks.max() == 998


def test_one_phase_reads_what_a_run_without_phases_reads() -> None:
    plain = SampleOrder.of(7, 4, CORPORA, REPEATS)
    phased = order_of((50, 4, {}))
    for step in (0, 1, 10, 49):
        for found, wanted in zip(phased.step(step), plain.step(step), strict=True):
            assert np.array_equal(found, wanted)


def test_phases_that_draw_the_same_go_on_where_the_one_before_ended_even_after_another() -> None:
    mixed = {"wiki": 0.5, "web": 0.5}
    order = order_of((3, 4, {}), (5, 6, mixed), (4, 2, {}), (2, 6, mixed))
    plain = np.concatenate([SampleOrder.of(7, 1, CORPORA, REPEATS).step(n)[1] for n in range(20)])
    read = np.concatenate([order.step(step)[1] for step in (*range(3), *range(8, 12))])
    assert np.array_equal(read, plain)
    other = np.concatenate([order.step(step)[1] for step in (*range(3, 8), 12, 13)])
    assert np.array_equal(other, order.draws[1].at(np.arange(42))[1])
    assert order.draws[1].seed != order.draws[0].seed == 7


def test_a_corpus_that_is_left_out_and_one_of_weight_0_make_the_same_order() -> None:
    left_out, named = ({"wiki": 1.0}, {"web": 0.0, "wiki": 1.0})
    order = order_of((3, 4, left_out), (3, 4, named))
    # Ten rows: the second phase reads the last of them before one comes again.
    read = np.concatenate([order.step(step)[1] for step in range(5)])
    assert sorted(read[:10].tolist()) == sorted(read[10:].tolist()) == list(range(10))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5), st.booleans()), min_size=1, max_size=4), st.data())
def test_a_roll_back_over_borders_skips_exactly_what_was_read_and_moves_no_border(entries, data) -> None:
    order = order_of(*((steps, batch, {"wiki": 1.0} if other else {}) for steps, batch, other in entries))
    last = order.phases[-1].end
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, last - 1))
        end = data.draw(st.integers(first + 1, last))

        def read(order: PhasedOrder, steps: range) -> set[tuple]:
            number = {step: order.place(step)["phase"] for step in steps}
            return {
                (order.draws[number[s] - 1].seed, epoch, sample)
                for s in steps
                for epoch, sample in zip(*(a.tolist() for a in order.step(s)), strict=True)
            }

        undone, kept = read(order, range(first, end)), read(order, range(first))
        sizes = [len(order.step(step)[1]) for step in range(last)]
        before = order
        order = order.undoing(first, end)
        assert read(order, range(first)) == kept
        assert not read(order, range(first, last)) & (undone | kept)
        assert [len(order.step(step)[1]) for step in range(last)] == sizes
        assert [order.place(s)["phase"] for s in range(last)] == [before.place(s)["phase"] for s in range(last)]


def test_data_that_a_run_skipped_before_it_had_phases_stay_skipped() -> None:
    plain = SampleOrder.of(7, 4, CORPORA, REPEATS).skipping(((2, 5), (6, 7)))
    phased = order_of((20, 4, {}), (5, 4, {"web": 1.0})).skipping((), ((2, 5), (6, 7)))
    for step in range(15):
        assert np.array_equal(phased.step(step)[1], plain.step(step)[1])
    assert phased.progress(10) == plain.progress(10)
