"""When a run will be done, with a range, from its goodput in the last days. Pure functions of the run's attempts."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from jadeberta.status.attempts import AttemptHistory
from jadeberta.status.step_table import Floats
from jadeberta.utils.durations import DAY_S

MOST_WINDOWS = 14
"""Newest windows whose goodput is taken for that of the days to come: two weeks, of a run that is as old."""
UNKNOWN_MARGIN = 0.2
"""Share of the time left that the range has on either side until there are two windows to compare."""


@dataclass(frozen=True)
class Forecast:
    """How a run will go on if it goes on as in its last days."""

    goodput_24h: float | None = None
    """Share of the last 24 hours, or of the run's whole age, in steps that stayed; None before the first hour."""
    ends: float | None = None
    """Unix time at which the run will be done; None where that is not known."""
    margin_s: float | None = None
    """Seconds by which it may be earlier or later: twice the standard deviation."""


def forecast(histories: list[AttemptHistory], left_s: float | None, now: float) -> Forecast:
    """Foresees the end of a run.

    The goodput of windows of equal length (a tenth of the run's age, between an hour and a day) is a sample of what is to come: the
    error of their mean, and the scatter of as many windows as are left, make the range.

    Args:
        histories: attempts of the run.
        left_s: seconds of steps until its end; None where they are not known.
        now: unix time.
    """
    began = min((at for history in histories if (at := history.started) is not None), default=None)
    if began is None or now - began < 1:
        return Forecast()
    age = now - began
    recent = float(productive_in(histories, np.array([now - min(age, DAY_S), now]))[0]) / min(age, DAY_S)
    goodput_24h = recent if age >= 3600 else None
    width = min(DAY_S, max(3600.0, age / 10))
    count = min(MOST_WINDOWS, int(age // width))
    if left_s is None:
        return Forecast(goodput_24h)
    if count < 2:
        return (
            Forecast(goodput_24h, now + left_s / recent, UNKNOWN_MARGIN * left_s / recent)
            if recent > 0
            else Forecast(goodput_24h)
        )
    shares = productive_in(histories, now - width * np.arange(count, -1, -1, dtype=np.float64)) / width
    mean = float(shares.mean())
    if mean <= 0:
        return Forecast(goodput_24h)
    still = left_s / mean
    # Of the mean of the windows before, and of the mean of those to come.
    deviation = float(shares.std(ddof=1)) * (1 / count + 1 / max(1.0, still / width)) ** 0.5
    return Forecast(goodput_24h, now + still, min(still, 2 * still * deviation / mean))


def productive_in(histories: list[AttemptHistory], borders: Floats) -> Floats:
    """Returns the seconds of steps that stayed and changed weights in each window between two borders (unix times, rising)."""
    total = np.zeros(len(borders) - 1)
    for history in histories:
        steps = history.steps
        steps = steps[~steps.lost & ~steps.skipped & ~np.isnan(steps.time) & (steps.time > borders[0])]
        for place, (low, high) in enumerate(pairwise(borders)):
            total[place] += np.clip(np.minimum(steps.time, high) - np.maximum(steps.time - steps.seconds, low), 0, None).sum()
    return total
