"""The running text of an article of Wikipedia as HTML (Parsoid's, or that of a page): what the reader of wikitext keeps and leaves out, by
the classes that MediaWiki writes.
"""

import re
from typing import Any

from preprocess.readers.html.page_text import (
    HEADING,
    Ancestors,
    gap,
    is_hidden,
    marked_text,
    plain_lines,
    without_links,
    words_of,
)
from preprocess.readers.markup import is_dropped_section
from preprocess.readers.markup_rules import words
from preprocess.readers.wiki.formulas import line_of_chemistry, line_of_tex
from preprocess.readers.wiki.incomplete_sentences import ASIDE, GAP, Holes, Losses, complete, unmarked

DROPPED_TAGS = words("table figure figcaption nav audio video canvas object iframe button input select textarea form svg pre")
DROPPED_CLASSES = words("""
    infobox navbox navbox-styles vertical-navbox navbar hatnote dablink rellink noprint metadata ambox mbox-small tmbox
    sistersitebox side-box thumb gallery gallerybox gallerytext toc references reflist refbegin mw-references-wrap
    mw-references mw-reference-text mw-cite-backlink mw-editsection mw-editsection-like mw-jump-link mw-highlight
    mw-kartographer-map mw-indicators printfooter catlinks reference stub asbox mw-empty-elt mw-collapsible-toggle sortkey
    error mw-ext-score navigation-not-searchable shortdescription geo-nondefault
""")
"""Words of the attribute class."""
DROPPED_ROLES = frozenset(("navigation", "note"))
_TYPES = words("mw:extension/ref mw:extension/references mw:extension/gallery mw:extension/score mw:extension/timeline")
_FILE = re.compile(r"mw:(?:file|image|video|audio)\b")
_DISPLAY = re.compile(r"\{\\(?:display|text)style ?(.*)\}", re.DOTALL)


def text_of_article(tree: Any, losses: Losses) -> str:
    """Returns the running text of an article, one paragraph, heading or list item a line.

    Args:
        tree: the page as resiliparse's tree.
        losses: counts the sentences that are left out as a formula in them has no text; added to.
    """
    holes = Holes()

    def rule(node: Any, tag: str, around: Ancestors) -> str | None:
        return _replacement(node, tag, holes, losses)

    dropped_level = 0

    def keep(line: str) -> str:
        nonlocal dropped_level
        if line.startswith(HEADING):
            level, line = int(line[1]), line[2:]
            if dropped_level and level > dropped_level:
                return ""
            dropped_level = level if is_dropped_section(unmarked(without_links(line)).strip()) else 0
        return "" if dropped_level else complete(without_links(line), holes, losses)

    return "\n".join(plain_lines(marked_text(tree.body, rule), keep)) if tree.body is not None else ""


def _replacement(node: Any, tag: str, holes: Holes, losses: Losses) -> str | None:
    """Returns what stands for an element; None where its content does."""
    if tag in DROPPED_TAGS:
        return gap(tag)
    if tag == "img":
        return GAP
    names = node.attrs
    if tag == "math":
        return _formula(node.getattr("alttext") or "", "math", holes, losses)
    if not names:
        return None
    classes = words_of(node, ("class",)) if "class" in names else []
    if "mwe-math-element" in classes:
        # Its MathML is hidden, for screen readers, and its picture is what others see.
        shown = node.query_selector("math[alttext], img[alt]")
        return _formula(
            (shown.getattr("alttext") or shown.getattr("alt") or "") if shown is not None else "", "math", holes, losses
        )
    if is_hidden(node, names):
        return gap(tag)
    if "mw-highlight" in classes and tag == "code":
        return None  # code in a sentence
    if not DROPPED_CLASSES.isdisjoint(classes) or ("role" in names and DROPPED_ROLES.intersection(words_of(node, ("role",)))):
        return gap(tag)
    if "typeof" in names:
        types = words_of(node, ("typeof",))
        if not _TYPES.isdisjoint(types) or any(_FILE.match(one) for one in types):
            return gap(tag)
    return GAP if tag == "a" and "autonumber" in classes else None


def _formula(tex: str, name: str, holes: Holes, losses: Losses) -> str:
    tex = tex.strip()
    inside = _DISPLAY.fullmatch(tex)
    tex = inside[1].strip() if inside else tex
    chemistry = re.fullmatch(r"\\ce\s*\{(.*)\}", tex, re.DOTALL)
    line = line_of_chemistry(chemistry[1]) if chemistry else line_of_tex(tex)
    if line:
        return f"{ASIDE}{line.replace('<', chr(4))}{ASIDE}"
    losses.dropped[f"<{name}>"] += 1
    return holes.mark(f"<{name}>")
