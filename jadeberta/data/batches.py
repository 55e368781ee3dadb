"""The batches of a rank, step by step, made by loader processes that only work ahead.

The loader is asked for steps by number: starting at any step costs nothing, and workers change no batch.
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


@dataclass
class MicroBatch:
    """What one pass through the model takes."""

    input_ids: torch.Tensor  # int64 [batch, length]
    masked_index: torch.Tensor  # int64 [masked], places in the flattened batch that are predicted
    labels: torch.Tensor  # int64 [masked], the tokens there; IGNORED where the list was filled up
    attention_mask: torch.Tensor | None  # int64 [batch, length], 1 = token; None where no row is padded
    document_ids: torch.Tensor | None  # int64 [batch, length], 0 = padding; None where rows are one text


@dataclass
class StepBatch:
    """A rank's share of one optimizer step."""

    step: int
    epoch: int
    """Of the first sample."""
    batch_hash: str
    """xxh64 of the step's global (epoch, sample) pairs in order: equal hashes mean equal data, at any world size."""
    micro_batches: list[MicroBatch]
    masked_tokens: int
    tokens: int
    """Tokens without padding."""
    excluded: list[ExcludedRows] = field(default_factory=list)
    """Damaged rows of this share: each is all padding, so nothing of it is predicted."""


class StepDataset(Dataset):
    """`dataset[step]` is the rank's batch of that step (from 0)."""

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
        """`whole_words`: whole words are masked where the shards tell where they start; where the pieces do, the masker knows."""
        self.shards, self.order, self.masker = shards, order, masker
        self.capacity = masked_capacity(micro_batch_size * shards.sequence_length, masker.probability)
        self.place = (micro_batch_size, rank, world_size)
        self.by_document, self.whole_words = by_document, whole_words

    def __getitem__(self, step: int) -> "StepBatch | JadebertaError":
        """The batch, or the error that reading it met: raised in a loader process it would lose its own words."""
        try:
            return self._make(step)
        except JadebertaError as e:
            return e

    def _make(self, step: int) -> StepBatch:
        epochs, samples = self.order.step(step)
        digest = xxhash.xxh64(np.stack([epochs, samples], axis=1).astype("<i8").tobytes()).hexdigest()
        micro_batches, masked, tokens = [], 0, 0
        self.shards.take_excluded()  # what others read before is not this batch's
        for places in rank_share(len(samples), *self.place):
            rows, documents, starts = self.shards.rows_with_words(self.order.rows(samples[places]))
            ids, labels = self.masker(rows, epochs[places], samples[places], starts if self.whole_words else None)
            micro_batch = make_micro_batch(ids, labels, rows, documents if self.by_document else None)
            masked += len(micro_batch.labels)
            micro_batches.append(fill_up(micro_batch, self.capacity))
            tokens += int(np.count_nonzero(rows))
        return StepBatch(step, int(epochs[0]), digest, micro_batches, masked, tokens, self.shards.take_excluded())


def make_micro_batch(ids: np.ndarray, labels: np.ndarray, rows: np.ndarray, documents: np.ndarray | None) -> MicroBatch:
    """Tensors of one micro-batch; all arguments [batch, length], `rows` the tokens before masking."""
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
    """How long the list of masked places is made: four standard deviations above its mean, in steps of 64.

    A list of one length lets the device compile and queue a step once, and never asks it how many places there are.
    """
    expected = places * probability + 4 * math.sqrt(places * probability * (1 - probability))
    return min(places, 64 * math.ceil(expected / 64))


def fill_up(batch: MicroBatch, capacity: int) -> MicroBatch:
    """The batch with its list of masked places filled up to `capacity`, or to twice, four times ... that where it is longer.

    What is filled in points at the first place and has the label IGNORED: it adds nothing to loss or gradient.
    """
    size = capacity
    while size < len(batch.labels):
        size *= 2
    missing = size - len(batch.labels)
    index = torch.nn.functional.pad(batch.masked_index, (0, missing))
    return replace(batch, masked_index=index, labels=torch.nn.functional.pad(batch.labels, (0, missing), value=IGNORED))


def iterate_steps(dataset: StepDataset, first_step: int, end_step: int, workers: int, prefetch: int) -> Iterator[StepBatch]:
    """The rank's batches of steps first_step .. end_step - 1, in order, for any number of loader processes.

    Raises:
        ShardError: a row is damaged or cannot be read, and the reader shall stop at that.
        RuntimeError: a loader process is gone; torch raises it wherever the training happens to be.
    """
    loader = DataLoader(
        dataset,
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
