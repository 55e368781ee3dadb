"""Excludes sentences in which words are missing, and counts them by the template that would have printed the words.

A sentence with a hole is worse than no sentence. The other modules write marks where something was left out; here they become text, or
the sentence around them goes. Time is in proportion to the text.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from preprocess.text import cut_sentences

GAP = "\x00"
"""Stands where something was dropped that prints no words: a note, a navigation box."""
HOLE = "\x01"
"""Stands, with the character behind it, where words are missing."""
ASIDE = "\x02"
"""Stands on both sides of words that are no sentence by themselves: a formula, coordinates."""
MARKS = (GAP, HOLE, ASIDE)
# Behind HOLE comes one character that says which template it was; the plane is one for private use.
_FIRST_NAME = 0x100000
_MAX_NAMES = 0xFFFD
_BLOCK_NAME = 0xF0000  # the same for templates that stand on several lines

_MARK = re.compile(r"\x00|\x01.|\x02")
_NAME = re.compile(r"\x01(.)")
_ASIDE_TEXT = re.compile(r"\x02[^\x02\n]*+\x02")
_LEADING_BLOCK = re.compile(r"(?:[\s\x00]|\x01[\U000f0000-\U000fffff])*\x01[\U000f0000-\U000fffff]")
_LETTER = re.compile(r"[^\W_]")
_BRACKET = re.compile(r"[（(）)]")
_MAX_BRACKETS = 40
_SEPARATOR = re.compile(r"\s*[、，,;；・/／]\s*")
_EMPTY_ITEM = re.compile(r"[\s:：\x00\x02\-–—~〜=＝]*")
_LABEL = re.compile(r"[^\x00\x01:：]{1,20}[:：](?:[\s\x00\x02]|\x01.)*+")
_EMPTY_QUOTES = re.compile(
    r"「\s*+\x00[\s\x00]*+」|『\s*+\x00[\s\x00]*+』|“\s*+\x00[\s\x00]*+”|\"\x00++\"|〈\s*+\x00[\s\x00]*+〉|《\s*+\x00[\s\x00]*+》"
)
# A sentence that lost its beginning: a particle, or a comma, where a word must stand.
_HEADLESS = re.compile(
    r"\s*+\x00[\s\x00]*+(?:[、，,]|を|によ[らりるれっ]|とい[うえわっ]|とされ|として|にお[いけ]|に対|について|である|だった|(?:[はがにのとでへもや]|[にでとへ]は|[とへで]の|から|まで|より|という|として|による|である)(?![ぁ-ゖー]))"
)
# Two particles, or a particle and a counter, between which a word must stand.
_WORDLESS = re.compile(
    r"[はがを約]\x00[\s\x00]*+(?:である|です|だった|[をが](?![ぁ-ん])|(?:人|円|年|メートル|キロ|[ck]?m(?![A-Za-z])|%|％|パーセント|平方|ドル|歳|回|個|トン)"
    r"(?![々間物気口民類]))"
)
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9０-９])\x02(?=[0-9０-９])")
_SAMPLE_LETTER = "字"
_LINE_BREAK = re.compile("[\\r\x85\u2028\u2029]")
OTHERS = "(all others)"
"""Stands for the templates that are not named."""


@dataclass
class Losses:
    """What a reader left out of running text, because it does not know what a template prints."""

    sentences: int = 0
    """Excluded sentences, headings and list items."""
    brackets: int = 0
    """Parts in brackets left out of sentences that stay."""
    templates: Counter[str] = field(default_factory=Counter)
    """How often a sentence or bracket was left out for this template."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls of templates of which nothing is in the text, in sentences or not: notes and boxes for the most part."""

    def add(self, other: "Losses") -> None:
        """Adds the counts of another page or file."""
        self.sentences += other.sentences
        self.brackets += other.brackets
        self.templates.update(other.templates)
        self.dropped.update(other.dropped)

    def counts(self, names: int) -> dict[str, Any]:
        """Returns the counts for a file: {"sentences", "brackets", "templates": {name: n}, "dropped": {name: n}}, the last two with the
        `names` most frequent ones and the sum of all others."""
        return {
            "sentences": self.sentences,
            "brackets": self.brackets,
            "templates": _most_frequent(self.templates, names),
            "dropped": _most_frequent(self.dropped, names),
        }

    @staticmethod
    def of_counts(counts: dict[str, Any]) -> "Losses":
        """Returns what `counts` wrote."""
        return Losses(counts["sentences"], counts["brackets"], Counter(counts["templates"]), Counter(counts["dropped"]))


def template_name(name: str) -> str:
    """Returns a template's name as it is counted."""
    return " ".join(unmarked(name[:200]).split()).lower()[:80] or "(no name)"


def _most_frequent(counter: Counter[str], names: int) -> dict[str, int]:
    # By count, then by name: equal counts give the same file whatever the order of pages.
    order = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(order[:names])
    if others := sum(number for _, number in order[names:]):
        shown[OTHERS] = shown.get(OTHERS, 0) + others
    return shown


class Holes:
    """Marks of one page for templates whose words are not known, and their names."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._places: dict[str, int] = {}

    def mark(self, name: str, block: bool = False) -> str:
        """Returns the mark that stands for the words of a template.

        Args:
            name: name of the template.
            block: its call takes several lines, as that of a box does.
        """
        name = template_name(name)
        place = self._places.setdefault(name, len(self._names))
        if place == len(self._names):
            if place == _MAX_NAMES:
                place -= 1
            else:
                self._names.append(name)
        return HOLE + chr((_BLOCK_NAME if block else _FIRST_NAME) + place)

    def names(self, text: str) -> Iterator[str]:
        """Yields the names of the templates whose marks are in a text."""
        for match in _NAME.finditer(text):
            place = ord(match[1]) - _BLOCK_NAME
            yield self._names[place if place <= _MAX_NAMES else place + _BLOCK_NAME - _FIRST_NAME]


def without_marks(source: str) -> str:
    """Returns a page's source without the characters that stand for something here; XML allows none of them."""
    for mark in MARKS:
        if mark in source:
            source = source.replace(mark, "")
    return source


def unmarked(text: str) -> str:
    """Returns a text without marks, whatever is missing in it."""
    return _MARK.sub("", text)


def without_trailing_marks(line: str) -> str:
    """Returns a line without the spaces and marks at its end."""
    end = len(line)
    while end:
        if line[end - 1] in " \t\x00\x02":
            end -= 1
        elif line[end - 2 : end - 1] == HOLE:
            end -= 2
        else:
            break
    return line[:end]


def complete(line: str, holes: Holes, losses: Losses) -> str:
    """Returns a line of text without marks and without the sentences that have a hole.

    Args:
        line: paragraph, heading or list item.
        holes: names of the page's holes.
        losses: what is left out; added to.
    """
    if GAP not in line and HOLE not in line and ASIDE not in line:
        return line
    # 3{{frac|1|2}} is not 31/2.
    line = _BETWEEN_DIGITS.sub(" \\g<0>", line)
    if (match := _LEADING_BLOCK.match(line)) is not None:
        line = line[match.end() :]
    if _LETTER.search(_ASIDE_TEXT.sub("", line)) is None:
        # Nothing but templates: a box or a line of notes, in no sentence.
        return ""
    line = _without_emptied_brackets(line, holes, losses)
    if HOLE not in line and GAP not in line:
        return line.replace(ASIDE, "")
    kept = []
    for sentence in _sentences(line):
        if HOLE in sentence and _LETTER.search(sentence) is None:
            continue  # it stands between sentences
        if HOLE in sentence or _HEADLESS.match(sentence) or _EMPTY_QUOTES.search(sentence) or _WORDLESS.search(sentence):
            losses.sentences += 1
            losses.templates.update(set(holes.names(sentence)) or {"(dropped markup)"})
        else:
            kept.append(_MARK.sub("", sentence))
    return "".join(kept)


def _sentences(line: str) -> Iterator[str]:
    # A mark is no letter, and no sentence ends before its first letter.
    start = 0
    for fragment in cut_sentences(_LINE_BREAK.sub(" ", _NAME.sub(_SAMPLE_LETTER * 2, line))):
        yield line[start : start + len(fragment)]
        start += len(fragment)


def _without_emptied_brackets(line: str, holes: Holes, losses: Losses) -> str:
    """Returns the line without brackets, or parts of what stands in brackets, of which a dropped template was all or left a hole."""
    if "（" not in line and "(" not in line:
        return line
    stack: list[list[str]] = [[]]
    position = 0
    for match in _BRACKET.finditer(line):
        stack[-1].append(line[position : match.start()])
        position = match.end()
        if match[0] in "（(":
            if len(stack) <= _MAX_BRACKETS:
                stack.append([match[0]])
            else:
                stack[-1].append(match[0])
        elif len(stack) == 1:
            stack[-1].append(match[0])
        else:
            opening, *content = stack.pop()
            inside = "".join(content)
            if GAP in inside or HOLE in inside:
                kept = _kept_items(inside, holes, losses)
                inside = opening + kept + match[0] if kept else GAP
            else:
                inside = opening + inside + match[0]
            stack[-1].append(inside)
    return "".join("".join(texts) for texts in [*stack, [line[position:]]])


def _kept_items(inside: str, holes: Holes, losses: Losses) -> str:
    """Returns what remains of the text between brackets; nothing if a word is missing in it."""
    kept: list[str] = []
    position, separator = 0, ""
    for match in [*_SEPARATOR.finditer(inside), None]:
        item = inside[position : match.start() if match else len(inside)]
        if HOLE not in item and GAP not in item:
            kept += [separator, item]
        else:
            rest = _MARK.sub("", item)
            if _EMPTY_ITEM.fullmatch(rest) or _LABEL.fullmatch(item.strip()):
                _count(item, holes, losses)
            elif HOLE in item:
                _count(inside, holes, losses)
                return ""
            else:
                kept += [separator, item.replace(GAP, "")]
        if match:
            position, separator = match.end(), match[0]
    if kept and kept[0]:
        kept[0] = ""
    return "".join(kept).strip()


def _count(text: str, holes: Holes, losses: Losses) -> None:
    if names := set(holes.names(text)):
        losses.brackets += 1
        losses.templates.update(names)
