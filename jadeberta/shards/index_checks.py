"""What the values of `index.json` must be, checked before any of them is used: the file may come from anywhere.

Each check raises ValueError with the place and the fault, without the file's name and a remedy, which the caller adds.
"""

import re
from typing import Any, get_args

from jadeberta.shards.row_format import NARROW_VOCABULARY, RowFormat, TokenDtype
from jadeberta.shards.tokenizer_format import SpecialTokens

LENGTH_LIMIT = 2**20
"""Most tokens in a row; far above what attention can take."""
VOCAB_LIMIT = 2**24
"""Largest vocabulary; far above what a softmax over it can take, and small enough for tables of it."""
REPEATS_LIMIT = 10**6
COUNT_LIMIT = 2**53
"""Limit of counts and sizes: products of two that belong together still fit what numpy counts with."""
ROWS_LIMIT = 2**31
"""Most rows of a block."""
ROLES = ("pad", "cls", "sep", "unk", "mask")


def check_index(document: dict[str, Any], version: int) -> None:
    """Checks types and ranges of all values of an index, as JSON has them.

    The names in `packing` and `word_starts` are left to the caller, and unknown keys too.
    """
    length = _whole(document, "sequence_length", "", 1, LENGTH_LIMIT)
    if version == 1 and (later := next((key for key in ("token_dtype", "special_tokens") if key in document), None)):
        raise ValueError(f"{later} is there, which format version 1 does not have")
    dtype = document.get("token_dtype", "uint16")
    if dtype not in get_args(TokenDtype):
        raise ValueError(f"token_dtype is {_short(dtype)} and must be {' or '.join(get_args(TokenDtype))}")
    vocabulary = _whole(document, "vocab_size", "", 1, NARROW_VOCABULARY if dtype == "uint16" else VOCAB_LIMIT)
    if "special_tokens" in document:
        _check_special_tokens(_of_type(document, "special_tokens", "", dict, "an object"), vocabulary)
    _sha256(document, "tokenizer_sha256", "")
    _of_type(document, "segmenter", "", dict, "an object")
    for key in ("normaliser", "sentence_splitter"):
        _of_type(document, key, "", str, "a string")
    for key in ("tokenizer_input", "word_source"):
        if key in document:
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
                _check_entry(entry, f"{where}{split}[{number}]", length, version)
                if entry["file"] in seen:
                    raise ValueError(f"{where}{split}[{number}].file is {entry['file']}, which another entry has already")
                seen.add(entry["file"])


def _check_special_tokens(roles: dict[str, Any], vocabulary: int) -> None:
    where = "special_tokens."
    if unknown := next((key for key in roles if key not in (*ROLES, "others")), None):
        raise ValueError(f"{where}{_short(unknown)[1:-1]} is no role of a token; the roles are {', '.join(ROLES)} and others")
    for role in ROLES:
        if role != "unk" or roles.get("unk", 0) is not None:
            _whole(roles, role, where, 0, vocabulary - 1)
    others = _of_type(roles, "others", where, list, "a list")
    for number, token in enumerate(others):
        if type(token) is not int or not 0 <= token < vocabulary:
            raise ValueError(f"{where}others[{number}] is {_short(token)} and must be a whole number from 0 to {vocabulary - 1}")
    try:
        SpecialTokens(**roles)
    except ValueError as e:
        raise ValueError(f"special_tokens: {e}") from e


def _check_entry(entry: Any, where: str, length: int, version: int) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {_short(entry)} and must be an object")
    inside = f"{where}."
    _require_file_name(_of_type(entry, "file", inside, str, "a string"), f"{inside}file")
    if "sequence_length" in entry:
        if version == 1:
            raise ValueError(f"{inside}sequence_length is there, which format version 1 does not have")
        length = _whole(entry, "sequence_length", inside, 1, LENGTH_LIMIT)
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


def outer_block(blocks: list[list[int]], rows_as: RowFormat, size: int) -> int | None:
    """Number of the first block that ends beyond `size` bytes, in rows of this format; None where all lie inside."""
    for number, (rows, tokens_offset, documents_offset) in enumerate(blocks):
        if max(tokens_offset + rows * rows_as.token_bytes, documents_offset + rows * rows_as.document_bytes) > size:
            return number
    return None


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
