"""Corpora mixed by weight: which corpus and which row stand at a position, a pure function of seed, weights and position.

Every prefix of the order holds each corpus's share of the rows to less than one row, and any position is reached in constant time. A
corpus is read in a keyed permutation of its own, another one in each pass.
"""

import zlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm

import numpy as np

from jadeberta.data.sample_order import derive_key, permute

LONGEST_PERIOD = 1_000_000
"""Positions after which the pattern of corpora repeats, at most: weights count to six decimals."""


def whole_shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Returns weights as the smallest whole numbers of rows in one period; each above 0 has at least one row.

    Args:
        weights: at least 0, with a sum that is about 1; they are divided by it.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = lcm(*(share.denominator for share in shares))
    if period <= LONGEST_PERIOD:
        return tuple(int(share * period) for share in shares)
    # The largest remainders round up, so that the sum is exact.
    scaled = [share * LONGEST_PERIOD for share in shares]
    rows = [max(int(s), int(s > 0)) for s in scaled]
    by_remainder = sorted(range(len(rows)), key=lambda i: scaled[i] - rows[i], reverse=True)
    for i in by_remainder[: max(0, LONGEST_PERIOD - sum(rows))]:
        rows[i] += 1
    return tuple(rows)


@cache
def pattern_of(shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns one period of the mix: the corpus at each position, and how many rows of this corpus stand before it.

    After n rows a corpus of share w has between w n - 1 and w n + 1 of them (Tijdeman: The chairman assignment problem, 1980): among the
    corpora that would not get ahead by more than 1 - 1 / (2 k - 2), the one whose next row is due first.

    Args:
        shares: rows of each of the k corpora in a period.
    """
    period, used = sum(shares), [i for i, share in enumerate(shares) if share]
    corpora, ranks = np.empty(period, np.int16), np.empty(period, np.int64)
    counts, slack = [0] * len(shares), max(1, 2 * len(used) - 2)
    for position in range(period):
        best, best_due = -1, 0
        for i in used:
            # How far behind its share the corpus is, times period * slack: whole numbers, which do not round.
            behind = slack * (shares[i] * (position + 1) - period * counts[i])
            due = period * (slack - 1) - behind
            if (behind >= period or len(used) == 1) and (best < 0 or due * shares[best] < best_due * shares[i]):
                best, best_due = i, due
        corpora[position], ranks[position] = best, counts[best]
        counts[best] += 1
    return corpora, ranks


@dataclass(frozen=True)
class WeightedOrder:
    """The samples at the positions of an endless order, mixed by weight. A sample's index counts through the rows of all corpora."""

    seed: int
    """Root of the permutations."""
    corpora: tuple[tuple[str, int, int, float], ...]
    """Name, first row, number of rows and weight of each corpus."""

    @property
    def epoch_size(self) -> int:
        """Rows of the corpora that have a weight."""
        return sum(rows for _, _, rows, weight in self.corpora if weight)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what stands at some positions: how often its corpus was read to the end before, and sample indices, int64."""
        shares = whole_shares(tuple(weight for *_, weight in self.corpora))
        corpora, ranks = pattern_of(shares)
        periods, within = np.divmod(np.asarray(positions, np.int64), len(corpora))
        passes, samples = np.zeros_like(within), np.zeros_like(within)
        start = 0
        for number, (name, _, rows, _) in enumerate(self.corpora):
            mine = corpora[within] == number
            if mine.any():
                passes[mine], places = np.divmod(periods[mine] * shares[number] + ranks[within[mine]], rows)
                found = np.empty_like(places)
                for pass_ in np.unique(passes[mine]):
                    chosen = passes[mine] == pass_
                    key = derive_key(self.seed, 4, zlib.crc32(name.encode()), int(pass_))
                    found[chosen] = permute(places[chosen], rows, key)
                samples[mine] = start + found
            start += rows
        return passes, samples

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Returns the row of the shard directory that each sample is, int64."""
        out = np.full_like(samples, -1)
        start = 0
        for _, first, rows, _ in self.corpora:
            inside = (samples >= start) & (samples < start + rows)
            out[inside] = first + samples[inside] - start
            start += rows
        return out
