"""Maps each character of a normalised text to the characters of the original text.

Pure functions on strings. NFKC joins characters (ｶ and ﾞ are ガ), splits them (㌔ is キロ) and drops spaces. The text is cut where NFKC
joins nothing, and each fragment is normalised separately, so that the position of each fragment is known.
"""

import re
import unicodedata
from functools import cache
from itertools import pairwise

from preprocess.text import normalise

Span = tuple[int, int]
"""Characters [start, end)."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def align(text: str) -> tuple[str, list[Span]]:
    """Returns the characters of `normalise(text)` without spaces, and for each the span of `text` that it comes from.

    Spans ascend; characters that NFKC joined or split share one.
    """
    # Lone surrogates are dropped first, because normalise drops them and joins over them.
    places = [place for place, character in enumerate(text) if not _SURROGATE.match(character)]
    kept = "".join(text[place] for place in places)
    characters: list[str] = []
    spans: list[Span] = []
    starts = [n for n, character in enumerate(kept) if n == 0 or _stands_alone(character)]
    for start, end in pairwise([*starts, len(kept)]):
        found = "".join(normalise(kept[start:end]).split())
        characters.append(found)
        spans += [(places[start], places[end - 1] + 1)] * len(found)
    return "".join(characters), spans


@cache
def _stands_alone(character: str) -> bool:
    """Whether NFKC joins and reorders nothing across the position before a character."""
    # Decomposed, because ﾞ (U+FF9E) is no combining mark itself but becomes one (U+3099).
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.combining(first) == 0 and first not in _joining_starters()


@cache
def _joining_starters() -> frozenset[str]:
    """Characters that NFKC may join to the previous one although they are not combining marks (UAX #15)."""
    hangul = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]  # vowels and finals, joined by rule and not by table
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(0x110000))
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    return frozenset(c for c in seconds if unicodedata.combining(c) == 0) | frozenset(map(chr, hangul))
