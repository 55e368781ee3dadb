"""Reads JSON Lines: one object a line with its text under "text" or "content"; "id" and "title" are optional."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jadeberta.shards import InputError
from preprocess.compressed import decode
from preprocess.readers.input_split import Document, InputSplit, file_splits, source_of


def splits(corpus: str, files: list[Path]) -> list[InputSplit]:
    """Returns the splits of each file; ids of rows without "id" carry the file's number."""
    named = [(path, f"{corpus}-{number}") for number, path in enumerate(files, 1)]
    return [split for path, prefix in named for split in file_splits(corpus, "jsonl", path, prefix, files)]


def begins(line: bytes, before: bytes) -> bool:
    """Returns True: each line is a document."""
    return True


def documents(split: InputSplit, dropped: Counter[str]) -> Iterator[Document]:
    """Streams the documents of a split."""
    for number, row in rows(split):
        text = text_of(split.path, number, row, ("text", "content"))
        key = f"{split.corpus}-{row['id']}" if row.get("id") is not None else f"{split.id_prefix}-{number}"
        if text:
            yield {"id": without_surrogates(key), "source": split.corpus, "title": _title(row), "text": text}
        else:
            dropped["empty"] += 1


def rows(split: InputSplit) -> Iterator[tuple[int, dict[str, Any]]]:
    """Streams the rows of a split as (line number in the file, object), without blank lines.

    Raises:
        InputError: a line is not a JSON object.
    """
    path = split.path
    for number, line in source_of(split).lines():
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = _parse_leniently(path, number, line)
        if not isinstance(row, dict):
            problem = f"a JSON {type(row).__name__} where an object is expected"
            raise InputError(f"{path}: line {number}: {problem}; check that the file is JSON Lines or take the line out.")
        yield number, row


def text_of(path: Path, number: int, row: dict[str, Any], keys: tuple[str, ...]) -> str:
    """Returns the stripped text under the first of `keys` that the row has.

    Args:
        path: the file, for errors.
        number: the line, for errors.
        row: object of the line.
        keys: keys that may hold the text.

    Raises:
        InputError: the row has none of the keys, or the value is not a string.
    """
    names = " or ".join(f'"{key}"' for key in keys)
    for key in keys:
        if key in row:
            if isinstance(row[key], str):
                return without_surrogates(row[key]).strip()
            raise InputError(f'{path}: line {number}: "{key}" is not a string; mend the line or take it out.')
    raise InputError(
        f"{path}: line {number}: no {names} in the object; check the corpus's format in the recipe or take the line out."
    )


def without_surrogates(text: str) -> str:
    """Drops halves of surrogate pairs, which are no characters and cannot be written as UTF-8."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def _title(row: dict[str, Any]) -> str:
    title = row.get("title")
    return without_surrogates(title) if isinstance(title, str) else ""


def _parse_leniently(path: Path, number: int, line: bytes) -> Any:
    """Parses what Python's json writes and orjson refuses: lone surrogates, NaN."""
    text = decode(path, number, line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        # The error's own text counts lines from the start of this line.
        problem = f"not JSON ({e.msg} at column {e.colno})"
    except ValueError:
        problem = "JSON with a number of thousands of digits"
    except RecursionError:
        problem = "JSON nested too deep"
    raise InputError(f"{path}: line {number}: {problem}; download the file again or take the line out.")
