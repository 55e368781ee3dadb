"""The demo's CC-100 and OSCAR files: web pages as lines of text, and in OSCAR the tags that say which pages to drop.

Each writer returns the counts that a right extraction finds.
"""

import gzip
import lzma
import random
from pathlib import Path
from typing import Any

import orjson
import zstandard

from jadeberta.utils.files import atomic_file
from preprocess.demo.sentences import Document

WIDE_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")
MENU = ["ホーム", "会社案内", "お問い合わせ", "サイトマップ"]
FOOT = ["ページの先頭へ", "個人情報の取り扱い", "利用規約", "前のページ"]
REMOVED = (["header"], ["footer"], ["noisy"], ["header", "footer"], ["tiny", "noisy"])
"""Tags of pages that the reader drops."""
KEPT = (["short_sentences"], ["tiny"])


def _page(key: str, rng: random.Random) -> list[str]:
    """Lines of a web page; in some, digits are full-width and lines are indented, for the normaliser to undo."""
    sentences = Document(key, rng.choice(("polite", "polite", "plain"))).sentences
    lines = ["".join(sentences[start : start + 3]) for start in range(0, len(sentences), 3)]
    if rng.random() < 0.2:
        lines = ["　" + line.translate(WIDE_DIGITS) for line in lines]
    return lines


def write_cc100(directory: Path, seed: int, documents: int) -> dict[str, int]:
    """One paragraph a line, a blank line after each document."""
    keys = [f"{seed}-cc100-{ordinal}" for ordinal in range(documents)]
    texts = ("\n".join(_page(key, random.Random(f"{key}-page"))) + "\n" for key in keys)
    with atomic_file(directory / "cc100-ja.txt.xz") as f:
        # Preset 2 takes a third of the default's time for files a tenth larger.
        f.write(lzma.compress("\n".join(texts).encode(), preset=2))
    return {"cc100_documents": documents}


def _tagged_page(key: str, rng: random.Random) -> tuple[list[str], list[str] | None]:
    """Lines and tags of a page; tagged pages have the menus, footers and noise that their tags mean."""
    lines, draw = _page(key, rng), rng.random()
    tags = rng.choice(REMOVED) if draw < 0.25 else rng.choice(KEPT) if draw < 0.37 else None
    for tag in tags or ():
        if tag == "header":
            lines = MENU + lines
        elif tag == "footer":
            lines = lines + FOOT
        elif tag == "noisy":
            lines = [line if rng.random() < 0.3 else f"{'★' * 30} >> {'-' * 30}" for line in lines]
        elif tag == "tiny":
            lines = lines[:2]
    return lines, tags


def _oscar_row(key: str, lines: list[str], tags: list[str] | None, schema: str) -> dict[str, Any]:
    content = "\n".join(lines)
    language = {"label": "ja", "prob": 0.98}
    headers = {
        "warc-record-id": f"<urn:uuid:{key}>",
        "content-length": str(len(content.encode())),
        "warc-identified-content-language": "jpn",
        "warc-target-uri": f"https://www.example.jp/{key}",
    }
    metadata = {
        "identification": language,
        "annotation" if schema == "2201" else "quality_warnings": tags,
        "sentence_identifications": [language if len(line) > 20 else None for line in lines],
    }
    return {"content": content, "warc_headers": headers, "metadata": metadata}


def write_oscar(directory: Path, seed: int, kept: int, schema: str = "2201") -> dict[str, int]:
    """Writes JSON Lines until `kept` documents have no tag that removes them.

    Args:
        directory: folder for the file.
        seed: seed of the corpus.
        kept: number of documents that the reader keeps.
        schema: 2201 (gzip) or 2301 (zstd).
    """
    rows: list[bytes] = []
    found = 0
    while found < kept:
        key = f"{seed}-oscar{schema}-{len(rows)}"
        lines, tags = _tagged_page(key, random.Random(f"{key}-page"))
        rows.append(orjson.dumps(_oscar_row(key, lines, tags, schema), option=orjson.OPT_APPEND_NEWLINE))
        found += tags not in REMOVED
    name = "oscar2201_ja_meta_part_1.jsonl.gz" if schema == "2201" else "oscar2301_ja_part_1.jsonl.zst"
    with atomic_file(directory / name) as f:
        data = b"".join(rows)
        # mtime=0: the time in the header would change the bytes.
        f.write(gzip.compress(data, 6, mtime=0) if schema == "2201" else zstandard.ZstdCompressor(level=3).compress(data))
    return {f"oscar{schema}_documents": len(rows), f"oscar{schema}_kept": found}
