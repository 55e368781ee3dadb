"""What is masked together: the pieces of a text in units of whole words, with the raw characters that each unit stands for.

Pure functions on strings and arrays. A unit covers the characters of a word of the raw text; pieces that reach over two words join them.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LONGEST_WORD = 16
"""Characters; what a tokenizer calls a word and is longer, as a sentence without spaces, is cut where the script changes."""


@dataclass(frozen=True)
class Unit:
    """Pieces that are masked and predicted together."""

    pieces: tuple[int, ...]
    """Their places in the text's pieces, ascending."""
    start: int
    end: int
    """Characters [start, end) of the raw text."""


@cache
def script_of(character: str) -> str:
    """Returns the script of a character as far as Japanese words change with it."""
    if character.isspace():
        return "space"
    if character.isdigit():
        return "digit"
    name = unicodedata.name(character, "")
    if character in "ーｰ々〆〇":
        return "kept"  # belongs to what is before it
    for script in ("HIRAGANA", "KATAKANA", "CJK UNIFIED", "LATIN"):
        if script in name:
            return script
    return "letter" if character.isalpha() else character


def words_by_script(text: str) -> np.ndarray:
    """Number of the word of each character, int64: a word is a run of one script, or of one sign."""
    found = np.zeros(len(text), np.int64)
    before, number = "", -1
    for place, character in enumerate(text):
        script = script_of(character)
        if not (script == before or (script == "kept" and place)):
            number, before = number + 1, script
        found[place] = number
    return found


def cut_long_words(numbers: np.ndarray, text: str) -> np.ndarray:
    """Cuts words of more than `LONGEST_WORD` characters where the script changes.

    Args:
        numbers: number of the word of each character, not descending.
        text: the characters.
    """
    if not len(numbers):
        return numbers
    scripts = words_by_script(text)
    edges = np.flatnonzero(np.diff(numbers)) + 1
    starts, ends = np.array([0, *edges]), np.array([*edges, len(numbers)])
    begins = np.zeros(len(numbers), bool)
    begins[starts] = True
    changes = np.diff(scripts, prepend=scripts[0] - 1) != 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start > LONGEST_WORD:
            begins[start:end] |= changes[start:end]
    return np.cumsum(begins) - 1


def units_of(words: np.ndarray, spans: Sequence[tuple[int, int]]) -> list[Unit]:
    """Groups pieces by the words of the characters that they stand for.

    Args:
        words: number of the word of each raw character, not descending.
        spans: raw characters [start, end) of each piece, in order; an empty one, such as a lone mark of a word's start, goes with the next
            piece, and at the end with the one before.
    """
    groups: list[tuple[list[int], int, int]] = []
    waiting: list[int] = []
    for place, (start, end) in enumerate(spans):
        if start >= end:
            waiting.append(place)
            continue
        if groups and (start < groups[-1][2] or words[start] == words[groups[-1][2] - 1]):
            pieces, first, last = groups[-1]
            groups[-1] = ([*pieces, *waiting, place], first, max(last, end))
        else:
            groups.append(([*waiting, place], start, end))
        waiting = []
    if waiting and groups:
        groups[-1] = (groups[-1][0] + waiting, *groups[-1][1:])
    return [Unit(tuple(pieces), start, end) for pieces, start, end in groups]


def cut_long_units(units: Sequence[Unit], spans: Sequence[tuple[int, int]], longest: int) -> list[Unit]:
    """Cuts units into parts that fit into a window of `windows_of`, of at most half its pieces.

    Args:
        units: of a text.
        spans: raw characters [start, end) of each piece.
        longest: pieces of a window.
    """
    most = max(1, longest // 2)
    found = []
    for unit in units:
        if len(unit.pieces) <= most:
            found.append(unit)
            continue
        for first in range(0, len(unit.pieces), most):
            pieces = unit.pieces[first : first + most]
            found.append(Unit(pieces, spans[pieces[0]][0], max(spans[piece][1] for piece in pieces)))
    return found


def windows_of(units: Sequence[Unit], pieces: int, longest: int) -> list[tuple[int, int, list[int]]]:
    """Cuts a text into windows that overlap by half, and gives each unit to the one in which it has most context on its shorter side.

    Args:
        units: of the text, as `cut_long_units` leaves them; a unit of at most half a window is whole in one.
        pieces: number of its pieces.
        longest: pieces of a window.

    Returns:
        For each window its first piece, the piece behind its last one, and the numbers of its units.
    """
    stride = max(1, longest // 2)
    count = 1 if pieces <= longest else 1 + -(-(pieces - longest) // stride)
    found: list[tuple[int, int, list[int]]] = [
        (start := min(number * stride, max(0, pieces - longest)), min(pieces, start + longest), []) for number in range(count)
    ]
    for number, unit in enumerate(units):
        first, last = unit.pieces[0], unit.pieces[-1]
        inside = [w for w in found if w[0] <= first and last < w[1]]
        best = max(inside, key=lambda w: (min(_margin(first - w[0], w[0] == 0), _margin(w[1] - 1 - last, w[1] == pieces)), -w[0]))
        best[2].append(number)
    return [window for window in found if window[2]]


def _margin(pieces: int, is_end_of_text: bool) -> float:
    """Context on a side; at the text's own end there is no more to be had."""
    return float("inf") if is_end_of_text else pieces
