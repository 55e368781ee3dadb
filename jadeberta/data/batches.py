"""The batches of a rank, step by step, prepared ahead by loader processes.

A batch is a pure function of the step's number: starting at any step costs nothing, and the number of loaders changes no batch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
import xxhash
from torch.utils.data import Dataset

from jadeberta.data.loader_processes import items_ahead, make_item
from jadeberta.data.masking import IGNORED, Masker
from jadeberta.data.sample_order import rank_share
from jadeberta.shards import ExcludedRows, ShardReader
from jadeberta.shards.tokenizer_format import PAD


@dataclass
class MicroBatch:
    """Input of one forward and backward pass."""

    input_ids: torch.Tensor
    """Masked token ids, int64 [batch, length]."""
    masked_index: torch.Tensor
    """Positions in the flattened batch that are predicted, int64 [masked]."""
    labels: torch.Tensor
    """Tokens at these positions, int64 [masked]; IGNORED where the list was filled up."""
    attention_mask: torch.Tensor | None
    """1 = token, 0 = padding, int64 [batch, length]; None where no row is padded."""
    document_ids: torch.Tensor | None
    """Number of the document within the row, 0 = padding, int64 [batch, length]; None where a row counts as one text."""
    draws: torch.Tensor | None = None
    """Random numbers of the masked positions, int64 [masked]; None where no tokens are drawn."""


class OverlongMicroBatch(MicroBatch):
    """One with more masked positions than the list usually holds, so that its length is a rare one."""


@dataclass
class StepBatch:
    """A rank's share of one optimizer step."""

    step: int
    """Number of the step, from 0."""
    epoch: int
    """Epoch of the step's first sample."""
    batch_hash: str
    """xxh64 of the step's global (epoch, sample) pairs in order: equal hashes mean equal data, at any world size."""
    micro_batches: list[MicroBatch]
    """One for each step of gradient accumulation."""
    masked_tokens: int
    """Number of predicted tokens in this share."""
    tokens: int
    """Number of tokens in this share, without padding."""
    excluded: list[ExcludedRows] = field(default_factory=list)
    """Damaged rows of this share: each is all padding, so nothing of it is predicted."""


@dataclass
class StepArrays:
    """A rank's share of one optimizer step as a loader process sends it: one narrow array a field for all micro-batches."""

    step: int
    epoch: int
    batch_hash: str
    """These three as in `StepBatch`."""
    input_ids: np.ndarray
    """Masked token ids, of the shards' type [sequences, length]. The pad id is padding before masking too: it is neither masked nor put
    in."""
    documents: np.ndarray | None
    """Document numbers, uint16 [sequences, length]; None where a row counts as one text."""
    masked_index: np.ndarray
    """Positions in the flattened share that are predicted, ascending, int64 [masked]."""
    labels: np.ndarray
    """Tokens at these positions, of the shards' type [masked]."""
    excluded: list[ExcludedRows]
    draws: np.ndarray | None = None
    """Random numbers of these positions, int64 [masked]; None where no tokens are drawn."""


class StepOrder(Protocol):
    """An order of samples, as the batches need it."""

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns epochs and sample indices of the global batch of a training step (from 0), each int64 [sequences]."""

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Returns the row of the shard directory that each sample is a copy of, int64."""


class StepBatches(Dataset, ABC):
    """Makes the batches of steps, in two parts: `[step]` in a loader process, `batch` in the training process."""

    @abstractmethod
    def __getitem__(self, step: int) -> StepArrays:
        """Returns the share of a step."""

    @abstractmethod
    def batch(self, share: StepArrays) -> StepBatch:
        """Makes the micro-batches of a share."""


class StepDataset(StepBatches):
    """Maps a step (from 0) to the rank's share of that step; `batch` makes the micro-batches of it."""

    def __init__(
        self,
        shards: ShardReader,
        order: StepOrder,
        masker: Masker,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        by_document: bool,
        whole_words: bool = False,
        with_draws: bool = False,
    ) -> None:
        """Args:
        shards: rows of the training split.
        order: which samples each step sees.
        masker: masks the rows.
        micro_batch_size: sequences of one micro-batch.
        rank: number of this rank.
        world_size: number of ranks.
        by_document: give document ids, so that attention stays inside each document.
        whole_words: mask whole words by the word starts that the shards record. Where the pieces show word starts, the masker has
            them itself.
        with_draws: give random numbers for the masked positions, from which tokens are drawn.
        """
        self.shards, self.order, self.masker = shards, order, masker
        self.capacity = masked_capacity(micro_batch_size * shards.sequence_length, masker.probability)
        self.place = (micro_batch_size, rank, world_size)
        self.by_document, self.whole_words, self.with_draws = by_document, whole_words, with_draws
        self.pad = shards.index.special_tokens.pad
        self.mask_probability_at: Callable[[int], float] | None = None
        """Mask probability of each step, at most the masker's; None: the masker's."""

    def __getitem__(self, step: int) -> StepArrays:
        """Returns the share of a step; raises the errors of reading it."""
        epochs, samples = self.order.step(step)
        # Of the global batch, before it is shared out over the ranks: the hash must not depend on the world size.
        digest = xxhash.xxh64(np.stack([epochs, samples], axis=1).astype("<i8").tobytes()).hexdigest()
        self.shards.take_excluded()  # records of earlier reads do not belong to this batch
        shares = rank_share(len(samples), *self.place)
        length, dtype = self.shards.sequence_length, np.dtype(self.shards.index.token_dtype)
        input_ids = np.empty((shares.size, length), dtype)
        document_ids = np.empty((shares.size, length), np.uint16) if self.by_document else None
        masker = self.masker
        if self.mask_probability_at is not None:
            masker = replace(masker, probability=self.mask_probability_at(step))
        index, targets, draws = [], [], []
        for number, places in enumerate(shares):
            mine = slice(number * len(places), (number + 1) * len(places))
            rows, documents, starts = self.shards.rows_with_words(self.order.rows(samples[places]))
            ids, labels = masker(rows, epochs[places], samples[places], starts if self.whole_words else None)
            input_ids[mine] = ids
            if document_ids is not None:
                document_ids[mine] = documents
            masked = np.flatnonzero(labels != IGNORED)
            index.append(masked + mine.start * length)
            targets.append(labels.ravel()[masked].astype(dtype))
            if self.with_draws:
                draws.append(masker.draws(ids.shape, epochs[places], samples[places]).ravel()[masked])
        places_masked, labels_masked = np.concatenate(index), np.concatenate(targets)
        return StepArrays(
            step, int(epochs[0]), digest, input_ids, document_ids, places_masked, labels_masked, self.shards.take_excluded(),
            np.concatenate(draws) if draws else None,
        )  # fmt: skip

    def batch(self, share: StepArrays) -> StepBatch:
        """Makes the micro-batches of a share; in the training process, so that no tensor travels between processes."""
        size, (sequences, length) = self.place[0], share.input_ids.shape
        ends = np.searchsorted(share.masked_index, np.arange(0, sequences + 1, size) * length).tolist()
        micro_batches = []
        for number in range(sequences // size):
            mine, masked = slice(number * size, (number + 1) * size), slice(ends[number], ends[number + 1])
            present = share.input_ids[mine] != self.pad
            micro_batch = MicroBatch(
                input_ids=torch.from_numpy(share.input_ids[mine].astype(np.int64)),
                masked_index=torch.from_numpy(share.masked_index[masked] - mine.start * length),
                labels=torch.from_numpy(share.labels[masked].astype(np.int64)),
                attention_mask=None if present.all() else torch.from_numpy(present.astype(np.int64)),
                document_ids=None if share.documents is None else torch.from_numpy(share.documents[mine].astype(np.int64)),
                draws=None if share.draws is None else torch.from_numpy(share.draws[masked]),
            )
            micro_batches.append(fill_up(micro_batch, self.capacity))
        tokens = int(np.count_nonzero(share.input_ids != self.pad))
        return StepBatch(share.step, share.epoch, share.batch_hash, micro_batches, len(share.labels), tokens, share.excluded)


def make_micro_batch(
    ids: np.ndarray, labels: np.ndarray, rows: np.ndarray, documents: np.ndarray | None, pad: int = PAD
) -> MicroBatch:
    """Makes the tensors of one micro-batch.

    Args:
        ids: masked token ids, [batch, length].
        labels: tokens to predict, elsewhere IGNORED, [batch, length].
        rows: tokens before masking, [batch, length].
        documents: document numbers, [batch, length]; None where attention crosses documents.
        pad: the pad token of the rows.
    """
    masked_index = np.flatnonzero(labels != IGNORED)
    present = rows != pad
    return MicroBatch(
        input_ids=torch.from_numpy(ids),
        masked_index=torch.from_numpy(masked_index),
        labels=torch.from_numpy(labels.ravel()[masked_index]),
        attention_mask=None if present.all() else torch.from_numpy(present.astype(np.int64)),
        document_ids=None if documents is None else torch.from_numpy(documents.astype(np.int64)),
    )


def masked_capacity(places: int, probability: float) -> int:
    """Returns the length of the list of masked positions: four standard deviations above its mean, in steps of 64.

    A fixed length lets the device compile a step once and queue it without a transfer of the number of masked positions.

    Args:
        places: positions in a micro-batch.
        probability: share of them that is masked.
    """
    expected = places * probability + 4 * math.sqrt(places * probability * (1 - probability))
    return min(places, 64 * math.ceil(expected / 64))


def fill_up(batch: MicroBatch, capacity: int) -> MicroBatch:
    """Fills the list of masked positions up to `capacity`, or to twice, four times ... that where it is longer.

    The added entries point at position 0 and have the label IGNORED: they add nothing to loss or gradient.
    """
    size = capacity
    while size < len(batch.labels):
        size *= 2
    missing = size - len(batch.labels)
    index = torch.nn.functional.pad(batch.masked_index, (0, missing))
    labels = torch.nn.functional.pad(batch.labels, (0, missing), value=IGNORED)
    draws = None if batch.draws is None else torch.nn.functional.pad(batch.draws, (0, missing))
    filled = replace(batch, masked_index=index, labels=labels, draws=draws)
    return OverlongMicroBatch(**vars(filled)) if size > capacity else filled


def iterate_steps(dataset: StepBatches, first_step: int, end_step: int, workers: int, prefetch: int) -> Iterator[StepBatch]:
    """Yields the rank's batches in order; they are the same for any number of loader processes.

    Args:
        dataset: makes the batches.
        first_step: first step, from 0.
        end_step: step after the last one.
        workers: loader processes; 0: batches are made in this process.
        prefetch: steps that each loader process works ahead.

    Raises:
        ShardError: a row is damaged or cannot be read, and the reader stops at damage.
        ResourceError: this process or a loader lacks something, or the file system does not answer.
        RuntimeError: a loader process died; torch raises this at any point of the training, see `loader_processes.explain_death`.
    """
    steps = range(first_step, end_step)
    shares = items_ahead(dataset, steps, workers, prefetch) if workers else (make_item(dataset, step) for step in steps)
    for share in shares:
        yield dataset.batch(share)


def row_chunks(rows: range, size: int) -> Iterator[np.ndarray]:
    """Yields the numbers of rows in groups of at most `size`, int64."""
    for start in range(rows.start, rows.stop, size):
        yield np.arange(start, min(start + size, rows.stop), dtype=np.int64)
