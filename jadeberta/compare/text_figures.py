"""Figures of a model on texts, with intervals by document, and their paired differences between models."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jadeberta.compare.restoring import UNKNOWN_BITS
from jadeberta.compare.text_files import RawText
from jadeberta.compare.text_scores import TextScore
from jadeberta.evaluation.bootstrap import interval_of, ratio_intervals, resampled_sums

COLUMNS = {"bits_per_character": 0, "accuracy": 1}
CHARACTERS = 2
"""Columns of `sums_of`: bits, correct characters, characters."""


def sums_of(scores: Sequence[TextScore]) -> np.ndarray:
    """Bits, correctly predicted characters and characters of each text, float64 [texts, 3]."""
    return np.array([[s.bits, s.correct, s.characters] for s in scores], float).reshape(-1, 3)


def strata_of(texts: Sequence[RawText], sums: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of `sums` by file or corpus, in the order of their first texts."""
    names = list(dict.fromkeys(text.file for text in texts))
    return {name: sums[[place for place, text in enumerate(texts) if text.file == name]] for name in names}


def figures_of(scores: Sequence[TextScore], strata: Sequence[np.ndarray]) -> dict[str, Any]:
    """Bits per character and masked accuracy by character, with 95% intervals, and what they are made of.

    Args:
        scores: of some texts.
        strata: their `sums_of`, by file.
    """
    characters = sum(s.characters for s in scores)
    bits = sum(s.bits for s in scores)
    return {
        "bits_per_character": bits / characters,
        "accuracy": sum(s.correct for s in scores) / characters,
        "interval": ratio_intervals(strata, COLUMNS, CHARACTERS),
        "documents": len(scores),
        "characters": characters,
        "units": sum(s.units for s in scores),
        "pieces": sum(s.pieces for s in scores),
        "bits": {
            "predicted": sum(s.predicted_bits for s in scores),
            "unknown": sum(s.unknown for s in scores) * UNKNOWN_BITS,
            "restored": sum(s.restored_bits for s in scores),
        },
        "unknown_characters": sum(s.unknown for s in scores),
        "changed_characters": sum(s.changed for s in scores),
        "rejected_texts": sum(s.is_rejected for s in scores),
    }


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Paired differences of two models' figures, one minus the other, with 95% intervals from the same resampled documents.

    Args:
        one: `strata_of` a model.
        other: those of the other model on the same texts.
    """
    found: dict[str, dict[str, Any]] = {}
    paired = [np.concatenate([one[name], other[name]], axis=1) for name in one]
    total = sum(part.sum(axis=0) for part in paired)
    has_interval = sum(map(len, paired)) > 1
    drawn = resampled_sums(paired) if has_interval else None
    for name, column in COLUMNS.items():
        ratios = [sums[..., column] / sums[..., CHARACTERS] - sums[..., 3 + column] / sums[..., 3 + CHARACTERS]
                  for sums in ([total] if drawn is None else [total, drawn])]  # fmt: skip
        found[name] = {"difference": float(ratios[0]), "interval": None if drawn is None else interval_of(ratios[1])}
    return found
