"""Where a line that is too long for an engine is cut: where the engine would end a word too, as far as that can be told.

Pure functions of one line, so that an answer never depends on the sentences around it. Know no engine and none of its limits.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

from preprocess.text import CLOSING, OPENING

KANJI = "々〆〇㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff"
HIRAGANA = "ぁ-ゖゝ-ゟ"
KATAKANA = "ァ-ヺヽ-ヿㇰ-ㇿｦ-ﾟ"
_LETTER = rf"[^\W\d_ー{KANJI}{HIRAGANA}{KATAKANA}]"
"""A letter of another script."""
ONE_SCRIPT = rf"[{KANJI}]+|[{HIRAGANA}ー]+|[{KATAKANA}ー]+|{_LETTER}+"
"""Regular expression of a run of one script."""

# A mark is a word of its own only where no other mark stands beside it: an engine may take both for one.
_NO_MARK = r"(?=[\w 「『（〈《【])"
_PLACES = [
    re.compile(places)
    for places in (
        rf"(?<=[。｡！？!?])[{CLOSING}]*{_NO_MARK}",
        rf"(?<=[、{CLOSING}]){_NO_MARK}|(?<=[\w、。 ])(?=[{OPENING}])",
        r"(?<= )",
        # Not between two marks, which may be one word (……), nor in 1,000 and e.g.
        r"(?<=[^\w ])(?<![.,:'’&@/_~-])(?=\w)|(?<=[.,:])(?=[^\W\dA-Za-z])",
        # In Juman++'s own answers a word ends at 98 to 100 of 100 such places: the kana of an ending do not stand before kanji.
        rf"(?<=[{HIRAGANA}])(?=[{KANJI}{KATAKANA}A-Za-z0-9])|(?<=[{KANJI}])(?=[{KATAKANA}A-Za-z0-9])|(?<=[{KATAKANA}ー])(?=[{KANJI}{HIRAGANA}])",
        # 68 of 100: 食|べる
        rf"(?<=[{KANJI}A-Za-z0-9])(?=[{KANJI}{HIRAGANA}{KATAKANA}])(?<![{KANJI}](?=[{KANJI}]))",
    )
]
"""Places between two characters, the best first: after sentences, at 、 and brackets, at spaces, after marks, between scripts."""
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")


def cut_long(line: str, fitting: Callable[[str, int], int]) -> Iterator[str]:
    """Yields the fragments of a line, as few as the marks in it allow; joined they are the line.

    Args:
        line: any text.
        fitting: returns how many of the line's characters from a place on may be one fragment, at least one.
    """
    start = 0
    while start + (size := fitting(line, start)) < len(line):
        cut = _best_cut(line, start, start + size)
        yield line[start:cut]
        start = cut
    yield line[start:]


def cut_runs(line: str, runs: re.Pattern[str], most: int) -> Iterator[str]:
    """Yields the fragments of a line whose runs, as the expression finds them, have at most `most` characters; joined they are the line."""
    start = 0
    for match in runs.finditer(line):
        if match.end() - match.start() <= most:
            continue
        if start < match.start():
            yield line[start : match.start()]
        start = match.start()
        while start < match.end():
            cut = match.end() if match.end() - start <= most else _whole_character(line, start, start + most)
            yield line[start:cut]
            start = cut
    if start < len(line):
        yield line[start:]


def _best_cut(line: str, start: int, end: int) -> int:
    """Returns a place in (start, end] at which to cut."""
    for places in _PLACES:
        # The first half would leave short fragments, so it is looked at only where the second half has none of these places.
        for first in (start + (end - start) // 2, start + 1):
            if found := [match.end() for match in places.finditer(line, first, min(end + 1, len(line))) if match.end() <= end]:
                return found[-1]
    return _whole_character(line, start, end)


def _whole_character(line: str, start: int, cut: int) -> int:
    """Returns the last place up to `cut` that does not part a letter from its marks, or `cut` where they are too many."""
    # No more marks than that follow each other in a normalised text.
    for place in range(cut, max(start, cut - 40), -1):
        if place == len(line) or not (unicodedata.combining(line[place]) or {line[place], line[place - 1]} & _JOINERS):
            return place
    return cut
