"""What two or more models differ in on the same texts: paired intervals, sentences, and the course of the runs among them."""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from jadeberta.checkpoint.manifest import list_checkpoints, step_of, verify
from jadeberta.compare.text_figures import COLUMNS, differences, strata_of, sums_of
from jadeberta.compare.text_files import RawText
from jadeberta.compare.text_scores import TextScore

SENTENCES = 20
"""Sentences that are shown."""


def pairs_of(names: Sequence[str], texts: Sequence[RawText], scores: Sequence[Sequence[TextScore]]) -> list[dict[str, Any]]:
    """Paired differences of every two models, the first minus the second.

    Args:
        names: of the models.
        texts: all texts.
        scores: of each model, in the order of the texts.
    """
    strata = [strata_of(texts, sums_of(each)) for each in scores]
    return [
        {"first": names[a], "second": names[b], **differences(strata[a], strata[b])}
        for a, b in combinations(range(len(names)), 2)
    ]


def is_decided(pair: dict[str, Any], figure: str) -> bool:
    """Whether the interval of a difference leaves zero out."""
    ends = pair[figure]["interval"]
    return ends is not None and (ends[0] > 0 or ends[1] < 0)


def most_different(
    texts: Sequence[RawText], scores: Sequence[Sequence[TextScore]], count: int = SENTENCES
) -> list[dict[str, Any]]:
    """The sentences whose bits the models differ in most, the largest difference first.

    Args:
        texts: all texts.
        scores: of each model, in the order of the texts.
        count: sentences to return.
    """
    found = []
    for number in range(len(texts)):
        for same in zip(*(each[number].sentences for each in scores), strict=True):
            bits = [sentence.bits for sentence in same]
            found.append((max(bits) - min(bits), number, same))
    found.sort(key=lambda entry: (-entry[0], entry[1], entry[2][0].start))
    return [
        {
            "file": texts[number].file,
            "document": texts[number].name,
            "sentence": texts[number].text[same[0].start : same[0].end].strip(),
            "characters": same[0].characters,
            "bits_per_character": [sentence.bits / sentence.characters for sentence in same],
        }
        for difference, number, same in found[:count]
        if difference > 0
    ]


def kept_checkpoints(path: Path, count: int) -> list[Path]:
    """The checkpoints of a run that can be trusted, at most `count` of them, the first and the last among them; none of anything else."""
    kept = [each for root in (path / "checkpoints", path) for each in list_checkpoints(root) if not verify(each, small_only=True)]
    if len(kept) <= count or count < 2:
        return kept[-count:] if count else []
    places = np.unique(np.linspace(0, len(kept) - 1, count).round().astype(int))
    return [kept[place] for place in places]


def course_of(kept: Sequence[Path], measure: Callable[[Path], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Figures of the kept checkpoints of a run by step; empty where fewer than two are kept.

    Args:
        kept: `kept_checkpoints` of the model.
        measure: gives the figures of a checkpoint; None leaves it out.
    """
    if len(kept) < 2:
        return []
    return [
        {"step": step_of(each), **{key: found[key] for key in (*COLUMNS, "interval")}}
        for each in kept
        for found in (measure(each),)
        if found is not None
    ]
