"""Takes the page out of the answer of a web server, as a WARC file keeps it: status line, headers, and the page as it was sent.

Crawlers differ in what they keep: Heritrix and wget keep the page as sent (in chunks, compressed), Common Crawl keeps it decoded beside
headers that speak of chunks still. So chunks and compression are undone where they are found.
"""

import re
import zlib
from dataclasses import dataclass

import zstandard

MAX_PAGE_BYTES = 2**23
"""Largest page that is read; crawlers cut pages off at 1 to 5 MiB."""
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s;\"',]+)", re.IGNORECASE)
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_HTML_HEAD = re.compile(
    rb"\s*+(?:\xef\xbb\xbf)?+\s*+<(?:!doctype\s+html|html|\?xml[^>]{0,200}\?>\s*+<(?:!doctype\s+html|html))", re.IGNORECASE
)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\r\n]{0,200})?[ \t]*\r?\n")


class Unusable(Exception):
    """There is no page to read; the text is the reason under which it is counted as dropped."""


@dataclass(frozen=True)
class Page:
    """A page of HTML."""

    content: bytes
    charset: str
    """Named by the server; empty: none."""


def page_of(response: bytes) -> Page:
    """Returns the page of an answer with status 200.

    Raises:
        Unusable: the answer is none, of another status, no HTML, or cannot be unpacked.
    """
    status = _STATUS.match(response)
    if status is None:
        raise Unusable("not HTTP")
    if status[1] != b"200":
        raise Unusable("status not 200")
    head, body = _cut(response)
    headers: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    kind = headers.get("content-type", "")
    if kind and kind.partition(";")[0].strip().lower() not in _HTML_TYPES:
        raise Unusable("not HTML")
    body = _unpacked(body, headers)
    if not kind and not _HTML_HEAD.match(body):
        raise Unusable("not HTML")
    charset = _CHARSET.search(kind)
    return Page(body, charset[1] if charset else "")


def _cut(response: bytes) -> tuple[bytes, bytes]:
    """Returns headers and body."""
    match = re.search(rb"\r?\n\r?\n", response)
    return (response, b"") if match is None else (response[: match.start()], response[match.end() :])


def _unpacked(body: bytes, headers: dict[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _joined(body)
    for name in reversed(headers.get("content-encoding", "").lower().replace(" ", "").split(",")):
        if name in ("gzip", "x-gzip"):
            body = _inflated(body, 31) if body[:2] == b"\x1f\x8b" else body
        elif name == "deflate":
            # Zlib's format by the standard, and bare by habit.
            body = _inflated(body, 15 if body[:1] == b"\x78" else -15) if not _HTML_HEAD.match(body) else body
        elif name == "zstd" and body[:4] == b"\x28\xb5\x2f\xfd":
            body = _inflated_zstd(body)
        elif name == "br" and not _HTML_HEAD.match(body):
            raise Unusable("compressed by Brotli")
    if len(body) > MAX_PAGE_BYTES:
        raise Unusable("too large")
    return body


def _joined(body: bytes) -> bytes:
    """Returns the chunks together; the body as it is where it is not in chunks any more."""
    parts: list[bytes] = []
    position = 0
    while (match := _CHUNK.match(body, position)) is not None:
        size = int(match[1], 16)
        if not size:
            return b"".join(parts)
        if match.end() + size > len(body):
            raise Unusable("damaged chunks")
        parts.append(body[match.end() : match.end() + size])
        position = match.end() + size
        position += len(body[position : position + 2]) - len(body[position : position + 2].lstrip(b"\r\n"))
    if parts:
        raise Unusable("damaged chunks")
    return body


def _inflated(body: bytes, window: int) -> bytes:
    """Returns the content of gzip or deflate, of which no more is made than a page may have."""
    stream = zlib.decompressobj(window)
    try:
        content = stream.decompress(body, MAX_PAGE_BYTES + 1)
    except zlib.error as e:
        raise Unusable("damaged compression") from e
    if not stream.eof and len(content) <= MAX_PAGE_BYTES:
        # The page ends in the middle of a word.
        raise Unusable("damaged compression")
    return content


def _inflated_zstd(body: bytes) -> bytes:
    """Returns the content of zstd, as `_inflated` does."""
    stream = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    parts: list[bytes] = []
    size = 0
    try:
        # In small pieces, as it takes no limit: a kilobyte holds 32 MiB at most.
        for at in range(0, len(body), 1024):
            parts.append(stream.decompress(body[at : at + 1024]))
            size += len(parts[-1])
            if stream.eof or size > MAX_PAGE_BYTES:
                return b"".join(parts)
    except zstandard.ZstdError as e:
        raise Unusable("damaged compression") from e
    raise Unusable("damaged compression")
