"""Reads the output of WikiExtractor: articles as <doc id="" url="" title=""> ... </doc>, in files like AA/wiki_00.

With --json WikiExtractor writes JSON Lines, which `jsonl.py` reads.
"""

import codecs
import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from preprocess.compressed import DOWNLOAD_AGAIN, EXCLUDE, BadRecord, decode
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits, source_of

MEMBERS = re.compile(r"^wiki_[0-9]+(\.(txt|bz2|gz))?$")
"""Names of the members of an archive that are read."""
_BEGIN = re.compile(r'<doc id="([^"]+)"[^>]*? title="(.*)">')
_END = "</doc>"


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file; ids are those of the pages."""
    return [split for path in files for split in file_splits(corpus, "wikiextractor", path, corpus, files)]


def begins(line: bytes, before: bytes) -> bool:
    """Returns whether an article begins with this line."""
    return line.startswith(b"<doc ")


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the articles of a split; a first line that repeats the title is left out."""
    for number, lines in _articles(split, bad):
        head = _BEGIN.fullmatch(lines[0].strip())
        if head is None or lines[-1] != _END:
            problem = "<doc> without id and title" if head is None else "<doc> without </doc>"
            bad.add(BadRecord(split.path, f"line {number}", "no document", problem, f"{DOWNLOAD_AGAIN}, or {EXCLUDE}"))
            continue
        title = html.unescape(head[2])
        body = [html.unescape(line) for line in lines[1:-1]]
        if body and body[0].strip() == title:
            body = body[1:]
        text = "\n".join(body).strip()
        if text:
            yield {"id": f"{split.corpus}-{head[1]}", "source": split.corpus, "title": title, "text": text}
        else:
            dropped["empty"] += 1


def _articles(split: InputSplit, bad: BadRecords) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, lines) of each article; one without an end ends before the next one."""
    first, block, skipping = 0, list[str](), False
    for number, raw in source_of(split).lines():
        try:
            line = decode(split.path, number, raw)
        except BadRecord as e:
            begun = raw.removeprefix(codecs.BOM_UTF8).startswith(b"<doc ")
            if begun and block:
                yield first, block
                block = []
            if begun or not skipping:
                bad.add(e)
            # The lines of an article whose first one cannot be read belong to none: that error is the error of all of them.
            skipping = skipping or begun
            continue
        if line.startswith("<doc "):
            if block:
                yield first, block
            first, block, skipping = number, [line], False
        elif skipping:
            skipping = line.strip() != _END
        elif block:
            block.append(line.strip() if line.strip() == _END else line)
            if block[-1] == _END:
                yield first, block
                block = []
        elif line.strip():
            bad.add(
                BadRecord(split.path, f"line {number}", "no document", "text outside <doc>", f"{DOWNLOAD_AGAIN}, or {EXCLUDE}")
            )
    if block:
        yield first, block
