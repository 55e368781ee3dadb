"""The data of a run: what its shards hold for each phase, in which order, and the batches that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jadeberta.config import Recipe
from jadeberta.config.phases import Phase, has_own_order, phase_at, phases_of, with_lengths
from jadeberta.data.batches import StepArrays, StepBatch, StepBatches, StepDataset
from jadeberta.data.masking import Masker
from jadeberta.data.phase_order import OrderOfPhase, PhasedOrder, draw_of
from jadeberta.data.sample_order import SampleOrder
from jadeberta.errors import ConfigError
from jadeberta.shards import ShardReader
from jadeberta.shards import open as open_shards


@dataclass(frozen=True)
class RunData:
    """The training rows of a run, with everything that depends on the phase."""

    phases: tuple[Phase, ...]
    """With their row lengths."""
    readers: dict[int, ShardReader]
    """By row length; the first one is that of a run without phases."""
    repeats: dict[str, int]
    """How often an epoch sees each corpus, run-wide: the index's numbers, with those of the recipe over them."""
    order: SampleOrder | PhasedOrder
    """Before any roll-back."""

    @property
    def shards(self) -> ShardReader:
        """Rows of the directory's only or first length."""
        return next(iter(self.readers.values()))

    def reader(self, phase: Phase) -> ShardReader:
        """Rows that a phase reads."""
        assert phase.sequence_length is not None
        return self.readers[phase.sequence_length]


def open_run_data(recipe: Recipe) -> RunData:
    """Opens the shards of a recipe in every row length that it reads.

    Raises:
        ConfigError: the recipe names a corpus that is not there, or a phase finds no rows.
        ShardError: the shards cannot be used, or have no rows of a length.
    """
    shards = open_shards(recipe.data.shards, damaged=recipe.data.damaged)
    phases = with_lengths(phases_of(recipe), shards.sequence_length)
    readers = {shards.sequence_length: shards}
    for length in (phase.sequence_length or 0 for phase in phases):
        if length not in readers:
            readers[length] = open_shards(recipe.data.shards, damaged=recipe.data.damaged, sequence_length=length)
    repeats = effective_repeats(recipe.data.repeats, shards, "data.repeats")
    _refuse_unknown(recipe.data.weights, shards, "data.weights")
    seed, sizes = recipe.training.seed, recipe.training.batch_sizes
    if not has_own_order(recipe):
        order = SampleOrder.of(seed, sizes.last, shards.corpora, repeats, sizes.warmup)
        if order.epoch_size == 0:
            raise ConfigError(f"{shards.directory}: no sequence to train on with data.repeats {repeats}.")
        return RunData(phases, readers, repeats, order)
    draws = []
    for phase in phases:
        where = f"phases, entry {phase.number}: " if recipe.phases else "data."
        reader = readers[phase.sequence_length or 0]
        times = effective_repeats(phase.repeats, reader, f"{where}repeats")
        _refuse_unknown(phase.weights, reader, f"{where}weights")
        if empty := [name for name, weight in phase.weights.items() if weight and not reader.corpora[name]]:
            raise ConfigError(
                f"{where}weights gives '{empty[0]}' a share, but {reader.index_path} holds no rows of {reader.sequence_length} tokens of "
                "it. Set the weight to 0, or make such rows."
            )
        # Mixed as in a run without phases, in the same order too.
        is_published = reader is shards and not phase.weights and times == repeats
        draw = draw_of(seed, reader.sequence_length, reader.corpora, times, phase.weights, is_published)
        if draw.epoch_size == 0:
            raise ConfigError(f"{where}no sequence of {reader.sequence_length} tokens in {reader.directory} to train on.")
        draws.append(draw)
    return RunData(phases, readers, repeats, PhasedOrder(phases, tuple(draws)))


def effective_repeats(changed: Mapping[str, int], shards: ShardReader, key: str) -> dict[str, int]:
    """How often an epoch sees each corpus: as the recipe says, else as the index says.

    Args:
        changed: what the recipe says.
        shards: the training split.
        key: of the recipe.

    Raises:
        ConfigError: the recipe names a corpus that the shards do not hold.
    """
    _refuse_unknown(changed, shards, key)
    return {name: corpus.repeats for name, corpus in shards.index.corpora.items()} | dict(changed)


def _refuse_unknown(named: Mapping[str, float], shards: ShardReader, key: str) -> None:
    if unknown := sorted(named.keys() - shards.index.corpora.keys()):
        raise ConfigError(
            f"{key} names '{unknown[0]}', which {shards.directory} does not hold; it holds {', '.join(shards.index.corpora)}."
        )


class RunDataset(StepBatches):
    """Maps a step (from 0) to the rank's share of that step, in every phase.

    One set of loader processes serves all phases: they read ahead over a border.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: RunData,
        order: SampleOrder | PhasedOrder,
        rank: int,
        world_size: int,
        words: np.ndarray | None,
    ) -> None:
        """Args:
        recipe: of the run.
        data: of the run.
        order: that of the data, with what roll-backs skipped.
        rank: number of this rank.
        world_size: number of ranks.
        words: bool [vocab_size], True for pieces that start a word; None where words are not masked as wholes, or the shards tell.
        """
        self.phases = data.phases
        is_rtd = recipe.training.objective == "rtd"
        by_document, whole_words = recipe.data.packing == "documents", recipe.training.whole_word_mask
        self._parts: list[StepDataset] = []
        for phase in self.phases:
            shards, bounds = data.reader(phase), phase.mask_bounds
            seed = order.draws[phase.number - 1].seed if isinstance(order, PhasedOrder) else order.seed
            # The most that a step masks: the lists of masked positions keep one length throughout the phase.
            masker = Masker(seed, shards.index.vocab_size, max(bounds), words, shards.index.special_tokens, always_mask=is_rtd)
            own = OrderOfPhase(order, phase) if isinstance(order, PhasedOrder) else order
            part = StepDataset(shards, own, masker, phase.micro_batch_size, rank, world_size, by_document, whole_words, is_rtd)
            if bounds[0] != bounds[1]:
                part.mask_probability_at = phase.mask_probability_at
            self._parts.append(part)

    def __getitem__(self, step: int) -> StepArrays:
        """Returns the share of a step; raises the errors of reading it."""
        return self._part(step)[step]

    def batch(self, share: StepArrays) -> StepBatch:
        """Makes the micro-batches of a share, as `StepDataset.batch`."""
        return self._part(share.step).batch(share)

    def _part(self, step: int) -> StepDataset:
        return self._parts[phase_at(self.phases, step).number - 1]
