"""Bits per character of raw texts by pseudo-log-likelihood (Wang and Cho, 2019, arXiv:1902.04094), whole words masked together.

For each word of a text all of its pieces are replaced by the mask token, the rest of the text stays, and the pieces are predicted
independently of each other. Rows of equal length are computed together, so that no row is padded and their number changes only the last
digits.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from jadeberta.compare.restoring import UNKNOWN_BITS, Restorer, flag_bits
from jadeberta.compare.text_encoders import TextPieces
from jadeberta.compare.text_files import RawText
from jadeberta.compare.text_models import TextModel
from jadeberta.compare.text_units import Unit, cut_long_units, units_of, windows_of
from preprocess.text import cut_sentences


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text with its predicted bits and those of its unknown characters; what normalisation changed is not in them."""

    start: int
    end: int
    """Characters [start, end) of the text."""
    characters: int
    bits: float


@dataclass
class TextScore:
    """Figures of one text; sums, so that those of several add up."""

    characters: int
    """Raw characters without spaces: the denominator for every model."""
    predicted_bits: float
    """Of all pieces, [UNK] among them."""
    unknown: int
    """Characters that no piece spells; each costs `UNKNOWN_BITS` more."""
    changed: int
    """Characters that normalisation changed."""
    restored_bits: float
    """Cost of getting them back."""
    correct: int
    """Characters whose pieces were all predicted."""
    units: int
    pieces: int
    sentences: list[Sentence] = field(default_factory=list)
    is_rejected: bool = False
    """Whether the segmenter gave no words, so that the text was read without."""

    @property
    def bits(self) -> float:
        """All bits of the raw text."""
        return self.predicted_bits + self.unknown * UNKNOWN_BITS + self.restored_bits


@dataclass(frozen=True)
class _Job:
    """A unit to predict."""

    text: int
    ids: np.ndarray
    """The row, int64, not masked yet."""
    columns: np.ndarray
    """Places of its pieces in the row."""
    pieces: np.ndarray
    """Places of its pieces in the text."""


def score_texts(
    model: TextModel, texts: Sequence[RawText], batch_size: int, progress: Callable[[int, int], None] | None = None
) -> list[TextScore]:
    """Scores texts.

    Args:
        model: an open model.
        texts: raw texts.
        batch_size: rows at once.
        progress: is told rows done and rows in all.
    """
    encoded = [model.encode(text.text) for text in texts]
    units = [cut_long_units(units_of(pieces.words, pieces.spans), pieces.spans, model.longest) for pieces in encoded]
    jobs = [job for number in range(len(texts)) for job in _jobs(model, number, encoded[number], units[number])]
    nats = [np.zeros(len(pieces.ids)) for pieces in encoded]
    right = [np.zeros(len(pieces.ids), bool) for pieces in encoded]
    done = 0
    for batch in _batches(sorted(jobs, key=lambda job: len(job.ids)), batch_size):
        for job, (loss, correct) in zip(batch, _predict(model, batch), strict=True):
            nats[job.text][job.pieces], right[job.text][job.pieces] = loss, correct
        done += len(batch)
        if progress is not None:
            progress(done, len(jobs))
    restorer = Restorer(model.fold)
    scores = [_score(model, texts[n].text, encoded[n], units[n], nats[n], right[n], restorer) for n in range(len(texts))]
    flags = flag_bits(np.array([s.changed for s in scores], float), np.array([s.characters for s in scores], float))
    for score, bits in zip(scores, flags.tolist(), strict=True):
        score.restored_bits += bits
    return scores


def _jobs(model: TextModel, number: int, text: TextPieces, units: Sequence[Unit]) -> Iterable[_Job]:
    before, after = (np.array(part, np.int64) for part in model.frame)
    ids = np.array(text.ids, np.int64)
    for start, end, members in windows_of(units, len(ids), model.longest):
        row = np.concatenate([before, ids[start:end], after])
        for member in members:
            pieces = np.array(units[member].pieces)
            yield _Job(number, row, pieces - start + len(before), pieces)


def _batches(jobs: Sequence[_Job], size: int) -> Iterable[list[_Job]]:
    """Jobs with rows of equal length, at most `size` together."""
    batch: list[_Job] = []
    for job in jobs:
        if batch and (len(batch) == size or len(job.ids) != len(batch[0].ids)):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _predict(model: TextModel, batch: Sequence[_Job]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nats of each piece of each job, float64, and whether it was the likeliest."""
    ids = np.stack([job.ids for job in batch])
    rows = np.concatenate([np.full(len(job.columns), row) for row, job in enumerate(batch)])
    columns = np.concatenate([job.columns for job in batch])
    targets = torch.from_numpy(ids[rows, columns]).to(model.device)
    ids[rows, columns] = model.mask
    with torch.inference_mode():
        logits = model.logits(*(torch.from_numpy(part).to(model.device) for part in (ids, rows, columns)))
        loss = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none").cpu().numpy()
        correct = (logits.argmax(-1) == targets).cpu().numpy()
    ends = np.cumsum([len(job.columns) for job in batch])[:-1]
    return list(zip(np.split(loss, ends), np.split(correct, ends), strict=True))


def _score(
    model: TextModel,
    text: str,
    pieces: TextPieces,
    units: Sequence[Unit],
    nats: np.ndarray,
    right: np.ndarray,
    restorer: Restorer,
) -> TextScore:
    counts = np.array([not character.isspace() for character in text], bool)
    is_known, is_right = np.zeros(len(text), bool), np.ones(len(text), bool)
    is_unknown = np.zeros(len(text), bool)
    for number, (start, end), correct in zip(pieces.ids, pieces.spans, right.tolist(), strict=True):
        (is_unknown if number in model.unknown else is_known)[start:end] = True
        is_right[start:end] &= correct
    changed = [place for place in range(len(text)) if counts[place] and restorer.changed(text[place])]
    # Left out by the tokenizer: its normaliser says so, or nobody does.
    is_changed = np.zeros(len(text), bool)
    is_changed[changed] = True
    unknown = counts & (is_unknown | (~is_known & ~is_changed))
    restored = [text[place] for place in changed if not unknown[place]]
    bits = nats / math.log(2)
    # Spaces and newlines do not count, and some tokenizers have no pieces for them.
    for unit in units:
        if unit.start < unit.end and not counts[unit.start : unit.end].any():
            bits[list(unit.pieces)] = 0.0
    return TextScore(
        characters=int(counts.sum()),
        predicted_bits=float(bits.sum()),
        unknown=int(unknown.sum()),
        changed=len(restored),
        restored_bits=restorer.identity_bits(restored),
        correct=int((counts & is_known & is_right & ~unknown).sum()),
        units=len(units),
        pieces=len(pieces.ids),
        sentences=_sentences(text, counts, units, bits, unknown),
        is_rejected=pieces.is_rejected,
    )


def _sentences(text: str, counts: np.ndarray, units: Sequence[Unit], bits: np.ndarray, unknown: np.ndarray) -> list[Sentence]:
    """The sentences of a text; a unit belongs to the one in which it begins."""
    ends: list[int] = []
    for fragment in cut_sentences(text):
        # Fragments are the text without its newlines, in order.
        start = text.find(fragment, ends[-1] if ends else 0)
        ends.append((start if start >= 0 else ends[-1] if ends else 0) + len(fragment))
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    starts = [0, *ends[:-1]]
    sums = np.zeros(len(ends))
    for unit in units:
        sums[min(int(np.searchsorted(ends, unit.start, side="right")), len(ends) - 1)] += bits[list(unit.pieces)].sum()
    found = []
    for start, end, own in zip(starts, ends, sums.tolist(), strict=True):
        if characters := int(counts[start:end].sum()):
            found.append(Sentence(start, end, characters, own + float(unknown[start:end].sum()) * UNKNOWN_BITS))
    return found
