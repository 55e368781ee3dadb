"""The comparison of training curves tells another function from another draw of the dropout, and its runs differ in what they should."""

from itertools import pairwise

import numpy as np
import pytest

from bench.loss_curves.runs import VARIANTS, Curve, Setting, check_batches, train
from bench.loss_curves.significance import compare, largest_relative, two_sided
from tests.helpers import make_shards


def runs(generator: np.random.Generator, seeds: int = 3, steps: int = 500, memory: float = 0.97) -> np.ndarray:
    """Losses [3][seeds][steps] of three draws of one falling curve a seed; the noise of a step remembers that of the steps before."""
    shocks = generator.normal(0, 0.005, (3, seeds, steps))
    noise = shocks.copy()
    for before, step in pairwise(range(steps)):
        noise[..., step] += memory * noise[..., before]
    batches = generator.normal(0, 0.2, (1, seeds, steps))  # far above the dropout's noise, and the same in all three
    return 6 + 3 * np.exp(-np.arange(steps) / 100) + batches + noise


def test_three_draws_of_one_curve_are_within_noise() -> None:
    generator = np.random.default_rng(0)
    verdicts = [compare(*runs(generator), window=50).within_noise for _ in range(300)]
    assert verdicts.count(False) <= 12  # 1.5% are to be expected


@pytest.mark.parametrize("steps", [slice(None), slice(250, 350)], ids=["the whole run", "a fifth of the run"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_curve_that_is_shifted_is_not_within_noise(steps, sign) -> None:
    generator = np.random.default_rng(1)
    found = []
    for _ in range(100):
        losses = runs(generator)
        losses[2][:, steps] += sign * 0.1
        found.append(compare(*losses, window=50))
    assert sum(not comparison.within_noise for comparison in found) >= 98
    assert all(np.sign(comparison.largest) == sign for comparison in found)


def test_differences_are_those_of_window_means_against_both_eager_runs() -> None:
    eager, redrawn, sdpa = [[1.0, 3.0, 5.0, 5.0, 9.0]], [[2.0, 2.0, 3.0, 3.0, 9.0]], [[4.0, 4.0, 4.0, 5.0, 0.0]]
    found = compare(eager, redrawn, sdpa, window=2)
    assert found.ends == [2, 4]  # the fifth step fills no window
    assert found.redrawn == [[0.0, 2.0]]
    assert found.differences == [[2.0, 0.5]]
    assert (found.largest, found.mean, found.seeds_spread) == (2.0, 1.25, None)


def test_equal_curves_are_within_noise_and_a_shift_without_any_noise_is_not() -> None:
    flat = [[2.0] * 4, [3.0] * 4]
    assert compare(flat, flat, flat, window=2).within_noise
    assert not compare(flat, flat, [[2.1] * 4, [3.1] * 4], window=2).within_noise


@pytest.mark.parametrize(
    ("freedom", "t", "probability"), [(1, 63.657, 0.01), (3, 5.841, 0.01), (5, 4.032, 0.01), (5, 2.571, 0.05), (9, 1.833, 0.1)]
)
def test_the_probability_is_that_of_the_published_table_of_students_t(freedom, t, probability) -> None:
    assert two_sided(t, freedom) == two_sided(-t, freedom) == pytest.approx(probability, rel=1e-3)


def test_runs_on_other_batches_are_refused() -> None:
    same = {("eager", 1): Curve([1.0], ["a"]), ("sdpa", 1): Curve([2.0], ["a"])}
    check_batches(same)
    with pytest.raises(SystemExit, match="seed 2: sdpa saw other batches"):
        check_batches(same | {("eager", 2): Curve([1.0], ["b"]), ("sdpa", 2): Curve([1.0], ["a"])})


def test_the_two_attentions_are_trained_with_the_same_options() -> None:
    options = {variant: Setting("shards", 100).options(variant, 1) for variant in VARIANTS}

    def differing(one: str, other: str) -> list[str]:
        pairs = zip(pairwise(options[one]), pairwise(options[other]), strict=True)
        return [a[0] for a, b in pairs if a[1] != b[1] and a[0].startswith("--")]

    assert differing("eager", "sdpa") == ["--model.attention"]
    assert differing("eager", "redrawn") == ["--training.micro_batch_size"]


@pytest.mark.slow
@pytest.mark.long
def test_what_redraws_the_dropout_changes_nothing_where_there_is_none(tmp_path) -> None:
    shards = make_shards(tmp_path / "shards", {"cc100": (40, 1)}, vocab_size=1400)
    wanted = [("eager", 3), ("redrawn", 3)]
    setting = Setting(shards, 3, dropout=0.0, rows=2, layers=1, width=64)
    curves = train(setting, wanted, tmp_path / "runs", at_once=2)
    check_batches(curves)
    losses = [curve.losses for curve in curves.values()]
    assert len(losses[0]) == 3
    assert largest_relative(*losses) < 1e-5
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert train(setting, wanted, tmp_path / "runs", at_once=2) == curves  # read again, not trained again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == times
