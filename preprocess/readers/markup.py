"""Converts wikitext to plain text: `wikitext.py` resolves nested markup, `markup_rules.py` says what is kept, the rest goes line by line.

Every pattern here takes time in proportion to the page, whatever the page holds: no two repeats in a row can match the same text, or the
first one is possessive (`*+`).
"""

import re
from collections import Counter
from collections.abc import Iterator
from html.entities import html5

from preprocess.readers import markup_rules as rules
from preprocess.readers.language_codes import LANGUAGE_CODES
from preprocess.readers.wikitext import Parts, Resolver, Rules

# Stands where something was dropped until the text is whole: only brackets that we emptied are removed, not those of 'main()'.
_GAP = "\x00"
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_DISAMBIGUATION = re.compile(
    rf"\{{\{{\s*+(?:(?:template|テンプレート):\s*+)?(?:{rules.DISAMBIGUATION})\s*+(?:\||\}}\}})", re.IGNORECASE
)
_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|ftps?|irc|news|gopher):)?//[^\s\[\]<>\x00]*+[ \t　]*+((?:[^\[\]\n]|\[[^\[\]\n]*\])*+)\]"
)
_SWITCH = re.compile(rf"__(?:{rules.SWITCHES})__")
_QUOTES = re.compile("'{2,}")
_STRAY_BRACKETS = re.compile(r"\[\[|\]\]|\{\{|\}\}")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_READING = re.compile(
    rf"<(?:{'|'.join(rules.READING_TAGS)})\b[^<>]*>[^<\n]*+(?:<(?!/?(?:ruby|rb|rt|rp|rtc)\b)[^<\n]*+)*+", re.IGNORECASE
)
_ELEMENT = re.compile(rf"<(/?)(?:{'|'.join(rules.DROPPED_ELEMENTS)})\b[^<>]*>", re.IGNORECASE)
_TAG_REPLACEMENT = (
    dict.fromkeys(rules.PLAIN_TAGS | rules.READING_TAGS | rules.DROPPED_ELEMENTS | rules.DROPPED_EXTENSIONS, "")
    | dict.fromkeys(rules.LINE_BREAK_TAGS | rules.BLOCK_TAGS, "\n")
)  # fmt: skip
_TAG = re.compile(rf"<(/?)({'|'.join(sorted(_TAG_REPLACEMENT, key=len, reverse=True))})(?=[\s/>])[^<>]*>", re.IGNORECASE)
_LINE_MARKS = frozenset("*#:;=")
_MARKUP_CHARACTER = re.compile(r"[\[\]{}|<>&='_*#:;!-]")
# （{{IPA|…}}、{{lang|…}}） of which nothing is left; （{{ラテン語}}、1900年 - ）; （1900年 - 、{{ラテン語}}）
_EMPTIED = re.compile(r"[（(][\s、，,;；:：・/／]*\x00[\s、，,;；:：・/／\x00]*[）)]")
_GAP_AFTER_BRACKET = re.compile(r"([（(])\s*+\x00[\s\x00]*[、，,;；]\s*")
_GAP_BEFORE_BRACKET = re.compile(r"[、，,;；]\s*+\x00[\s\x00]*([）)])")


def is_disambiguation(wikitext: str) -> bool:
    """Returns whether a page is a disambiguation page. A link to 'X (曖昧さ回避)' does not make it one."""
    return _DISAMBIGUATION.search(_without_comments(wikitext)) is not None


def clean(wikitext: str) -> str:
    """Returns the running text of a page, one paragraph, heading or list item a line.

    Raises:
        ValueError: so many brackets are open at once that the page is no text (`wikitext.MAX_DEPTH`).
    """
    text = _resolve(wikitext.replace(_GAP, ""))
    if "<" in text:
        text = _without_tags(text)
    text = _EXTERNAL_LINK.sub(lambda match: match[1] or _GAP, text)
    if "__" in text:
        text = _SWITCH.sub("", text)
    text = "\n".join(_lines(_without_tables(text.split("\n"))))
    # Bold and italics are never paired: one stray apostrophe would pair up half a page.
    text = _STRAY_BRACKETS.sub("", _QUOTES.sub("", text))
    if "&" in text:
        # Last of what reads markup: &#91;&#91; is two brackets and no link.
        text = _ENTITY.sub(_character, text)
    if _GAP in text:
        text = _GAP_BEFORE_BRACKET.sub(r"\1", _GAP_AFTER_BRACKET.sub(r"\1", _EMPTIED.sub("", text))).replace(_GAP, "")
    return "\n".join(stripped for line in text.split("\n") if (stripped := line.strip()))


def _template(parts: Parts) -> str:
    name = "".join(parts[0]).strip().replace("_", " ").lower()
    if name in rules.TEMPLATE_CHARACTER:
        return rules.TEMPLATE_CHARACTER[name]
    wanted = ("1",) if rules.FIRST_ARGUMENT_FAMILY.fullmatch(name) else rules.TEMPLATE_ARGUMENT.get(name)
    if wanted is None:
        return _GAP
    arguments: dict[str, str] = {}
    unnamed = 0
    for part in parts[1:]:
        key, equals, value = part[0].partition("=") if part else ("", "", "")
        if equals:
            arguments[key.strip()] = "".join([value, *part[1:]]).strip()
        else:
            unnamed += 1
            arguments[str(unnamed)] = "".join(part).strip()
    return next((arguments[key] for key in wanted if arguments.get(key)), _GAP)


def _argument(parts: Parts) -> str:
    return "".join(parts[1]) if len(parts) > 1 else _GAP


def _link(parts: Parts) -> str:
    target = "".join(parts[0])
    namespace, colon, _ = target.partition(":")
    if colon:
        namespace = namespace.strip().replace("_", " ").lower()
        if namespace in rules.DROPPED_NAMESPACES or namespace in LANGUAGE_CODES:
            return ""
    shown = "|".join(map("".join, parts[1:])) or target.strip().removeprefix(":")
    # [[*NSYNC]] is no item of a list.
    return f"&#{ord(shown[0])};{shown[1:]}" if shown[:1] in _LINE_MARKS else shown


def _nowiki(content: str) -> str:
    """Returns the content with everything that could be markup as entities; an empty <nowiki /> separates its two sides."""
    return _GAP if not content else _MARKUP_CHARACTER.sub(lambda match: f"&#{ord(match[0])};", _ENTITY.sub(_character, content))


_resolve = Resolver(
    Rules(_template, _argument, _link, {"nowiki": _nowiki, **dict.fromkeys(rules.DROPPED_EXTENSIONS, lambda content: _GAP)})
)


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
                kept += [text[position:start], _GAP]
                position = match.end()
    text = "".join([*kept, text[position:]])
    opened: Counter[str] = Counter()

    def replacement(match: re.Match[str]) -> str:
        name = match[2].lower()
        if not match[1]:
            opened[name] += 1
        elif not opened[name]:
            return ""  # a line is not broken by a tag that ends nothing
        return _TAG_REPLACEMENT[name]

    return _TAG.sub(replacement, _READING.sub("", text))


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
    return [line for line in kept if not line.lstrip().startswith(("{|", "|"))]


def _lines(lines: list[str]) -> Iterator[str]:
    """Headings, list items and paragraphs without their marks; without the sections that hold no sentences."""
    dropped_level = 0
    for line in lines:
        if line.startswith("=") and (heading := _heading(line)):
            level, title = heading
            if not dropped_level or level <= dropped_level:
                dropped_level = level if _is_dropped(title) else 0
                if not dropped_level:
                    yield title
        elif dropped_level:
            continue
        elif line[:1] == ";" and (definition := line.lstrip("*#:;").partition(" :"))[1]:
            yield definition[0]
            yield definition[2].lstrip(":")
        elif line.startswith("----"):
            yield line.lstrip("-")
        else:
            yield line.lstrip(" \t").lstrip("*#:;")


def _heading(line: str) -> tuple[int, str] | None:
    line = line.rstrip(" \t\x00")
    opening, closing = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    level = min(opening, closing, 6)
    title = line[level : len(line) - level].strip()
    return (level, title) if level and title else None


def _is_dropped(title: str) -> bool:
    title = _QUOTES.sub("", title).replace(_GAP, "").strip().lower()
    return all(part in rules.DROPPED_SECTIONS for part in rules.SECTION_JOINT.split(title))


def _character(match: re.Match[str]) -> str:
    """The character of an entity; an entity of no character stays as it is."""
    name = match[0][1:-1]
    if name[0] != "#":
        return html5.get(name + ";", match[0])
    number = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
    return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else ""
