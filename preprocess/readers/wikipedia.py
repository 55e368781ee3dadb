"""Reads Wikipedia's pages-articles dumps: multistream or plain .xml.bz2, or .xml, in any version of the export schema from 0.3 on.

A multistream dump gives splits of some streams each. Only one page at a time is in memory.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from jadeberta.shards import InputError
from preprocess.compressed import DOWNLOAD_AGAIN, EXCLUDE, BadRecord, DamagedFile, chunks, lines
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits, source_of, stem
from preprocess.readers.markup import clean, is_disambiguation, is_redirect
from preprocess.readers.wiki.incomplete_sentences import Losses

# About 1,600 pages, 2.5 MB compressed: half a minute of work, so that a kill costs little and ranks end together.
STREAMS_PER_SPLIT = 16
# MediaWiki allows 2 MiB of text in a page; escapes make it longer.
MAX_PAGE_BYTES = 2**28
_SCAN_BYTES = 2**24
_STREAM_START = re.compile(rb"BZh[1-9]1AY&SY")
_OTHER_NAMESPACE = re.compile(
    r"(?:(?:利用者|user|wikipedia|project|ファイル|画像|file|image|mediawiki|template|テンプレート|help|ヘルプ|category|カテゴリ|portal|ポータル|"
    r"プロジェクト|module|モジュール|book|draft|gadget|timedtext)(?:[‐ _-]?(?:ノート|会話|talk)|・トーク)?|ノート|talk|"
    r"特別|special|メディア|media|トーク):",
    re.IGNORECASE,
)
"""Begins the titles of pages outside the articles' namespace, in Japanese and English."""
_INDEX_NAME = re.compile(r"-multistream-index\d*\.txt")


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of the dumps among `files`; index files are found beside the dumps, by name.

    Raises:
        InputError: there is an index without its dump, or an index that does not fit its dump.
    """
    dumps = [path for path in files if not _INDEX_NAME.search(path.name)]
    if not dumps:
        raise InputError(f"{files[0]}: an index without its dump; let the corpus's path match the .xml.bz2 file too.")
    found = []
    for path in dumps:
        starts = [*_split_starts(path), path.stat().st_size]
        if len(starts) == 2:
            found += file_splits(corpus, "wikipedia", path, corpus, dumps)
            continue
        for number, (start, end) in enumerate(pairwise(starts)):
            found.append(InputSplit(corpus, "wikipedia", f"{stem(path)}-{number:05d}", path, corpus, start, end))
    return found


def begins(line: bytes, before: bytes) -> bool:
    """Returns whether a page begins with this line; a literal <page> cannot be part of a text, as exports escape it."""
    return line.endswith(b"<page>")


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the articles of a split as plain text; other pages are dropped and counted by reason."""
    for number, page in _pages(split):
        try:
            title, namespace, page_id, redirect, wikitext = _fields(split, number, page)
        except BadRecord as e:
            bad.add(e)
            continue
        reason = (
            "namespace"
            if namespace != "0"
            else "redirect"
            if redirect or is_redirect(wikitext)
            else "disambiguation"
            if is_disambiguation(wikitext)
            else ""
        )
        if not reason:
            losses = Losses()
            try:
                text = clean(wikitext, title, losses)
            except Exception:
                # A page that is all brackets raises ValueError; whatever else happens, one page must not end a run.
                reason = "unparsable"
            else:
                reason = "" if text else "empty"
                bad.losses.add(losses)
        if reason:
            dropped[reason] += 1
        else:
            yield {"id": f"{split.id_prefix}-{page_id}", "source": split.corpus, "title": title, "text": text}


def index_of(path: Path) -> Path | None:
    """Returns the index file beside a multistream dump, also of a dump in several files (multistream1.xml-p1p114794.bz2), or None."""
    name = re.sub(r"-multistream(\d*)\.xml", r"-multistream-index\1.txt", path.name)
    index = path.with_name(name)
    return index if name != path.name and index.is_file() else None


def _split_starts(path: Path) -> list[int]:
    """Returns where the splits of a dump begin: 0 and the start of every 16th stream of pages.

    Without an index the streams are found by their first ten bytes. A false hit among 3.6 GB has a chance of 1 in 10^14. A split cannot
    begin at a stream that does not begin with a page (as pbzip2 writes them), so each start is tried before it is used.
    """
    if path.suffix != ".bz2":
        return [0]
    index = index_of(path)
    if index is None:
        return [0, *(start for start in _scan(path)[STREAMS_PER_SPLIT::STREAMS_PER_SPLIT] if _begins_with_page(path, start))]
    starts = _read_index(index)
    cuts = starts[STREAMS_PER_SPLIT::STREAMS_PER_SPLIT]
    with open(path, "rb") as f:
        for start in {*cuts, starts[-1]}:
            f.seek(start)
            if not _STREAM_START.match(f.read(10)):
                remedy = "get dump and index of the same date again, or delete the index"
                raise InputError(f"{path}: byte {start}: no stream begins here although {index.name} says so; {remedy}.")
    return [0, *cuts]


def _read_index(index: Path) -> list[int]:
    # A dictionary for its keys: each stream is listed once for every page in it.
    starts: dict[int, None] = {}
    for number, line in lines(index):
        offset = line.partition(b":")[0]
        if not offset.isdigit() or len(offset) > 15:
            raise InputError(f"{index}: line {number}: not 'offset:page id:title'; download it again or delete it.")
        starts[int(offset)] = None
    if not starts:
        raise InputError(f"{index}: line 1: no stream is listed; download it again or delete it.")
    return sorted(starts)


def _scan(path: Path) -> list[int]:
    """Returns the starts of all streams except the first, which holds the header."""
    starts = []
    with open(path, "rb") as f:
        tail, position = b"", 0
        while block := f.read(_SCAN_BYTES):
            data = tail + block
            starts += [position - len(tail) + match.start() for match in _STREAM_START.finditer(data)]
            tail, position = data[-9:], position + len(block)
    return [start for start in starts if start > 0]


def _begins_with_page(path: Path, start: int) -> bool:
    try:
        return next(chunks(path, start), b"").lstrip().startswith(b"<page>")
    except DamagedFile:
        return False


def _pages(split: InputSplit) -> Iterator[tuple[int, bytes]]:
    """Streams (number in the split from 1, XML of one <page>). A literal <page> cannot be part of a text: exports escape it."""
    source = source_of(split)
    number, buffer, entered = 0, b"", split.start > 0
    try:
        for chunk in source.chunks():
            if not entered and b"<mediawiki" not in chunk[:4096]:
                remedy = "name a pages-articles .xml.bz2 or .xml file in the recipe"
                raise InputError(f"{split.path}: byte 0: not a MediaWiki export; {remedy}.")
            entered = True
            # Pages may span chunks and streams; the buffer holds the rest of the last chunk.
            buffer += chunk
            position = 0
            while (end := buffer.find(b"</page>", position)) >= 0:
                end += len(b"</page>")
                for page in _begun_pages(buffer[position:end]):
                    number += 1
                    yield number, page
                position = end
            buffer = buffer[position:]
            if len(buffer) > MAX_PAGE_BYTES:
                raise _error(split, number + 1, "a page of more than 256 MiB, so this is not a pages-articles dump")
    except DamagedFile as e:
        raise InputError(f"{split.path}: byte {e.byte}, after page {number} of the split: {e}; {DOWNLOAD_AGAIN}.") from e
    # A split ends between two pages, so a page that has begun here is not whole.
    if b"<page" in buffer:
        raise _error(split, number + 1, "the file is cut short in mid-page")
    if source.ends_file and not buffer.rstrip().endswith(b"</mediawiki>"):
        raise _error(split, number + 1, "the file is cut short: </mediawiki> is missing")


def _begun_pages(data: bytes) -> list[bytes]:
    """Returns what stands before each second and further <page>, and the rest: a page that never ends costs no other one."""
    starts = [match.start() for match in re.finditer(b"<page>", data)][1:]
    return [data[start:end] for start, end in pairwise([0, *starts, len(data)])]


def _fields(split: InputSplit, number: int, page: bytes) -> tuple[str, str, str, bool, str]:
    """Returns (title, namespace, id, whether the page redirects, wikitext)."""
    start = page.find(b"<page>")
    if start < 0:
        raise _bad_page(split, number, page, "not XML", "</page> without <page>")
    if not page.endswith(b"</page>"):
        raise _bad_page(split, number, page, "not XML", "</page> is missing before the next page begins")
    try:
        # Parsed by itself a page has no namespace, so that export-0.10 and 0.11 look the same.
        element = ElementTree.fromstring(page[start:].decode())
    except UnicodeDecodeError as e:
        raise _bad_page(split, number, page, "not UTF-8", f"not valid UTF-8 ({e.reason})") from e
    except ElementTree.ParseError as e:
        raise _bad_page(split, number, page, "not XML", f"not valid XML ({e})") from e
    title, namespace, page_id = (element.findtext(name) for name in ("title", "ns", "id"))
    if title is None or not page_id:
        raise _bad_page(split, number, page, "no id", "a page without <title> or <id>")
    if namespace is None:
        # Schemas before 0.6 have no <ns>.
        namespace = "0" if _OTHER_NAMESPACE.match(title) is None else "other"
    return title, namespace, page_id, element.find("redirect") is not None, element.findtext("revision/text") or ""


def _bad_page(split: InputSplit, page_number: int, page: bytes, kind: str, problem: str) -> BadRecord:
    # The title as it stands there, since the page is no XML; a user finds the page by it.
    title = re.search(rb"<title>([^<>]{1,1000})</title>", page)
    problem += f", title {title[1].decode(errors='replace')}" if title else ""
    place = f"page {page_number} after byte {split.start}"
    return BadRecord(split.path, place, kind, problem, f"{DOWNLOAD_AGAIN}, or {EXCLUDE}")


def _error(split: InputSplit, page_number: int, problem: str) -> InputError:
    return InputError(f"{split.path}: page {page_number} after byte {split.start}: {problem}; {DOWNLOAD_AGAIN}.")
