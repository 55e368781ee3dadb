"""Small dumps and files in the source formats, and what the readers make of them."""

import bz2
import gzip
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from jadeberta.shards import InputError
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.readers.bad_records import BadRecords

HEADER = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-{}/" xml:lang="ja">\n  <siteinfo><dbname>jawiki</dbname></siteinfo>\n'
)
FOOTER = "</mediawiki>\n"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(corpus: str, format: str, path: Path | str, bad: BadRecords | None = None) -> tuple[list[dict[str, str]], Counter[str]]:
    dropped: Counter[str] = Counter()
    config = CorpusConfig(format=format, path=str(path))  # type: ignore[arg-type]
    return [d for split in readers.splits(corpus, config) for d in readers.documents(split, dropped, bad)], dropped


def ids(corpus: str, format: str, path: Path | str) -> list[str]:
    return [document["id"] for document in read(corpus, format, path)[0]]


def said_about(corpus: str, format: str, path: Path | str) -> str:
    """The message of the error, which must be one sentence that names the file and a place in it."""
    with pytest.raises(InputError) as error:
        read(corpus, format, path)
    message = str(error.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message and ". " not in message
    assert "; " in message, "a remedy stands after the semicolon"
    return message


def page(page_id: int, text: str, ns: int = 0, redirect: bool = False) -> str:
    redirection = '<redirect title="他" />' if redirect else ""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f"  <page>\n    <title>題{page_id}</title>\n    <ns>{ns}</ns>\n    <id>{page_id}</id>{redirection}\n"
        f"    <revision><id>{page_id + 900}</id><text>{escaped}</text></revision>\n  </page>\n"
    )


def dump(pages: list[str], schema: str = "0.10") -> bytes:
    return (HEADER.format(schema) + "".join(pages) + FOOTER).encode()


def write_multistream(folder: Path, streams: int, index: bool) -> Path:
    """A dump of `streams` streams of two pages each, as the project publishes it."""
    contents = [HEADER.format("0.10"), *(page(2 * n, f"本文{n}。") + page(2 * n + 1, "続き。") for n in range(streams)), FOOTER]
    data, listed = b"", ""
    for number, content in enumerate(contents):
        if 0 < number <= streams:
            listed += f"{len(data)}:{2 * number - 2}:題\n{len(data)}:{2 * number - 1}:題: 副題\n"
        data += bz2.compress(content.encode())
    path = folder / "jawiki-20221020-pages-articles-multistream.xml.bz2"
    path.write_bytes(data)
    if index:
        (folder / "jawiki-20221020-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(listed.encode()))
    return path


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def oscar_row(text: str, key: str, tags: list[str] | None) -> dict[str, Any]:
    return {"content": text, "warc_headers": {}, "metadata": {"identification": {"label": "ja", "prob": 0.9}, key: tags}}


def article(page_id: int, html: str, namespace: int = 0, **others: Any) -> dict[str, Any]:
    """An article of a Wikimedia Enterprise dump, with the fields that are read and some others."""
    return {
        "name": f"題{page_id}",
        "identifier": page_id,
        "date_modified": "2026-01-01T00:00:00Z",
        "version": {"identifier": page_id + 900},
        "url": f"https://ja.wikipedia.org/wiki/{page_id}",
        "namespace": {"name": "", "identifier": namespace},
        "article_body": {"html": f"<html><head></head><body>{html}</body></html>", "wikitext": "x"},
        "license": [{"identifier": "CC-BY-SA-4.0"}],
    } | others
