"""Reads WARC files: the pages of responses (HTML with status 200) and the texts of conversions, which WET files hold.

Languages are not told apart here. A document's id is that of its record; without one it is the page's address and date.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jadeberta.shards import InputError
from preprocess.compressed import DOWNLOAD_AGAIN, EXCLUDE, BadRecord
from preprocess.document_files import write_json
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.html import parser
from preprocess.readers.html.page_reader import READER
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, Source, file_splits, source_of
from preprocess.readers.split_file import SplitTask
from preprocess.readers.web.http_response import MAX_PAGE_BYTES, Unusable, page_of
from preprocess.readers.web.warc_records import Record, records

_NOT_DOCUMENTS = frozenset(("warcinfo", "request", "metadata"))
"""Types of records beside the documents; they are not counted."""
_UUID = re.compile(r"<?(?:urn:uuid:)?([^<>\s]+)>?")

library = parser.library


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file; ids of records without one carry the file's number."""
    named = [(path, f"{corpus}-{number}") for number, path in enumerate(files, 1)]
    return [split for path, prefix in named for split in file_splits(corpus, "warc", path, prefix, files)]


def head(split: InputSplit, size: int) -> InputSplit:
    """Returns the records at the head of a file as a split: up to the first that begins behind `size` bytes."""
    starts = (record.start for record in records(split.path) if record.start is not None and record.start >= size)
    end = next(starts, split.path.stat().st_size)
    return replace(split, end=end, note=Path(), source=Source(split.path, 0, end, ends_file=False))


def split_file(task: SplitTask, settings: Callable[[InputSplit], dict[str, Any]], count: Callable[..., None]) -> None:
    """Writes the note of every wanted split of a file, in one pass: where its records are, and how many come before them.

    A split begins where a record does that can be read without what is before it. Where records begin is known for certain only when all
    before them are read: the bytes of a page may look like a record.

    Args:
        task: the file and its splits.
        settings: returns all that a split depends on; goes into its note.
        count: called with the bytes of the file read since its last call, as `weight`.
    """
    starts = [split.start for split in task.splits]
    size = task.splits[-1].end
    # (byte, number of the first record) of each split.
    firsts = [(0, 1)]
    record, counted = None, 0
    for record in records(task.path):
        if record.start is not None:
            count(weight=record.start - counted)
            counted = record.start
            while len(firsts) < len(starts) and record.start >= starts[len(firsts)]:
                firsts.append((record.start, record.number))
    end = (size, record.number + 1 if record is not None else 1)
    firsts += [end] * (len(starts) - len(firsts))
    for split, (start, number), (stop, behind) in zip(task.splits, firsts, [*firsts[1:], end], strict=True):
        if split.name in task.wanted and split.note is not None:
            place = {"first_line": number, "lines": behind - number, "first_unit": number - 1, "units": behind - number}
            note = {"settings": settings(split), "text": None, "start": start, "end": stop, "ends_file": stop == size}
            write_json(split.note, place | note)


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a split; other records are counted as dropped, by reason."""
    source = source_of(split)
    if source.start == source.end:
        return
    count, beside = 0, 0
    for record in records(source.path, source.start, source.end, source.first_line):
        count += 1
        try:
            document = _document(split, record)
        except BadRecord as e:
            bad.add(e)
        except Unusable as e:
            dropped[str(e)] += 1
        else:
            if document is not None:
                yield document
            else:
                beside += 1
    if not count:
        raise InputError(f"{split.path}: byte {source.start}: no record in the file; {DOWNLOAD_AGAIN}.")
    if beside == count and split.note is None:
        raise InputError(
            f"{split.path}: record 1: none of its {count:,} records holds a page or a text (they are "
            f"{', '.join(sorted(_NOT_DOCUMENTS))}); take the file out of the corpus."
        )


def _document(split: InputSplit, record: Record) -> Document | None:
    """Returns the document of a record; None for one that is beside the documents.

    Raises:
        BadRecord: the record is damaged.
        Unusable: it is left out, for the reason.
    """
    if record.fault is not None:
        raise record.fault
    headers = record.headers
    kind = headers.get("warc-type", "").lower()
    if kind in _NOT_DOCUMENTS:
        return None
    if kind not in ("response", "conversion"):
        raise Unusable(f"record: {kind[:20] or 'without a type'}")
    if "warc-truncated" in headers:
        # It ends in the middle of a word, or of a character.
        raise Unusable("truncated")
    if len(record.content) != record.length:
        raise Unusable("too large")
    place = f"record {record.number}" + ("" if record.start is None else f", byte {record.start}")
    if not _is_intact(headers.get("warc-block-digest", ""), record.content):
        problem = "the content is not that of its WARC-Block-Digest"
        raise BadRecord(split.path, place, "digest", problem, f"{DOWNLOAD_AGAIN}, or {EXCLUDE}")
    title, text = "", ""
    if kind == "conversion":
        try:
            text = record.content.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            problem = f"byte {e.start + 1} of the text is not valid UTF-8"
            raise BadRecord(split.path, place, "not UTF-8", problem, f"{DOWNLOAD_AGAIN}, or {EXCLUDE}") from e
        if len(record.content) > MAX_PAGE_BYTES:
            raise Unusable("too large")
    else:
        title, text = _page(record.content, f"{split.path}: {place}")
    text = text.strip()
    if not text:
        raise Unusable("empty")
    return {"id": _id(split, record), "source": split.corpus, "title": title, "text": text}


def _page(response: bytes, place: str) -> tuple[str, str]:
    """Returns title and main text of a server's answer."""
    page = page_of(response)
    reason, title, text = READER.web_page(page.content, page.charset, place)
    if reason:
        raise Unusable(reason)
    return title, text


def _is_intact(digest: str, content: bytes) -> bool:
    """Returns whether the content is that of a digest; an algorithm that is not known says nothing."""
    algorithm, _, value = digest.partition(":")
    if algorithm.lower() not in ("sha1", "sha256", "md5") or not value:
        return True
    found = hashlib.new(algorithm.lower(), content, usedforsecurity=False).digest()
    return value.lower() in (
        found.hex(),
        base64.b32encode(found).decode().lower(),
        base64.b32encode(found).decode().rstrip("=").lower(),
    )


def _id(split: InputSplit, record: Record) -> str:
    headers = record.headers
    if (own := _UUID.fullmatch(headers.get("warc-record-id", ""))) is not None:
        return f"{split.corpus}-{own[1]}"
    address = "-".join(filter(None, (headers.get("warc-target-uri", ""), headers.get("warc-date", ""))))
    return f"{split.id_prefix}-{address or record.number}"
