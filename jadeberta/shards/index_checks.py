"""What the values of `index.json` must be, checked before any of them is used: the file may come from anywhere.

Each check raises ValueError with the place and the fault, without the file's name and a remedy, which the caller adds.
"""

import re
from typing import Any

LENGTH_LIMIT = 2**20
"""Most tokens in a row; far above what attention can take."""
VOCAB_LIMIT = 2**16
"""Token ids are stored as uint16."""
REPEATS_LIMIT = 10**6
COUNT_LIMIT = 2**53
"""Limit of counts and sizes: products of two that belong together still fit what numpy counts with."""
ROWS_LIMIT = 2**31
"""Most rows of a block."""
TOKEN_BYTES = 2


def check_index(document: dict[str, Any]) -> None:
    """Checks types and ranges of all values of an index, as JSON has them.

    The names in `packing` and `word_starts` are left to the caller, and unknown keys too.
    """
    length = _whole(document, "sequence_length", "", 1, LENGTH_LIMIT)
    _whole(document, "vocab_size", "", 1, VOCAB_LIMIT)
    _sha256(document, "tokenizer_sha256", "")
    _of_type(document, "segmenter", "", dict, "an object")
    for key in ("normaliser", "sentence_splitter"):
        _of_type(document, key, "", str, "a string")
    if "tokenizer_files" in document:  # older versions write none
        for name in _of_type(document, "tokenizer_files", "", dict, "an object"):
            _require_file_name(name, "tokenizer_files")
            _sha256(document["tokenizer_files"], name, "tokenizer_files.")
    seen: set[str] = set()
    for name, corpus in _of_type(document, "corpora", "", dict, "an object").items():
        where = f"corpora.{name}."
        if not isinstance(corpus, dict):
            raise ValueError(f"corpora.{name} is {_short(corpus)} and must be an object")
        _whole(corpus, "repeats", where, 0, REPEATS_LIMIT)
        for split in ("train", "valid"):
            for number, entry in enumerate(_of_type(corpus, split, where, list, "a list")):
                _check_entry(entry, f"{where}{split}[{number}]", length)
                if entry["file"] in seen:
                    raise ValueError(f"{where}{split}[{number}].file is {entry['file']}, which another entry has already")
                seen.add(entry["file"])


def _check_entry(entry: Any, where: str, length: int) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {_short(entry)} and must be an object")
    inside = f"{where}."
    _require_file_name(_of_type(entry, "file", inside, str, "a string"), f"{inside}file")
    for key in ("sequences", "documents", "tokens", "bytes"):
        _whole(entry, key, inside, 0, COUNT_LIMIT)
    _sha256(entry, "sha256", inside)
    if entry.get("sums_sha256", "") != "":
        _sha256(entry, "sums_sha256", inside)
    if entry["tokens"] > entry["sequences"] * length:
        raise ValueError(f"{inside}tokens is {entry['tokens']}, more than {entry['sequences']} rows of {length} hold")
    for number, block in enumerate(_of_type(entry, "blocks", inside, list, "a list")):
        if not isinstance(block, list) or len(block) != 3 or not all(type(n) is int and 0 <= n <= COUNT_LIMIT for n in block):
            raise ValueError(
                f"{inside}blocks[{number}] is {_short(block)} and must be three whole numbers from 0 to {COUNT_LIMIT}"
            )
        if block[0] > ROWS_LIMIT:
            raise ValueError(f"{inside}blocks[{number}] has {block[0]} rows; {ROWS_LIMIT} are possible")


def _require_file_name(name: str, where: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode(errors="replace")) > 255:
        raise ValueError(f"{where} is {_short(name)} and must be the name of a file in this directory")


def outer_block(blocks: list[list[int]], length: int, size: int) -> int | None:
    """Number of the first block that ends beyond `size` bytes, in rows of `length` tokens; None where all lie inside."""
    ends = (max(offsets) + rows * length * TOKEN_BYTES for rows, *offsets in blocks)
    return next((number for number, end in enumerate(ends) if end > size), None)


def _of_type(document: dict[str, Any], key: str, where: str, kind: type, words: str) -> Any:
    if key not in document:
        raise ValueError(f"incomplete ({where}{key} is missing)")
    if not isinstance(document[key], kind):
        raise ValueError(f"{where}{key} is {_short(document[key])} and must be {words}")
    return document[key]


def _whole(document: dict[str, Any], key: str, where: str, least: int, most: int) -> int:
    number = _of_type(document, key, where, int, "a whole number")
    if isinstance(number, bool) or not least <= number <= most:
        raise ValueError(f"{where}{key} is {_short(number)} and must be a whole number from {least} to {most}")
    return number


def _sha256(document: dict[str, Any], key: str, where: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", _of_type(document, key, where, str, "a string")):
        raise ValueError(f"{where}{key} is {_short(document[key])} and must be 64 hexadecimal digits")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
