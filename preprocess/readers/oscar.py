"""Reads OSCAR in both schemas: 22.01 (gzip, `metadata.annotation`) and 23.01 (zstd, `metadata.quality_warnings`).

Documents tagged header, footer or noisy are dropped, each counted once under the first of its tags in that order.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jadeberta.shards import InputError
from preprocess.compressed import EXCLUDE, BadRecord
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits
from preprocess.readers.jsonl import begins, parsed, text_of

__all__ = ["KEYS", "begins", "documents", "splits"]

MEMBERS = re.compile(r"\.jsonl(\.(gz|zst))?$")
"""Names of the members of an archive that are read."""
KEYS = ("where",)
DROPPED_TAGS = ("header", "footer", "noisy")
# `annotations` is what the project's own prose calls the key of 22.01.
TAG_KEYS = ("annotation", "annotations", "quality_warnings")


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file; ids carry the part number of the file's name (`ja_meta_part_12.jsonl.gz`).

    Raises:
        InputError: two files have the same part number.
    """
    parts: dict[int, Path] = {}
    for number, path in enumerate(files, 1):
        named = re.search(r"_(?:part|meta)_(\d+)\.", path.name)
        part = int(named.group(1)) if named else number
        # The part number is in the ids.
        if part in parts:
            raise InputError(f"{path}: part {part} like {parts[part]}, so ids would clash; rename one or make them two corpora.")
        parts[part] = path
    return [split for part, path in parts.items() for split in file_splits(corpus, "oscar", path, f"{corpus}-{part}", files)]


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a split."""
    for number, (text, tags) in parsed(split, bad, _text_and_tags):
        reason = _reason_to_drop(tags, text)
        if reason is None:
            yield {"id": f"{split.id_prefix}-{number}", "source": split.corpus, "title": "", "text": text}
        else:
            dropped[reason] += 1


def _text_and_tags(path: Path, number: int, row: dict[str, Any], line: bytes) -> tuple[str, list[str]]:
    return text_of(path, number, row, ("content",)), _tags(path, number, row)


def _reason_to_drop(tags: list[str], text: str) -> str | None:
    return next((tag for tag in DROPPED_TAGS if tag in tags), None if text else "empty")


def _tags(path: Path, number: int, row: dict[str, Any]) -> list[str]:
    metadata = row.get("metadata")
    if not isinstance(metadata, dict):
        remedy = "give the corpus the format jsonl if its documents carry no tags"
        raise BadRecord(path, f"line {number}", "no metadata", 'no "metadata" object, so its tags are unknown', remedy)
    tags = next((metadata[key] for key in TAG_KEYS if key in metadata), None)
    if tags is not None and not isinstance(tags, list):
        problem = "the tags are neither a list nor null"
        raise BadRecord(path, f"line {number}", "wrong type", problem, f"mend the line, take it out, or {EXCLUDE}")
    return tags or []
