"""What is made of a page of HTML; runs in a child process (`engines/engine_process.py`) under limits, and `page_reader.py` asks it.

Pages come from anywhere, and the parser is C: a page that crashes it, fills memory or keeps it busy ends the child and not the rank.
"""

import signal
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import orjson

from preprocess.readers.html import parser
from preprocess.readers.html.article_rules import text_of_article
from preprocess.readers.html.charsets import decode_page
from preprocess.readers.html.hostile import is_hostile
from preprocess.readers.html.web_rules import text_of_page
from preprocess.readers.wiki.incomplete_sentences import Losses

PAGE_SECONDS = 20.0
"""Most processor time of a page of up to 8 MiB, which does not depend on what else the host does. The largest ordinary one takes 3 seconds;
larger articles get more in proportion."""
UNPARSABLE = "unparsable"


def open_parser() -> Callable[[str], str]:
    """Returns the function that answers a request; requests and answers are JSON, answers in base64."""
    parser.parse("")
    answers = {"web": web_page, "article": article}

    def parse(line: str) -> str:
        # Both ways in base64: ASCII passes fastest through strings.
        kind, content, charset = orjson.loads(line)
        # The signal has no handler: it ends the process also inside of the parser.
        page = b64decode(content)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds_for(len(page)))
        answer = answers[kind](page, charset)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return b64encode(orjson.dumps(answer)).decode()

    return parse


def seconds_for(size: int) -> float:
    """Returns the most processor time of a page of so many bytes."""
    return PAGE_SECONDS * max(1.0, size / 2**23)


def web_page(content: bytes, charset: str) -> list[Any]:
    """Returns [why a page is dropped, title, main text]; `charset` is what the server names, empty: none."""
    html = decode_page(content, charset)
    if html is None:
        return ["unknown encoding", "", ""]
    try:
        if is_hostile(html):
            return [UNPARSABLE, "", ""]
        tree = parser.parse(html)
        return ["", " ".join((tree.title or "").split()), text_of_page(tree)]
    except (ValueError, RuntimeError, MemoryError):
        return [UNPARSABLE, "", ""]


def article(content: bytes, charset: str) -> list[Any]:
    """Returns [why an article of Wikipedia is dropped, its text, `Losses.counts`]."""
    html, losses = content.decode(charset), Losses()
    try:
        if is_hostile(html):
            return [UNPARSABLE, "", None]
        text = text_of_article(parser.parse(html), losses)
    except (ValueError, RuntimeError, MemoryError):
        return [UNPARSABLE, "", None]
    return ["", text, losses.counts(sys.maxsize)]
