"""The order of the samples: a pure function of (seed, epoch, position).

An epoch is a keyed permutation of the virtual concatenation of all corpora with their repeats. It does not depend on ranks, loaders
or restarts, and any position is reached in constant time.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jadeberta.config.batch_sizes import BatchSizes

FEISTEL_ROUNDS = 6
MASK32 = np.uint64(0xFFFFFFFF)


def mix64(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, on uint64 (Steele, Lea and Flood: Fast splittable pseudorandom number generators, 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_key(*values: int) -> np.uint64:
    """Mixes integers into one 64-bit key; another order of them gives another key."""
    key = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            key = mix64(key + np.uint64(0x9E3779B97F4A7C15) + np.uint64(value & 0xFFFFFFFFFFFFFFFF))
    return key[0]


def permute(positions: np.ndarray, size: int, key: np.uint64) -> np.ndarray:
    """Evaluates the keyed permutation of range(size) at some positions.

    A Feistel network over the smallest even number of bits that holds `size`, walked along its cycle until it lands inside
    (Black and Rogaway: Ciphers with arbitrary finite domains, 2002): a bijection, with no table to keep.

    Args:
        positions: int64, any shape, each in [0, size).
        size: number of elements, at least 1.
        key: chooses the permutation.

    Returns:
        int64 in [0, size), the shape of `positions`.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    bits, low = np.uint64(half), np.uint64((1 << half) - 1)
    with np.errstate(over="ignore"):
        keys = [
            mix64(np.asarray([key + np.uint64(round_ + 1) * np.uint64(0x9E3779B97F4A7C15)]))[0]
            for round_ in range(FEISTEL_ROUNDS)
        ]
    out = np.asarray(positions, dtype=np.uint64).ravel().copy()
    walking = np.arange(out.size)
    while walking.size:
        left, right = out[walking] >> bits, out[walking] & low
        for round_key in keys:
            left, right = right, left ^ (mix64(right ^ round_key) & low)
        out[walking] = (left << bits) | right
        walking = walking[out[walking] >= size]
    return out.astype(np.int64).reshape(np.shape(positions))


Ranges = tuple[tuple[int, int], ...]


def data_step(step: int, skipped_ranges: Ranges) -> int:
    """Returns the data step that training step `step` (from 0) reads: the step-th one outside the skipped ranges.

    Args:
        step: number of the training step.
        skipped_ranges: [first, end) of data steps, ascending and disjoint.
    """
    for first, end in skipped_ranges:
        if step < first:
            break
        step += end - first
    return step


@dataclass(frozen=True)
class SampleOrder:
    """The samples of every step.

    A sample's index counts through the virtual concatenation [corpus repeated, next corpus repeated, ...]. Copies of a row are
    different samples, so that they get different masks.
    """

    seed: int
    """Root of the permutations."""
    global_batch_size: int
    """Sequences in a step, all ranks together, after the warm-up."""
    corpora: tuple[tuple[int, int, int], ...]
    """First row, number of rows and repeats of each corpus."""
    skipped_ranges: Ranges = ()
    """Data steps [first, end) that no training step reads, ascending and disjoint."""
    batch_size_warmup: tuple[tuple[int, int], ...] = ()
    """Sequences and number of steps of the growing batches, before those of global_batch_size."""

    @classmethod
    def of(
        cls,
        seed: int,
        global_batch_size: int,
        ranges: dict[str, range],
        repeats: dict[str, int],
        batch_size_warmup: tuple[tuple[int, int], ...] = (),
    ) -> "SampleOrder":
        """Makes the order of some corpora.

        Args:
            seed: root of the permutations.
            global_batch_size: sequences in a step, all ranks together.
            ranges: rows of each corpus in the shard directory.
            repeats: how often an epoch sees each corpus.
            batch_size_warmup: sequences and number of steps of the growing batches.
        """
        corpora = tuple((r.start, len(r), repeats[name]) for name, r in ranges.items())
        return cls(seed, global_batch_size, corpora, batch_size_warmup=batch_size_warmup)

    def skipping(self, skipped_ranges: Ranges) -> "SampleOrder":
        """Returns this order with the data of some steps skipped."""
        return replace(self, skipped_ranges=skipped_ranges)

    @property
    def batch_sizes(self) -> BatchSizes:
        """Global batch size of every data step."""
        return BatchSizes(self.global_batch_size, self.batch_size_warmup)

    @property
    def epoch_size(self) -> int:
        """Number of samples in one epoch; the one place where it is computed."""
        return sum(rows * repeats for _, rows, repeats in self.corpora)

    def sample(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Returns the sample indices at some positions of an epoch, int64."""
        return permute(positions, self.epoch_size, derive_key(self.seed, 1, epoch))

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns epochs and sample indices at some positions of the endless order, int64."""
        # A batch at the end of an epoch takes its last samples from the next one.
        epochs, within = np.divmod(positions, self.epoch_size)
        samples = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self.sample(int(epoch), within[chosen])
        return epochs, samples

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns epochs and sample indices of the global batch of a training step (from 0), each int64 [sequences]."""
        step = data_step(step, self.skipped_ranges)
        return self.at(np.arange(self.batch_sizes.before(step), self.batch_sizes.before(step + 1), dtype=np.int64))

    def place(self, step: int) -> dict[str, Any]:
        """Where the batch of a training step (from 0) lies: the number of its data step."""
        return {"data_step": data_step(step, self.skipped_ranges)}

    def progress(self, step: int) -> tuple[int, float]:
        """Position that training step `step` (from 0) reads first, and the epoch as a number with a fraction."""
        position = self.batch_sizes.before(data_step(step, self.skipped_ranges))
        return position, position / max(1, self.epoch_size)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Returns the row of the shard directory that each sample is a copy of, int64."""
        out = np.full_like(samples, -1)
        start = 0
        for first, rows, repeats in self.corpora:
            inside = (samples >= start) & (samples < start + rows * repeats)
            out[inside] = first + (samples[inside] - start) % max(rows, 1)
            start += rows * repeats
        return out


def rank_share(global_batch_size: int, micro_batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Returns the positions of the global batch that a rank takes, int64 [accumulation, micro_batch_size].

    Micro-step m of all ranks together is a contiguous part of the batch. A change of world size or micro-batch size regroups the same
    samples and never drops or repeats one.

    Args:
        global_batch_size: sequences in the step.
        micro_batch_size: sequences that a rank takes at once.
        rank: number of the rank.
        world_size: number of ranks.
    """
    return np.arange(global_batch_size).reshape(-1, world_size, micro_batch_size)[:, rank]
