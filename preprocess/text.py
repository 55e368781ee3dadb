"""Normalises text and splits it into sentences, by rules that are versioned by name.

Pure functions on strings. The names go into the shards' metadata: change a rule, change its name.
"""

import re
import unicodedata
from functools import cache, lru_cache

import numpy as np

NORMALISER = "nfkc-space-2"
SPLITTER = "punctuation-brackets-1"

# Every control character and every Unicode space. Python's \s leaves out the zero-width ones, which NFKC leaves alone too.
# ▁ (U+2581) is how sentencepiece writes a space: in a text it would be one, but not for every tokenizer at every place.
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u180e\u200b\u2581\ufeff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

OPENING = "（(「『【［[〈《〔｛{“｢〖〘"
CLOSING = "）)」』】］]〉》〕｝}”｣〗〙"
# NFKC makes one of these pairs out of two widths, so a bracket may be closed by its kin of the other width.
_KIN = {**dict(zip(CLOSING, OPENING, strict=True)), "）": "(", "］": "[", "｝": "{", "｣": "「"}
_OPENING_KIN = {"（": "(", "［": "[", "｛": "{", "｢": "「"}
_ALWAYS = "。｡！？♪♫☆★…‥⁇⁈⁉‼"
_BEFORE_A_BREAK = "!?.．"
_MARKS = _ALWAYS + _BEFORE_A_BREAK
# One class of characters: of several alternatives Python's re finds the next one five times as slowly.
_TOKEN = re.compile(f"[{re.escape(_MARKS + OPENING + CLOSING)}\\n\\r\\x85\\u2028\\u2029]")
_ALWAYS_MARK = re.compile(f"[{_ALWAYS}]")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN_OR_DIGIT = re.compile("[0-9A-Za-z０-９Ａ-Ｚａ-ｚ]")
_SPACES = re.compile(" {2,}")

MOST_MARKS = 30
"""Number of combining marks that may follow each other, as in UAX #15's Stream-Safe Text Format."""
# A character may end with up to three marks of its own, which are not seen before it is decomposed.
_SUSPICIOUS_MARKS = MOST_MARKS - 4
_JOINER = "\u034f"  # COMBINING GRAPHEME JOINER: no mark is sorted across it


def normalise(text: str) -> str:
    """Applies NFKC and drops lone surrogates; runs of control characters, spaces of any kind and ▁ become one space, none at the ends.

    Works on one line or sentence: a newline becomes a space like any other control character.
    """
    # Surrogates first: between a letter and its combining mark they would hide the pair from NFKC.
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", _stream_safe(_SURROGATE.sub("", text)))).strip(" ")


def split_sentences(text: str) -> list[str]:
    """Returns the normalised sentences of `text`, without empty ones.

    A newline always splits. Marks such as 。！？♪… split unless they stand inside brackets closed on the same line or end nothing
    that holds a letter ('1.', a leading '…'). ! ? and . of ASCII, and ． after a letter or digit, split only before a space,
    the line's end or a closing bracket, so that 'Yahoo!ニュース' and '3.14' stay whole.
    """
    # Split before NFKC, which would make ！ and ! one character.
    fragments = cut_sentences(_SURROGATE.sub("", text))
    return [sentence for fragment in _normalise_lines("\n".join(fragments)).split("\n") if (sentence := fragment.strip(" "))]


def text_rules(keeps_text: bool) -> tuple[str, str]:
    """Names of the normaliser and the sentence splitter; of text that is kept as it is, both are none."""
    return ("none", "none") if keeps_text else (NORMALISER, SPLITTER)


def whole_text(text: str) -> list[str]:
    """Returns a document as its one sentence, unchanged; nothing of an empty one."""
    return [text] if text else []


def cut_sentences(text: str) -> list[str]:
    """Returns the pieces of `text` that `split_sentences` normalises, as they are: together they are the text without its newlines.

    One pass, whichever brackets are left open.
    """
    fragments: list[str] = []
    start = 0
    # Runs of marks of the line so far, outside brackets: [first mark, end of the marks, end of the closing brackets behind them, which stay
    # with the sentence]. Lists, as an object for each run took a fifth of the time.
    line: list[list[int]] = []
    opened: list[tuple[str, int]] = []  # brackets of the line: kind, place
    kinds = dict.fromkeys(OPENING, 0)  # of `opened`
    for match in _TOKEN.finditer(text):
        token, place = match[0], match.start()
        if token in _MARKS:
            if line and line[-1][1] == line[-1][2] == place:
                line[-1][1] = line[-1][2] = place + 1
            else:
                line.append([place, place + 1, place + 1])
        elif token in OPENING:
            kind = _OPENING_KIN.get(token, token)
            opened.append((kind, place))
            kinds[kind] += 1
        elif token in _KIN:
            kind = _KIN[token]
            if kinds[kind]:
                # What is open inside has no partner and protects nothing.
                other, inside = opened.pop()
                kinds[other] -= 1
                while other != kind:
                    other, inside = opened.pop()
                    kinds[other] -= 1
                while line and line[-1][0] > inside:
                    line.pop()
            elif line and line[-1][2] == place:
                line[-1][2] = place + 1
        else:
            start = _cut_line(text, start, place, line, fragments) if line else start
            fragments.append(text[start:place])
            start = place + 1
            line = []
            if opened:
                opened = []
                kinds = dict.fromkeys(OPENING, 0)
    start = _cut_line(text, start, len(text), line, fragments)
    fragments.append(text[start:])
    return fragments


def _normalise_lines(text: str) -> str:
    """Normalises each line of a text without surrogates, except spaces at its ends; takes a third of the time of `normalise` on a
    whole text."""
    # … is not in the table, as NFKC makes three characters of it; it is frequent in novels.
    text = text.replace("…", "...")
    units = np.frombuffer(text.encode("utf-16-le"), np.uint16)
    if _is_suspicious(units):
        units = np.frombuffer(_stream_safe(text).encode("utf-16-le"), np.uint16)
    text = unicodedata.normalize("NFKC", _plain_units()[units].tobytes().decode("utf-16-le"))
    return _SPACES.sub(" ", text) if "  " in text else text


def _stream_safe(text: str) -> str:
    """Inserts U+034F so that at most MOST_MARKS combining marks follow each other: the Stream-Safe Text Format of UAX #15, section 13.

    Python sorts the marks of a run in quadratic time: 40,000 of them take 20 s. No language puts 30 marks on one letter, so ordinary text
    is returned unchanged.
    """
    if len(text) <= _SUSPICIOUS_MARKS or not _is_suspicious(np.frombuffer(text.encode("utf-16-le"), np.uint16)):
        return text
    safe: list[str] = []
    run = 0
    for character in text:
        first, last, has_starter = _own_marks(character)
        if first and run + first > MOST_MARKS:
            safe.append(_JOINER)
            run = 0
        run = last if has_starter else run + last
        safe.append(character)
    return "".join(safe)


def _is_suspicious(units: np.ndarray) -> bool:
    """Returns whether a text, uint16 [UTF-16 units], may hold more than MOST_MARKS combining marks in a row."""
    marks = _mark_units()[units]
    if np.count_nonzero(marks) <= _SUSPICIOUS_MARKS:
        return False
    # Places of the characters that are no marks, with one before the text and one behind it: a run of marks is a gap between two of them.
    others = np.concatenate(([-1], np.flatnonzero(~marks), [len(units)]))
    return bool(np.diff(others).max() > _SUSPICIOUS_MARKS)


@lru_cache(maxsize=4096)
def _own_marks(character: str) -> tuple[int, int, bool]:
    """Returns how many combining marks a decomposed character begins with and ends with, and whether it holds anything else."""
    classes = [unicodedata.combining(c) for c in unicodedata.normalize("NFKD", character)]
    starters = [place for place, found in enumerate(classes) if not found]
    return (starters[0], len(classes) - 1 - starters[-1], True) if starters else (len(classes), len(classes), False)


@cache
def _mark_units() -> np.ndarray:
    """Returns for each UTF-16 unit whether it may belong to a combining mark, or to a character that NFKC makes one of; bool [65,536]."""
    decomposed = (unicodedata.normalize("NFKD", chr(unit))[0] for unit in range(2**16))
    marks = np.fromiter((unicodedata.combining(first) > 0 for first in decomposed), np.bool_, 2**16)
    # Pairs: any second half, and the first halves below those of emoji and of rare kanji, which are frequent and hold no marks.
    marks[0xDC00:0xE000] = marks[0xD800:0xD83C] = True
    return marks


@cache
def _plain_units() -> np.ndarray:
    """Returns for each UTF-16 unit an equivalent one under NFKC: ! for ！, a space for any space or control character except \\n.

    uint16 [65,536]. Replacing a character by a compatible one before NFKC does not change the result, and NFKC is fast on text that it
    does not change.
    """
    units = np.arange(2**16, dtype=np.uint16)
    for unit in range(2**16):
        character = chr(unit)
        plain = " " if _SPACE.match(character) and character != "\n" else unicodedata.normalize("NFKC", character)
        if len(plain) == 1 and plain < "\U00010000":
            units[unit] = ord(plain)
    return units


def _cut_line(text: str, start: int, line_end: int, line: list[list[int]], fragments: list[str]) -> int:
    """Adds the sentences of a line that end with a mark, and returns where the rest of the line begins.

    Args:
        text: the whole text.
        start: where the line's first sentence begins.
        line_end: where the line ends.
        line: runs of marks, see `cut_sentences`.
        fragments: the sentences so far; added to.
    """
    unread = start  # no letter stands between the start of the sentence and this place
    for place, stop, end in line:
        if not (place > start and text[place - 1].isalpha()) and _LETTER.search(text, unread, place) is None:
            unread = place
        elif text[place] in _ALWAYS or _ends_sentence(text, place, stop, end, line_end):
            fragments.append(text[start:end])
            start = unread = end
    return start


def _ends_sentence(text: str, start: int, stop: int, end: int, line_end: int) -> bool:
    """Returns whether a run of marks ends a sentence, if its first mark is one that does not always do so.

    Args:
        text: the whole text.
        start: where the run begins.
        stop: where it ends.
        end: where the closing brackets behind it end.
        line_end: where the line ends.
    """
    if _ALWAYS_MARK.search(text, start, stop):
        return True
    if text[start] == "．" and not _LATIN_OR_DIGIT.match(text, start - 1):
        return True
    return end > stop or end == line_end or text[end].isspace()
