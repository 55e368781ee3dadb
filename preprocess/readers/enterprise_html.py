"""Reads the HTML dumps of Wikimedia Enterprise: one article a line as JSON, in .tar.gz as they are published, or in .ndjson files.

A dump may hold an article more than once, in several versions: the first one in a file or archive stays.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from preprocess.compressed import EXCLUDE, BadRecord
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.html import parser
from preprocess.readers.html.page_reader import READER
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits, source_of
from preprocess.readers.jsonl import TAKE_OUT, parsed, without_surrogates
from preprocess.readers.split_file import Repeats
from preprocess.readers.wiki.incomplete_sentences import Losses
from preprocess.readers.wiki.template_rules import DISAMBIGUATION

MEMBERS = re.compile(r"\.(ndjson|jsonl|json)(\.(gz|zst|xz|bz2))?$")
"""Names of the members of an archive that are read."""
MAX_PAGE_CHARACTERS = 2**24
"""Longest article that is read; MediaWiki allows 2 MiB of wikitext."""
_DISAMBIGUATION = re.compile(rf"(?:template|テンプレート):\s*(?:{DISAMBIGUATION})", re.IGNORECASE)

library = parser.library


class _Article(NamedTuple):
    identifier: int
    title: str
    namespace: object
    html: str
    is_disambiguation: bool


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file; ids are those of the pages."""
    return [split for path in files for split in file_splits(corpus, "enterprise_html", path, corpus, files)]


def begins(line: bytes, before: bytes) -> bool:
    """Returns True: each line is an article."""
    return True


def identity(line: bytes) -> int | None:
    """Returns the number of the page that a line holds; None where it holds none that can be read."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row["identifier"] if isinstance(row, dict) and _is_number(row.get("identifier")) and _html(row) is not None else None


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the articles of a split; other pages are dropped and counted by reason."""
    source = source_of(split)
    repeats = Repeats(identity) if source.seen is None else source.seen
    for number, article in parsed(split, bad, _article):
        # Both are asked, as one notes what it is asked.
        repeated = repeats.is_repeated(article.identifier)
        if repeated or number in source.repeated:
            dropped["duplicate"] += 1
            continue
        reason, text = _text(article, bad, f"{split.path}: line {number}")
        if reason:
            dropped[reason] += 1
        else:
            id_ = f"{split.corpus}-{article.identifier}"
            yield {"id": id_, "source": split.corpus, "title": article.title, "text": text}


def _text(article: _Article, bad: BadRecords, place: str) -> tuple[str, str]:
    """Returns (why an article is dropped, text)."""
    if article.namespace != 0:
        return "namespace", ""
    if 'rel="mw:PageProp/redirect"' in article.html:
        return "redirect", ""
    if article.is_disambiguation or 'property="mw:PageProp/disambiguation"' in article.html:
        return "disambiguation", ""
    if len(article.html) > MAX_PAGE_CHARACTERS:
        return "too large", ""
    reason, text, losses = READER.article(article.html, place)
    if losses is not None and text:
        bad.losses.add(Losses.of_counts(losses))
    return reason or ("" if text else "empty"), text


def _article(path: Path, number: int, row: dict[str, Any], line: bytes) -> _Article:
    place = f"line {number}"
    if not _is_number(row.get("identifier")):
        problem = 'no "identifier" that is a number, so this is no article of a Wikimedia Enterprise dump'
        raise BadRecord(path, place, "no id", problem, f"check the corpus's format in the recipe, {TAKE_OUT}")
    html = _html(row)
    if html is None:
        problem = 'no string under "html" of "article_body"'
        raise BadRecord(path, place, "no text", problem, f"get the dump with article bodies, or {EXCLUDE}")
    namespace, title, templates = row.get("namespace"), row.get("name"), row.get("templates")
    # A dump of one namespace may leave it out.
    space = namespace.get("identifier") if isinstance(namespace, dict) else namespace
    names = [one.get("name") for one in templates if isinstance(one, dict)] if isinstance(templates, list) else []
    is_disambiguation = any(isinstance(name, str) and _DISAMBIGUATION.fullmatch(name.replace("_", " ")) for name in names)
    title = without_surrogates(title) if isinstance(title, str) else ""
    return _Article(row["identifier"], title, 0 if space is None else space, without_surrogates(html), is_disambiguation)


def _html(row: dict[str, Any]) -> str | None:
    body = row.get("article_body")
    html = body.get("html") if isinstance(body, dict) else None
    return html if isinstance(html, str) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
