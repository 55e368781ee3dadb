"""Small WARC files and pages, made by the tests themselves."""

import base64
import gzip
import hashlib

HTML = "<html><head><meta charset={charset}><title>題{n}</title></head><body><nav>メニュー</nav><p>{text}</p></body></html>"


def record(kind: str, content: bytes, number: int = 0, length: int | None = None, **headers: str) -> bytes:
    """A record; `headers` by name with _ for -, an empty one is left out."""
    digest = base64.b32encode(hashlib.sha1(content).digest()).decode()
    lines = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:00000000-0000-0000-0000-{number:012}>",
        "WARC-Target-URI": f"https://example.jp/{number}",
        "WARC-Date": "2026-01-01T00:00:00Z",
        "WARC-Block-Digest": f"sha1:{digest}",
        "Content-Length": str(len(content) if length is None else length),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return b"WARC/1.0\r\n" + head.encode() + b"\r\n" + content + b"\r\n\r\n"


def response(body: bytes, status: str = "200 OK", kind: str = "text/html", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}\r\n".encode() + body


def page(number: int, text: str, charset: str = "utf-8") -> bytes:
    return HTML.format(charset=charset, n=number, text=text).encode(charset)


def page_record(number: int, text: str) -> bytes:
    return record("response", response(page(number, text)), number)


def packed(records: list[bytes]) -> bytes:
    """As they are published: a gzip stream for each record."""
    return b"".join(gzip.compress(one) for one in records)
