"""What a sentence is: one normalised line of text, cut by rules that are versioned by name.

Pure functions on strings. The names go into the shards' metadata: change a rule, change its name.
"""

import re
import unicodedata

NORMALISER = "nfkc-space-2"
SPLITTER = "punctuation-brackets-1"

# Every control character and every Unicode space. Python's \s leaves out the zero-width ones, which NFKC leaves alone too.
# ▁ (U+2581) is how sentencepiece writes a space: in a text it would be one, but not for every tokenizer at every place.
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u180e\u200b\u2581\ufeff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NEWLINE = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")

_OPENING = "（(「『【［[〈《〔｛{“｢〖〘"
_CLOSING = "）)」』】］]〉》〕｝}”｣〗〙"
# NFKC makes one of these pairs out of two widths, so a bracket may be closed by its kin of the other width.
_KIN = {**dict(zip(_CLOSING, _OPENING, strict=True)), "）": "(", "］": "[", "｝": "{", "｣": "「"}
_OPENING_KIN = {"（": "(", "［": "[", "｛": "{", "｢": "「"}
_ALWAYS = "。｡！？♪♫☆★…‥⁇⁈⁉‼"
_BEFORE_A_BREAK = "!?.．"
_BRACKET = re.compile(f"[{re.escape(_OPENING + _CLOSING)}]")
# A run of marks and the brackets closed right after it (unbalanced ones, or the mark would be inside them).
_MARKS = re.compile(f"([{re.escape(_ALWAYS + _BEFORE_A_BREAK)}]+)([{re.escape(_CLOSING)}]*)")
_ALWAYS_MARK = re.compile(f"[{_ALWAYS}]")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN_OR_DIGIT = re.compile("[0-9A-Za-z０-９Ａ-Ｚａ-ｚ]")


def normalise(text: str) -> str:
    """NFKC; runs of control characters, spaces of any kind and ▁ become one space; none at the ends; lone surrogates are dropped.

    Works on one line or sentence: a newline becomes a space like any other control character.
    """
    # Surrogates first: between a letter and its combining mark they would hide the pair from NFKC.
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", _SURROGATE.sub("", text))).strip(" ")


def split_sentences(text: str) -> list[str]:
    """The normalised sentences of `text`, without empty ones.

    A newline always splits. Marks such as 。！？♪… split unless they stand inside brackets closed on the same line or end nothing
    that holds a letter ('1.', a leading '…'). ! ? and . of ASCII, and ． after a letter or digit, split only before a space,
    the line's end or a closing bracket, so that 'Yahoo!ニュース' and '3.14' stay whole.
    """
    # Cutting comes before NFKC, which would make ！ and ! one character.
    pieces = (piece for line in _NEWLINE.split(_SURROGATE.sub("", text)) for piece in _cut(line))
    return [sentence for sentence in map(normalise, pieces) if sentence]


def _cut(line: str) -> list[str]:
    pieces = []
    start = 0
    protected = _bracketed(line)
    span = 0
    for match in _MARKS.finditer(line):
        while span < len(protected) and protected[span][1] <= match.start():
            span += 1
        if span < len(protected) and protected[span][0] < match.start():
            continue
        if _ends_sentence(line, start, match):
            # Closing brackets stay with the sentence that they end.
            pieces.append(line[start : match.end()])
            start = match.end()
    pieces.append(line[start:])
    return pieces


def _ends_sentence(line: str, start: int, match: re.Match[str]) -> bool:
    marks, closing = match.groups()
    if _LETTER.search(line, start, match.start()) is None:
        return False
    if _ALWAYS_MARK.search(marks):
        return True
    if marks[0] == "．" and not _LATIN_OR_DIGIT.match(line, match.start() - 1):
        return True
    return bool(closing) or match.end() == len(line) or line[match.end()].isspace()


def _bracketed(line: str) -> list[tuple[int, int]]:
    """Outermost spans [start, end) between brackets that match; a bracket without its partner protects nothing."""
    spans: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []
    for match in _BRACKET.finditer(line):
        bracket, position = match.group(), match.start()
        if bracket in _KIN:
            kind = _KIN[bracket]
            depth = next((d for d in range(len(opened) - 1, -1, -1) if opened[d][0] == kind), None)
            if depth is None:
                continue
            start = opened[depth][1]
            del opened[depth:]
            # Spans inside this one came before it and are covered by it.
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, position + 1))
        else:
            opened.append((_OPENING_KIN.get(bracket, bracket), position))
    return spans
