"""The expected goodput and the best checkpoint interval, against published figures and a simulation of random failures."""

import math

import numpy as np
import pytest

from jadeberta.plan.checkpoint_interval import best_interval, daly, expected_efficiency, young

HOUR = 3600.0


class Failures:
    """The times until the next failures, drawn in advance: two intervals that are compared meet the same ones."""

    def __init__(self, mtbf_s: float, seed: int) -> None:
        self.gaps = np.random.default_rng(seed).exponential(mtbf_s, 1_000_000).tolist()
        self.drawn = 0

    def next(self) -> float:
        self.drawn += 1
        return self.gaps[self.drawn - 1]


def simulate(
    interval: float,
    stall: float,
    write: float,
    restart: float,
    mtbf: float,
    limit: float = math.inf,
    ends: int = 6000,
    seed: int = 1,
) -> float:
    """Useful share of the wall time of a run that is trained, saved, killed and started again, event by event, over many attempts."""
    failures = Failures(mtbf, seed)
    wall = useful = 0.0
    to_failure = failures.next()
    for _ in range(ends):
        while to_failure < restart:  # a failure begins the restart anew
            wall += to_failure
            to_failure = failures.next()
        wall += restart
        to_failure -= restart
        clock = trained = kept = 0.0
        writing: tuple[float, float] | None = None  # (when its checkpoint counts, what it keeps)
        over = False
        while not over:
            # What comes next: training until a save is due or the planned end, a wait for the writer, a stall.
            training = min(interval, max(0.0, limit - clock))
            over = clock + training >= limit
            for phase in ("train", "wait", "stall", *(("last write",) if over else ())):
                if phase == "train":
                    length = training
                elif phase == "stall":
                    length = stall
                elif phase == "wait":
                    length = max(0.0, writing[0] - clock) if writing else 0.0
                else:
                    length = write
                died = clock + length > to_failure
                until = to_failure if died else clock + length
                if writing and writing[0] <= until:
                    kept, writing = writing[1], None
                if phase == "train" and not died:
                    trained += length
                clock = until
                if died:
                    break
                if phase == "stall":
                    writing = (clock + write, trained)
            if died:
                break
        useful += kept
        wall += clock
        to_failure = failures.next() if died else to_failure - clock
    return useful / wall


SETTINGS = [
    # interval, stall, write, restart, mtbf, limit
    (600, 1, 10, 180, 24 * HOUR, math.inf),
    (3600, 5, 60, 300, 12 * HOUR, math.inf),
    (1200, 30, 600, 600, 4 * HOUR, math.inf),
    (1800, 60, 0, 60, 2 * HOUR, math.inf),
    (300, 20, 900, 120, HOUR, math.inf),  # the writer is slower than the interval
    (900, 120, 300, 1800, HOUR, math.inf),  # half the restarts fail too
    (60, 30, 20, 5, 600, math.inf),
    (600, 0, 0, 0, 900, math.inf),
    (1200, 5, 100, 780, 24 * HOUR, 8 * HOUR),
    (1700, 20, 100, 780, 3 * HOUR, 2 * HOUR),
    (300, 20, 900, 120, 2 * HOUR, HOUR),
    (7200, 60, 300, 600, 6 * HOUR, HOUR),  # the planned end comes before the first save
    (900, 30, 200, 600, 1800, HOUR),
    (1200, 100, 300, 60, 5 * HOUR, 2540),  # the planned end falls into a stall
    (1200, 100, 300, 60, HOUR, 1400),  # and into a write
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(f"{x:g}" for x in s))
def test_the_formula_is_what_random_failures_do(setting) -> None:
    assert expected_efficiency(*setting) == pytest.approx(simulate(*setting, ends=20_000), abs=0.01)


@pytest.mark.parametrize(
    "costs", [(5, 60, 300, 6 * HOUR), (60, 200, 600, 2 * HOUR), (30, 600, 300, 3 * HOUR), (60, 100, 600, 4 * HOUR, 6 * HOUR)]
)
def test_no_other_interval_does_better_in_the_simulation(costs) -> None:
    best = best_interval(*costs)
    at_best = simulate(best, *costs, ends=8000)
    others = [simulate(best * factor, *costs, ends=8000) for factor in (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)]
    assert max(others) < at_best + 0.004  # what chance leaves between two of them
    assert others[0] < at_best - 0.01 and others[-1] < at_best - 0.01
    assert min(others[2:4]) > at_best - 0.02  # flat around the best: it need not be met exactly


def test_daly_gives_the_intervals_of_his_figures() -> None:
    # Figures 3 to 5 of the paper: dumps of 5 minutes, failures every 24 h, 6 h and 15 min.
    found = [daly(5, minutes) for minutes in (24 * 60, 6 * 60, 15)]
    assert [round(found[0]), round(found[1]), round(found[2], 1)] == [117, 57, 9.1]
    assert daly(40, 15) == 15
    assert young(5, 24 * 60) == pytest.approx(120)


@pytest.mark.parametrize("stall", [0.1, 1, 10, 100, 1000])
def test_the_best_interval_is_where_the_derivative_is_zero_and_close_to_daly(stall) -> None:
    mtbf = 24 * HOUR
    best = best_interval(stall, 0, 300, mtbf)
    # d/dt of t / (exp((t + stall) / M) - 1) is 0 where exp((t + stall) / M) (1 - t / M) = 1.
    assert math.exp((best + stall) / mtbf) * (1 - best / mtbf) == pytest.approx(1, abs=1e-6)
    assert best == pytest.approx(daly(stall, mtbf), rel=0.002)
    assert best_interval(stall, best / 2, 999, mtbf) == pytest.approx(best, rel=1e-3)  # neither write nor restart moves it
    assert best_interval(stall, best * 2, 999, mtbf) == pytest.approx(best * 2)  # unless the writer cannot keep up


def test_limits_of_the_formula() -> None:
    assert expected_efficiency(90, 10, 0, 100, math.inf) == pytest.approx(0.9)
    assert expected_efficiency(90, 10, 0, 100, 1e12) == pytest.approx(0.9)
    assert expected_efficiency(10, 10, 90, 100, math.inf) == pytest.approx(0.1)
    # A start of 100 s, ten times 90 s and a save, 10 s more and the last save.
    assert expected_efficiency(90, 10, 0, 100, math.inf, 1010) == pytest.approx(910 / 1120)
    assert expected_efficiency(90, 10, 0, 100, 3600, 1e9) == pytest.approx(expected_efficiency(90, 10, 0, 100, 3600))
    assert expected_efficiency(600, 10, 10, 1e6, 60) == 0.0  # no start ever ends well
    assert best_interval(1, 10, 100, math.inf) == math.inf
    assert best_interval(1, 1000, 100, 60) == 1000
    assert best_interval(0, 10, 100, 3600) == pytest.approx(10)
