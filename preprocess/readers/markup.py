"""Converts wikitext to plain text: `wikitext.py` resolves nested markup, `templates.py` and `markup_rules.py` say what is kept, the rest
goes line by line. `incomplete_sentences.py` then excludes the sentences in which words are missing.

Every pattern here takes time in proportion to the page, whatever the page holds: no two repeats in a row can match the same text, or the
first one is possessive (`*+`).
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from html.entities import html5

from preprocess.readers import markup_rules as rules
from preprocess.readers.language_codes import LANGUAGE_CODES
from preprocess.readers.wiki.formulas import line_of_chemistry, line_of_tex, spelled_powers, spelled_signs
from preprocess.readers.wiki.incomplete_sentences import (
    ASIDE,
    GAP,
    Holes,
    Losses,
    complete,
    template_name,
    unmarked,
    without_marks,
    without_trailing_marks,
)
from preprocess.readers.wiki.template_call import call_of
from preprocess.readers.wiki.template_rules import DISAMBIGUATION
from preprocess.readers.wiki.templates import printed_words
from preprocess.readers.wikitext import Parts, Resolver, Rules

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_DISAMBIGUATION = re.compile(
    rf"\{{\{{\s*+(?:(?:template|テンプレート):\s*+)?(?:{DISAMBIGUATION})\s*+(?:\||\}}\}})", re.IGNORECASE
)
_REDIRECT = re.compile(r"\s*#\s*(?:redirect|転送|リダイレクト)\s*[:：]?\s*\[\[", re.IGNORECASE)
# An address ends at a space, a bracket or a tag; [2001:db8::1] is a host.
_EXTERNAL_LINK = re.compile(
    rf"\[(?i:{rules.SCHEMES})(?:\[[0-9A-Fa-f:.%]++\][^\s\[\]<>\x00-\x02]*+|[^\s\[\]<>\x00-\x02]++)"
    r"[ \t　]*+((?:[^\[\]\n]|\[[^\[\]\n]*\])*+)\]"
)
_SWITCH = re.compile(rf"__(?:{rules.SWITCHES})__")
_QUOTES = re.compile("'{2,}")
_STRAY_BRACKETS = re.compile(r"\[\[|\]\]|\{\{|\}\}")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_READING = re.compile(
    rf"<(?:{'|'.join(rules.READING_TAGS)})\b[^<>]*>[^<\n]*+(?:<(?!/?(?:ruby|rb|rt|rp|rtc)\b)[^<\n]*+)*+", re.IGNORECASE
)
_ELEMENT = re.compile(rf"<(/?)(?:{'|'.join(rules.DROPPED_ELEMENTS)})\b[^<>]*>", re.IGNORECASE)
_EXTENSIONS = rules.DROPPED_EXTENSIONS | rules.BLOCK_EXTENSIONS | rules.FORMULA_EXTENSIONS
_TAG_REPLACEMENT = (
    dict.fromkeys(rules.PLAIN_TAGS | rules.READING_TAGS | rules.DROPPED_ELEMENTS | _EXTENSIONS, "")
    | dict.fromkeys(rules.LINE_BREAK_TAGS | rules.BLOCK_TAGS, "\n")
)  # fmt: skip
_TAG = re.compile(rf"<(/?)({'|'.join(sorted(_TAG_REPLACEMENT, key=len, reverse=True))})(?=[\s/>|])[^<>]*>", re.IGNORECASE)
_ROW_MARK = re.compile(r"\s*+[{|!]")
_LINE_MARKS = frozenset("*#:;=")
_MARKUP_CHARACTER = re.compile(r"[\[\]{}|<>&='_*#:;!-]")
# The colon between a term and its definition: not that of 1:2, of 12:30 or of an address.
_DEFINITION = re.compile(r"\s:++|(?<![0-9０-９:]):++(?!//)|:++(?![0-9０-９/])")
_resolve = Resolver({"nowiki", *_EXTENSIONS})


def is_disambiguation(wikitext: str) -> bool:
    """Returns whether a page is a disambiguation page. A link to 'X (曖昧さ回避)' does not make it one."""
    return _DISAMBIGUATION.search(_without_comments(wikitext)) is not None


def is_redirect(wikitext: str) -> bool:
    """Returns whether a page leads to another one, as a reader sees it: dumps mark most of these pages, but not all."""
    return _REDIRECT.match(_without_comments(wikitext[:2000])) is not None


def clean(wikitext: str, title: str = "", losses: Losses | None = None) -> str:
    """Returns the running text of a page, one paragraph, heading or list item a line; nothing of a redirect.

    A sentence in which a template without a rule prints words is left out.

    Args:
        wikitext: source of the page.
        title: title of the page, which {{PAGENAME}} prints; without it such a sentence is left out.
        losses: counts what is left out; added to.

    Raises:
        ValueError: so many brackets are open at once that the page is no text (`wikitext.MAX_DEPTH`).
    """
    if is_redirect(wikitext):
        return ""
    losses = Losses() if losses is None else losses
    page = _Page(title, losses)
    text = _resolve(without_marks(wikitext), Rules(page.template, _argument, _link, page.extension))
    if "[" in text:
        text = _EXTERNAL_LINK.sub(lambda match: match[1] or GAP, text)
    if "<" in text:
        text = _without_tags(spelled_powers(text))
    if "__" in text:
        text = _SWITCH.sub("", text)
    text = "\n".join(_lines(_without_tables(text.split("\n"))))
    text = _STRAY_BRACKETS.sub("", _without_quotes(text))
    if "&" in text:
        # Last of what reads markup: &#91;&#91; is two brackets and no link.
        text = _ENTITY.sub(_character, text)
    lines = (complete(line, page.holes, losses).strip() for line in spelled_signs(text).split("\n"))
    return "\n".join(line for line in lines if line)


class _Page:
    """Rules that depend on the page."""

    def __init__(self, title: str, losses: Losses) -> None:
        self._title = _literally(title)
        self._losses = losses
        self.holes = Holes()

    def template(self, parts: Parts) -> str:
        words = printed_words(parts, self._title)
        if words is not None and words != GAP:
            return words
        self._losses.dropped[template_name("".join(parts[0]))] += 1
        if words == GAP:
            return GAP
        return self.holes.mark(call_of(parts).name, block=any("\n" in text for part in parts for text in part))

    def extension(self, name: str, attributes: str, content: str) -> str:
        if name == "nowiki":
            return _literally(content) or GAP
        if name in rules.DROPPED_EXTENSIONS:
            return GAP
        if name in rules.BLOCK_EXTENSIONS and not re.search(r"\binline\b", attributes):
            return f"\n{GAP}"
        if name in ("math", "chem", "ce"):
            words = line_of_tex(content) if name == "math" else line_of_chemistry(content)
            if words:
                return f"{ASIDE}{_literally(words)}{ASIDE}"
        elif name == "maplink" and (shown := re.search(r"\btext\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|(\S+))", attributes)):
            return shown[1] or shown[2] or shown[3]
        elif name in rules.BLOCK_EXTENSIONS:
            return _literally(content.strip()) or GAP
        elif name == "maplink" or not content:
            return GAP
        return self.holes.mark(f"<{name}>", block="\n" in content)


def _argument(parts: Parts) -> str:
    return "".join(parts[1]) if len(parts) > 1 else GAP


def _link(parts: Parts) -> str:
    target = "".join(parts[0])
    namespace, colon, _ = target.partition(":")
    if colon:
        namespace = namespace.strip().replace("_", " ").lower()
        if namespace in rules.FILE_NAMESPACES:
            # A picture in a sentence may stand for a word; one beside the text does not.
            return "" if any("".join(part).strip().lower() in rules.PLACED_FILE for part in parts[1:]) else GAP
        if namespace in rules.CATEGORY_NAMESPACES or namespace in LANGUAGE_CODES:
            return ""
    shown = "|".join(map("".join, parts[1:])) or target.strip().removeprefix(":")
    # [[*NSYNC]] is no item of a list, and no colon of a link ends the term of a definition.
    shown = shown.replace(":", "&#58;") if ":" in shown else shown
    return f"&#{ord(shown[0])};{shown[1:]}" if shown[:1] in _LINE_MARKS else shown


def _literally(content: str) -> str:
    """Returns the content with everything that could be markup as entities."""
    return _MARKUP_CHARACTER.sub(lambda match: f"&#{ord(match[0])};", _ENTITY.sub(_character, content))


def _without_comments(wikitext: str) -> str:
    return _COMMENT.sub("", wikitext) if "<!--" in wikitext else wikitext


def _without_tags(text: str) -> str:
    kept, position, depth = [], 0, 0
    start = 0  # of the outermost element that is open
    for match in _ELEMENT.finditer(text):
        if not match[1]:
            start = start if depth else match.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                kept += [text[position:start], GAP]
                position = match.end()
    text = "".join([*kept, text[position:]])
    opened: Counter[str] = Counter()

    def replacement(match: re.Match[str]) -> str:
        name = match[2].lower()
        if not match[1]:
            opened[name] += 1
            if name == "phonos" and match[0].endswith("/>"):
                sound = re.search(r"\b(?:text|ipa)\s*=\s*[\"']?([^\"'/>]+)", match[0])
                return f"[{sound[1].strip()}]" if sound else GAP
        elif not opened[name] and name != "br":
            return ""  # a line is not broken by a tag that ends nothing
        return _TAG_REPLACEMENT[name]

    if "<tvar" in text:
        text = text.replace("</>", "")
    return _TAG.sub(replacement, _READING.sub("", text))


def _without_quotes(text: str) -> str:
    """Returns the text without the apostrophes of bold and italics, which are never paired: one stray apostrophe would pair up half a page.

    As MediaWiki does, four are an apostrophe and bold, and in a line where neither bold nor italics end, one bold is an apostrophe and
    italics: that of L'''amour''.
    """
    if "''" not in text:
        return text
    return "\n".join(_line_without_quotes(line) if "''" in line else line for line in text.split("\n"))


def _line_without_quotes(line: str) -> str:
    lengths = [len(run) for run in _QUOTES.findall(line)]
    bold = sum(length != 2 for length in lengths)
    italics = sum(length == 2 or length >= 5 for length in lengths)
    if "''''" not in line and not (bold % 2 and italics % 2):
        return _QUOTES.sub("", line)
    runs = [(match.start(), match.end()) for match in _QUOTES.finditer(line)]
    apostrophe = -1
    if bold % 2 and italics % 2:
        candidates = [start for (start, end), length in zip(runs, lengths, strict=True) if length in (3, 4)]
        behind_letter = [
            start for start in candidates if line[start - 1 : start].isalpha() and not line[max(start - 2, 0) : start - 1].strip()
        ]
        behind_word = [start for start in candidates if start and not line[start - 1].isspace()]
        apostrophe = next(iter([*behind_letter, *behind_word, *candidates]), -1)
    kept, position = [], 0
    for (start, end), length in zip(runs, lengths, strict=True):
        literal = 1 if length == 4 or start == apostrophe else max(length - 5, 0)
        kept += [line[position:start], "'" * literal]
        position = end
    return "".join([*kept, line[position:]])


def _without_tables(lines: list[str]) -> list[str]:
    """Returns the lines without tables, which may be nested; of a table that is never closed only the rows are removed."""
    kept: list[str] = []
    depth = start = 0
    for line in lines:
        mark = line.lstrip(" \t:*#;\x00")[:2]
        if mark == "{|":
            start = start if depth else len(kept)
            depth += 1
        elif mark == "|}" and depth:
            depth -= 1
            if not depth:
                del kept[start:]
                kept.append(line[line.index("|}") + 2 :])
                continue
        kept.append(line)
    if depth:
        # To its headers too: behind a table that is open, ! begins a cell.
        kept[start:] = [line for line in kept[start:] if not line.lstrip().startswith("!")]
    return [line for line in kept if not (_ROW_MARK.match(line) and _is_row(line.lstrip()))]


def _is_row(line: str) -> bool:
    return line[0] == "|" or line[:2] == "{|" or (line[0] == "!" and "!!" in line[1:] and line[1:2] != "!")


def _lines(lines: list[str]) -> Iterator[str]:
    """Headings, list items and paragraphs without their marks; without the sections that hold no sentences."""
    dropped_level = 0
    for line in lines:
        if line.startswith("=") and (heading := _heading(line)):
            level, title = heading
            if not dropped_level or level <= dropped_level:
                dropped_level = level if is_dropped_section(title) else 0
                if not dropped_level:
                    yield title
        elif dropped_level:
            continue
        elif line[:1] in "*#:;" and (text := line.lstrip("*#:;")) and line[-len(text) - 1] == ";":
            yield from _DEFINITION.split(text, maxsplit=1)
        elif line.startswith("----"):
            yield line.lstrip("-")
        else:
            yield line.lstrip(" \t").lstrip("*#:;")


def _heading(line: str) -> tuple[int, str] | None:
    line = without_trailing_marks(line)
    opening, closing = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(opening, closing, 6)
    title = line[level : len(line) - level].strip()
    return (level, title) if level and title else None


@lru_cache(4096)
def is_dropped_section(title: str) -> bool:
    """Returns whether a section of this title, with its subsections, holds no running text but sources or links."""
    title = _ENTITY.sub(_character, _QUOTES.sub("", unmarked(title)))
    parts = rules.SECTION_JOINT.split(rules.SECTION_BRACKETS.sub("・", title.lower()))
    parts = [part for text in [title.lower(), *parts] if (part := text.strip(rules.SECTION_SIGNS))]
    # The title stands first: a name may hold a joint itself. One that is all joints and signs (と, 2005–06) has no names behind it.
    whole, *names = parts or [""]
    return whole in rules.DROPPED_SECTIONS or (bool(names) and rules.DROPPED_SECTIONS.issuperset(names))


def _character(match: re.Match[str]) -> str:
    """The character of an entity; an entity of no character stays as it is."""
    name = match[0][1:-1]
    if name[0] != "#":
        return html5.get(name + ";", match[0])
    number = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    # The marks of this package are no characters of a text.
    return chr(number) if 2 < number < 0x110000 and not 0xD800 <= number < 0xE000 else ""
