"""Walks the tree of an HTML page and returns its text with marks; what is left out, and what becomes of the lines, is said by the rules.

Words are never picked one by one: an element is left out as a whole, or its text is kept as a whole. The base of <ruby> is text and its
reading is not. The walk takes no recursion, and time in proportion to the page.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from preprocess.readers.markup_rules import words
from preprocess.readers.wiki.formulas import spelled_powers, spelled_signs
from preprocess.readers.wiki.incomplete_sentences import GAP

SOFT = "\x03"
"""Stands for a line break of the source inside a paragraph, which is a space for a browser."""
_LESS = "\x04"
"""Stands for < in the text, which is no tag there."""
LINK, LINK_END = "\x05", "\x06"
"""Stand around the text of a link, on each of its lines."""
HEADING = "\x07"
"""Begins the line of a heading; its level, a digit, stands behind it."""

BLOCKS = words("""
    address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure footer form h1 h2 h3 h4
    h5 h6 header hgroup legend li main menu nav ol optgroup option p pre section summary table tbody td tfoot th thead tr ul frame
    frameset iframe
""")
"""The text of such an element is a line, or lines, of its own."""
UNSEEN = words("script style noscript template head title meta link datalist area param source track col colgroup base")
"""Shows nothing, in no sentence."""
REPLACED = words("""
    img svg picture canvas audio video object embed iframe map input select textarea button progress meter applet math noframes
""")
"""Something is shown that is no text; it may stand for a word."""
READINGS = frozenset(("rt", "rp", "rtc"))
_HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_OPENING = {"br": "\n", "hr": "\n", "sup": "<sup>", "sub": "<sub>"} | {tag: f"\n{HEADING}{tag[1]}" for tag in _HEADINGS}
_CLOSING = {"sup": "</sup>", "sub": "</sub>"}
_TEXT = dict.fromkeys(range(9)) | {ord("<"): _LESS}
_SPACE = re.compile(r"[ \t\r\n\f]+")
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003ffff"
_SOFT_IN_JAPANESE = re.compile(rf"(?<=[{_WIDE}]) *{SOFT}[ {SOFT}]*(?=[{_WIDE}])")
_RAISED_TAG = re.compile(r"</?su[bp]>")
_SPACES = re.compile(r" {2,}")

Ancestors = list[tuple[Any, str, str]]
"""The elements around one, from the outermost: (element, tag, what is written at its end)."""
Rule = Callable[[Any, str, Ancestors], str | None]
"""Returns what stands for an element, given its tag and what is around it; None where its content does."""


def marked_text(root: Any, rule: Rule) -> str:
    """Returns the text below an element of resiliparse's tree, one block a line, with the marks of this module.

    Args:
        root: the element.
        rule: called for every element that can show text.
    """
    out: list[str] = []
    around: Ancestors = []
    node, links, fixed = root.first_child, 0, 0
    while node is not None:
        kind = node.type
        if kind == 3:
            out.append(_of_text(node.text, bool(fixed)))
        elif kind == 1:
            tag = node.tag
            shown = _shown(node, tag, rule, around)
            if shown is None:
                block = tag in BLOCKS
                # A link around blocks is a link on each of their lines.
                opening = _OPENING.get(tag) or ("\n" if block else "")
                closing = "\n" if block else _CLOSING.get(tag, "")
                if tag == "a":
                    links += 1
                    opening, closing = LINK, LINK_END
                elif links and "\n" in opening:
                    opening, closing = f"{LINK_END}{opening}{LINK}", f"{LINK_END}\n{LINK}" if block else closing
                fixed += tag == "pre"
                out.append(opening)
                child = node.first_child
                if child is not None:
                    around.append((node, tag, closing))
                    node = child
                    continue
                links, fixed = links - (tag == "a"), fixed - (tag == "pre")
                out.append(closing)
            elif shown:
                out.append(shown)
        found = node.next
        while found is None and around:
            element, tag, closing = around.pop()
            links, fixed = links - (tag == "a"), fixed - (tag == "pre")
            out.append(closing)
            found = element.next
        node = found
    return "".join(out)


def plain_lines(marked: str, keep: Callable[[str], str]) -> list[str]:
    """Returns the lines of a marked text as text, without empty ones.

    Args:
        marked: see `marked_text`.
        keep: returns what stays of a line in which words stand as they should; links and headings are still marked.
    """
    if "<su" in marked:
        marked = _RAISED_TAG.sub("", spelled_powers(marked))
    marked = spelled_signs(marked)
    lines: list[str] = []
    for line in marked.split("\n"):
        if not line or line.isspace():
            continue
        line = keep(line)
        if SOFT in line:
            line = _SOFT_IN_JAPANESE.sub("", line).replace(SOFT, " ")
        line = _SPACES.sub(" ", line.replace(_LESS, "<")).strip()
        if line:
            lines.append(line)
    return lines


def without_links(line: str) -> str:
    """Returns a line without the marks around links."""
    return line.replace(LINK, "").replace(LINK_END, "")


def words_of(node: Any, attributes: Iterable[str]) -> list[str]:
    """Returns the words of some attributes of an element, in small letters."""
    return " ".join(node.getattr(name) or "" for name in attributes).lower().split()


def is_hidden(node: Any, names: Iterable[str]) -> bool:
    """Returns whether an element is hidden by an attribute of its own; `names` are those of its attributes."""
    if "hidden" in names:
        return True
    if "style" not in names:
        return False
    style = re.sub(r"\s", "", node.getattr("style") or "").lower()
    return "display:none" in style or "visibility:hidden" in style


def _shown(node: Any, tag: str, rule: Rule, around: Ancestors) -> str | None:
    if tag in UNSEEN or tag in READINGS:
        return ""
    return rule(node, tag, around)


def _of_text(text: str, fixed: bool) -> str:
    text = text.translate(_TEXT)
    if fixed:
        return text.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in text or "\r" in text:
        return _SPACE.sub(lambda match: SOFT if "\n" in match[0] or "\r" in match[0] else " ", text)
    return _SPACE.sub(" ", text) if "  " in text or "\t" in text or "\f" in text else text


def gap(tag: str) -> str:
    """Returns what stands where an element with something to see was left out."""
    return "\n" if tag in BLOCKS and tag != "iframe" else GAP
