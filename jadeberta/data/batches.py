"""The batches of a rank, step by step, prepared ahead by loader processes.

A batch is a pure function of the step's number: starting at any step costs nothing, and the number of loaders changes no batch.
"""

import math
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader, Dataset

from jadeberta.data.masking import IGNORED, Masker
from jadeberta.data.sample_order import SampleOrder, rank_share
from jadeberta.errors import JadebertaError
from jadeberta.shards import ExcludedRows, ShardReader
from jadeberta.shards.tokenizer_format import PAD
from jadeberta.utils.processes import end_with_parent
from jadeberta.utils.temporary import share_temporary_directory


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


class StepDataset(Dataset):
    """Maps a step (from 0) to the rank's batch of that step."""

    def __init__(
        self,
        shards: ShardReader,
        order: SampleOrder,
        masker: Masker,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        by_document: bool,
        whole_words: bool = False,
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
        """
        self.shards, self.order, self.masker = shards, order, masker
        self.capacity = masked_capacity(micro_batch_size * shards.sequence_length, masker.probability)
        self.place = (micro_batch_size, rank, world_size)
        self.by_document, self.whole_words = by_document, whole_words

    def __getitem__(self, step: int) -> "StepBatch | JadebertaError":
        """Returns the batch, or the error of reading it: raised in a loader process, torch would bury it in a traceback of its own."""
        try:
            return self._make(step)
        except JadebertaError as e:
            return e

    def _make(self, step: int) -> StepBatch:
        epochs, samples = self.order.step(step)
        # Of the global batch, before it is shared out over the ranks: the hash must not depend on the world size.
        digest = xxhash.xxh64(np.stack([epochs, samples], axis=1).astype("<i8").tobytes()).hexdigest()
        micro_batches, masked, tokens = [], 0, 0
        self.shards.take_excluded()  # records of earlier reads do not belong to this batch
        for places in rank_share(len(samples), *self.place):
            rows, documents, starts = self.shards.rows_with_words(self.order.rows(samples[places]))
            ids, labels = self.masker(rows, epochs[places], samples[places], starts if self.whole_words else None)
            micro_batch = make_micro_batch(ids, labels, rows, documents if self.by_document else None)
            masked += len(micro_batch.labels)
            micro_batches.append(fill_up(micro_batch, self.capacity))
            tokens += int(np.count_nonzero(rows))
        return StepBatch(step, int(epochs[0]), digest, micro_batches, masked, tokens, self.shards.take_excluded())


def make_micro_batch(ids: np.ndarray, labels: np.ndarray, rows: np.ndarray, documents: np.ndarray | None) -> MicroBatch:
    """Makes the tensors of one micro-batch.

    Args:
        ids: masked token ids, [batch, length].
        labels: tokens to predict, elsewhere IGNORED, [batch, length].
        rows: tokens before masking, [batch, length].
        documents: document numbers, [batch, length]; None where attention crosses documents.
    """
    masked_index = np.flatnonzero(labels != IGNORED)
    present = rows != PAD
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
    return replace(batch, masked_index=index, labels=torch.nn.functional.pad(batch.labels, (0, missing), value=IGNORED))


def iterate_steps(dataset: StepDataset, first_step: int, end_step: int, workers: int, prefetch: int) -> Iterator[StepBatch]:
    """Yields the rank's batches in order; they are the same for any number of loader processes.

    Args:
        dataset: makes the batches.
        first_step: first step, from 0.
        end_step: step after the last one.
        workers: loader processes; 0: batches are made in this process.
        prefetch: steps that each loader process works ahead.

    Raises:
        ShardError: a row is damaged or cannot be read, and the reader stops at damage.
        RuntimeError: a loader process died; torch raises this at any point of the training.
    """
    if workers:
        share_temporary_directory()
    loader = DataLoader(
        dataset,
        # The data set makes the batch of a whole step; torch must not join several of them.
        batch_size=None,
        sampler=range(first_step, end_step),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=None,
        worker_init_fn=_init_worker if workers else None,
        persistent_workers=False,
    )
    for item in loader:
        if isinstance(item, JadebertaError):
            raise item
        yield item


def _init_worker(worker: int) -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None and trainer.pid is not None
    end_with_parent(trainer.pid)
    # A signal to the whole process group is the training process's to answer; a loader that died of it would fail the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(1)
