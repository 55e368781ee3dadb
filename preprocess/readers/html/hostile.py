"""Finds pages of which a parser of HTML, by the rules of the standard, would make a tree of gigabytes or work for hours on one tag.

Such pages exist to break crawlers. What is bounded here follows from the page alone, so that every machine drops the same pages.
"""

import re

MAX_COPIES = 5_000_000
"""Most elements that the parser may add by itself: each block inside of formatting that is never closed gets a copy of all of it."""
MAX_ATTRIBUTES = 10_000
"""Most attributes of a tag; the parser compares each with all before it."""
_FORMATTING = "b|big|code|em|font|i|s|small|strike|strong|tt|u|nobr"
_TAG = re.compile(rf"<(?:(/?)({_FORMATTING})|([a-z][a-z0-9]*))(?=[\s/>])", re.IGNORECASE)
_OPENED = re.compile(rf"<(?:{_FORMATTING})(?=[\s/>])", re.IGNORECASE)


def is_hostile(page: str) -> bool:
    """Returns whether a page must not be parsed; takes time in proportion to its length."""
    return _has_crowded_tag(page) or (sum(1 for _ in _OPENED.finditer(page)) > 1000 and _copies(page) > MAX_COPIES)


def _has_crowded_tag(page: str) -> bool:
    # An attribute takes two characters and a space; only stretches without > can be one tag.
    for stretch in page.split(">"):
        if len(stretch) > 3 * MAX_ATTRIBUTES:
            tag = stretch[stretch.rfind("<") + 1 :]
            if tag[:1].isalpha() and len(tag.split(None, MAX_ATTRIBUTES + 1)) > MAX_ATTRIBUTES:
                return True
    return False


def _copies(page: str) -> int:
    opened = copies = 0
    for match in _TAG.finditer(page):
        if match[3]:
            copies += opened
        else:
            opened = max(0, opened - 1) if match[1] else opened + 1
    return copies
