"""The main text of a web page: what frames it (navigation, headers, footers, side bars, forms) is left out by the names of its elements,
and lines that are links alone are, unless they end a sentence.

A name proves nothing: many old pages hold all of their text in one form, or call the box around everything a menu. So forms, headers and
elements of such names are left out only where they hold at most half of the page's text.
"""

import re
from collections.abc import Callable
from typing import Any

from preprocess.readers.html.page_text import (
    HEADING,
    LINK,
    REPLACED,
    Ancestors,
    gap,
    is_hidden,
    marked_text,
    plain_lines,
    without_links,
    words_of,
)
from preprocess.readers.markup_rules import words
from preprocess.readers.wiki.incomplete_sentences import GAP, Holes, Losses, complete

FRAMES = words("nav footer aside menu dialog")
"""Elements that frame a page by what they are."""
MAY_BE_FRAMES = words("header form")
ROLES = words("navigation banner contentinfo complementary search dialog alertdialog menu menubar toolbar tablist")
NAMES = words("""
    nav navi navigation navbar gnav gnavi globalnav global-nav global-navi localnav local-nav lnav menu menubar sidebar side-bar sidemenu
    side-menu sub-menu submenu breadcrumb breadcrumbs topicpath topic-path pankuzu footer site-footer header site-header copyright pagetop
    page-top back-to-top pager pagination pagenavi page-navi cookie cookie-banner cookie-consent share share-buttons sns sns-share social
    social-share social-buttons ad ads advert advertisement banner banners related related-posts related-articles recommend ranking
    login searchform search-form searchbox search-box skip skiplink skip-link tagcloud tag-cloud widget-area
""")
"""Words of class and id, whole ones."""
MOST_LEVELS = 50
"""Levels above a header on which it may be an article's."""
MOST_NESTED = 10
"""Most elements in one another whose share of the page's text is looked at."""
_SENTENCE_END = re.compile(r"[。．！？!?…][」』）)】”\"'\s]*$")
_LINKS = re.compile(r"\x05[^\x05\x06]*(?:\x06|$)")
_WORD = re.compile(r"[^\W_]")
_NOTE = re.compile(r"\s*[\[［(（]\s*(?:注|註|※|\*)?\s*[0-9０-９]{1,3}\s*[\])］）]\s*")


def text_of_page(tree: Any) -> str:
    """Returns the main text of a page, one block a line; `tree` is resiliparse's."""
    body = tree.body
    if body is None:
        return ""
    losses, holes = Losses(), Holes()

    def keep(line: str) -> str:
        line = line[2:] if line.startswith(HEADING) else line
        if LINK in line and not _WORD.search(_LINKS.sub("", line)) and not _SENTENCE_END.search(without_links(line)):
            return ""
        line = without_links(line)
        # A character that could not be read is a hole in its word.
        return complete(line, holes, losses) if _WORD.search(line) and "\ufffd" not in line else ""

    # The body of a page of frames is <frameset>, whose text is None.
    return "\n".join(plain_lines(marked_text(body, _rule(len(body.text or ""))), keep))


def _rule(page: int) -> Callable[[Any, str, Ancestors], str | None]:
    """Returns the rule of a page with so many characters of text."""
    # Depths of the elements around this one that may be frames and were kept.
    kept: list[int] = []

    def rule(node: Any, tag: str, around: Ancestors) -> str | None:
        if tag in REPLACED or tag in FRAMES:
            return gap(tag)
        names = node.attrs
        if names and is_hidden(node, names):
            return gap(tag)
        if tag == "sup" and _NOTE.fullmatch(_only_text(node)):
            return GAP
        if _may_be_frame(node, tag, names or (), around):
            while kept and kept[-1] >= len(around):
                kept.pop()
            # Each look at the text of an element reads all that is in it.
            if len(kept) < MOST_NESTED:
                if len(node.text or "") * 2 <= page:
                    return gap(tag)
                kept.append(len(around))
        return None

    return rule


def _only_text(node: Any) -> str:
    """Returns the text of an element that holds nothing else, or one element that does; else nothing."""
    for _ in range(3):
        child = node.first_child
        if child is None or child.next is not None:
            return ""
        if child.type == 3:
            return str(child.text)
        node = child
    return ""


def _may_be_frame(node: Any, tag: str, names: tuple[str, ...], around: Ancestors) -> bool:
    if tag in MAY_BE_FRAMES:
        # The header of an article holds its title.
        return tag != "header" or not any(outer in ("article", "main") for _, outer, _ in around[-MOST_LEVELS:])
    if tag in ("main", "article", "body") or not names:
        return False
    if "role" in names and ROLES.intersection(words_of(node, ("role",))):
        return True
    return ("class" in names or "id" in names) and not NAMES.isdisjoint(words_of(node, ("class", "id")))
