"""The demo's CC-100 and OSCAR files: web pages as lines of text, and in OSCAR the tags that say which of them to drop.

Promises the counts it returns: documents in the file and, for OSCAR, those that no tag removes.
"""

import gzip
import lzma
import random
from pathlib import Path
from typing import Any

import orjson
import zstandard

from jadeberta.utils.files import atomic_file
from preprocess.demo.documents import Document, Lexicon
from preprocess.demo.sentences import write

WIDE_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")


def _paragraphs(document: Document) -> list[str]:
    lines, start = [], 0
    while start < len(document.sentences):
        size = document.rng.randint(1, 4)
        lines.append("".join(document.sentences[start : start + size]))
        start += size
    return lines


def _web_document(lexicon: Lexicon, key: str, polite: float) -> list[str]:
    """Lines of a web page; in some, digits are full-width and paragraphs are indented, for the normaliser to undo."""
    rng = random.Random(key + "-web")
    document = write(lexicon, key, "polite" if rng.random() < polite else "plain", rng.randint(5, 25))
    lines = _paragraphs(document)
    if rng.random() < 0.2:
        lines = [line.translate(WIDE_DIGITS) for line in lines]
    if rng.random() < 0.1:
        lines = ["　" + line for line in lines]
    return lines


def write_cc100(directory: Path, lexicon: Lexicon, seed: int, documents: int) -> dict[str, int]:
    """One paragraph a line, a blank line after each document."""
    texts = ("\n".join(_web_document(lexicon, f"{seed}-cc100-{ordinal}", 0.5)) + "\n" for ordinal in range(documents))
    with atomic_file(directory / "cc100-ja.txt.xz") as f:
        # Preset 2 takes a third of the default's time for files a tenth larger.
        f.write(lzma.compress("\n".join(texts).encode(), preset=2))
    return {"cc100_documents": documents}


MENU = ("ホーム", "会社案内", "お問い合わせ", "サイトマップ", "新着情報", "採用情報")
FOOT = ("ページの先頭へ", "個人情報の取り扱い", "利用規約", "前のページ", "次のページ")
REMOVED = (["header"], ["footer"], ["noisy"], ["header", "footer"], ["tiny", "noisy"], ["short_sentences", "footer"])
KEPT = (["short_sentences"], ["tiny"], ["tiny", "short_sentences"])


def _oscar_lines(lexicon: Lexicon, seed: int, part: int, ordinal: int) -> tuple[list[str], list[str] | None]:
    """A page's lines and its tags; the tagged pages have the menus, footers and noise that the tags mean."""
    key = f"{seed}-oscar-{part}-{ordinal}"
    rng = random.Random(key + "-tags")
    lines = _web_document(lexicon, key, 0.8)
    draw = rng.random()
    tags = rng.choice(REMOVED) if draw < 0.25 else rng.choice(KEPT) if draw < 0.37 else None
    for tag in tags or ():
        if tag == "header":
            lines = rng.sample(MENU, 4) + lines
        elif tag == "footer":
            lines = lines + rng.sample(FOOT, 4)
        elif tag == "noisy":
            lines = [
                line if rng.random() < 0.3 else "★" * rng.randint(20, 60) + " >> " + "-" * rng.randint(20, 60) for line in lines
            ]
        elif tag == "tiny":
            lines = lines[:4]
    return lines, tags


def _oscar_row(lines: list[str], tags: list[str] | None, part: int, ordinal: int, schema: str) -> dict[str, Any]:
    content = "\n".join(lines)
    rng = random.Random(f"{schema}-{part}-{ordinal}")
    language = {"label": "ja", "prob": round(rng.uniform(0.8, 1.0), 4)}
    sentences = [language if len(line) > 20 else None for line in lines]
    metadata: dict[str, Any] = {"identification": language, "annotation": tags, "sentence_identifications": sentences}
    if schema == "2301":
        metadata = {
            "identification": language,
            "harmful_pp": round(rng.uniform(100, 900), 2),
            "tlsh": None,
            "quality_warnings": tags,
            "categories": None,
            "sentence_identifications": sentences,
        }
    headers = {
        "warc-record-id": f"<urn:uuid:{rng.getrandbits(128):032x}>",
        "warc-date": "2021-12-01T00:00:00Z",
        "content-type": "text/plain",
        "content-length": str(len(content.encode())),
        "warc-type": "conversion",
        "warc-identified-content-language": "jpn",
        "warc-target-uri": f"https://www.example.jp/{part}/{ordinal}",
    }
    return {"content": content, "warc_headers": headers, "metadata": metadata}


def write_oscar(directory: Path, lexicon: Lexicon, seed: int, kept: int, schema: str = "2201") -> dict[str, int]:
    """JSON Lines until `kept` documents have no tag that removes them: 22.01 as gzip or 23.01 as zstd."""
    part = {"2201": 1, "2301": 2}[schema]
    rows: list[bytes] = []
    found = ordinal = 0
    while found < kept:
        lines, tags = _oscar_lines(lexicon, seed, part, ordinal)
        rows.append(orjson.dumps(_oscar_row(lines, tags, part, ordinal, schema), option=orjson.OPT_APPEND_NEWLINE))
        found += tags not in REMOVED
        ordinal += 1
    name = "oscar2201_ja_meta_part_1.jsonl.gz" if schema == "2201" else "oscar2301_ja_part_1.jsonl.zst"
    with atomic_file(directory / name) as f:
        data = b"".join(rows)
        f.write(gzip.compress(data, 6, mtime=0) if schema == "2201" else zstandard.ZstdCompressor(level=3).compress(data))
    return {f"oscar{schema}_documents": ordinal, f"oscar{schema}_kept": found}
