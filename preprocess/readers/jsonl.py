"""Reads JSON Lines: one object a line with its text under "text" or "content"; "id" and "title" are optional.

A recipe may name other fields, nested ones too (`text_key`, `id_key`), and give a filter on fields (`where`).
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson

from preprocess.compressed import EXCLUDE, BadRecord, decode
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits, source_of
from preprocess.readers.rows.field_paths import MISSING, Getter, getter
from preprocess.readers.rows.where import parse_where

MEMBERS = re.compile(r"\.(jsonl|ndjson|json)(\.(gz|zst|xz|bz2))?$")
"""Names of the members of an archive that are read."""
KEYS = ("text_key", "id_key", "where")
TEXT_KEYS = ("text", "content")
TAKE_OUT = f"take the line out, or {EXCLUDE}"

log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed")


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of each file; ids of rows without "id" carry the file's number."""
    named = [(path, f"{corpus}-{number}") for number, path in enumerate(files, 1)]
    return [split for path, prefix in named for split in file_splits(corpus, "jsonl", path, prefix, files)]


def begins(line: bytes, before: bytes) -> bool:
    """Returns True: each line is a document."""
    return True


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a split."""
    for number, (text, title, key) in parsed(split, bad, _fields_of(split.settings)):
        if text:
            id_ = f"{split.id_prefix}-{number}" if key is None else f"{split.corpus}-{key}"
            yield {"id": without_surrogates(id_), "source": split.corpus, "title": title, "text": text}
        else:
            dropped["empty"] += 1


def parsed(
    split: InputSplit, bad: BadRecords, parse: Callable[[Path, int, dict[str, Any], bytes], Parsed]
) -> Iterator[tuple[int, Parsed]]:
    """Streams (line number in the file, what `parse` makes of the line's object) without blank lines and those that `where` drops.

    Args:
        split: the split.
        bad: what happens to a line that is not a JSON object, or that `parse` refuses by BadRecord.
        parse: called with the file, the line's number, its object and its bytes.
    """
    path, fields = split.path, _Fields(split)
    for number, line in source_of(split).lines():
        if not line.strip():
            continue
        try:
            row = _object(path, number, line)
            # Before anything else is asked of it: a row that is not wanted need not have a text.
            if not fields.keep(row, number, line):
                bad.dropped["where"] += 1
                continue
            found = parse(path, number, row, line)
        except BadRecord as e:
            bad.add(e)
            continue
        yield number, found
    fields.warn_of_unseen()


class _Fields:
    """The fields that the filter of a split names."""

    def __init__(self, split: InputSplit) -> None:
        self._split = split
        text = split.settings.where
        self._where = parse_where(text, f"preprocess.corpora.{split.corpus}.where") if text else None
        self._getters = [getter(path) for path in self._where.fields] if self._where else []
        self._unseen = set(self._where.fields) if self._where else set()
        self._rows = 0

    def keep(self, row: dict[str, Any], number: int, line: bytes) -> bool:
        """Returns whether the filter keeps a row, or there is none."""
        if self._where is None:
            return True
        values = [get(row) for get in self._getters]
        if any(isinstance(value, float) and abs(value) >= 2**63 for value in values):
            # orjson makes such integers floats, and they would be equal to others.
            row = _parse_leniently(self._split.path, number, line)
            values = [get(row) for get in self._getters]
        self._rows += 1
        if self._unseen:
            self._unseen -= {path for path, value in zip(self._where.fields, values, strict=True) if value is not MISSING}
        return self._where.keeps(values)

    def warn_of_unseen(self) -> None:
        """Warns of fields that no row of the split has: most likely their names are misspelt."""
        if self._rows and self._unseen:
            log.warning(
                "%s: where names %s, which no row has (%s)",
                self._split.corpus,
                ", ".join(sorted(self._unseen)),
                self._split.name,
            )


def text_of(path: Path, number: int, row: dict[str, Any], keys: tuple[str, ...], joined: bool = False) -> str:
    """Returns the stripped text under the first of `keys` that the row has.

    Args:
        path: the file, for errors.
        number: the line, for errors.
        row: object of the line.
        keys: keys that may hold the text; dots lead into objects.
        joined: take a list of strings too, one a line.

    Raises:
        BadRecord: the row has none of the keys, or the value is not a string.
    """
    names, place = " or ".join(f'"{key}"' for key in keys), f"line {number}"
    for key in keys:
        found = row.get(key, MISSING) if "." not in key else getter(key)(row)
        if found is MISSING:
            continue
        if joined and isinstance(found, list) and all(isinstance(line, str) for line in found):
            found = "\n".join(found)
        if isinstance(found, str):
            return without_surrogates(found).strip()
        if found is None:
            raise BadRecord(path, place, "no text", f'"{key}" is null', f"give the line a text, {TAKE_OUT}")
        raise BadRecord(path, place, "wrong type", f'"{key}" is not a string', f"mend the line, {TAKE_OUT}")
    remedy = f"check the corpus's format and text_key in the recipe, {TAKE_OUT}"
    raise BadRecord(path, place, "no text", f"no {names} in the object", remedy)


def without_surrogates(text: str) -> str:
    """Drops halves of surrogate pairs, which are no characters and cannot be written as UTF-8."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def _fields_of(settings: ReaderSettings) -> Callable[[Path, int, dict[str, Any], bytes], tuple[str, str, str | None]]:
    """Returns the function that gives text, title and the row's own id, if it has one."""
    keys = (settings.text_key,) if settings.text_key else TEXT_KEYS
    joined, named = bool(settings.text_key), settings.id_key
    id_of = getter(named or "id")

    def fields(path: Path, number: int, row: dict[str, Any], line: bytes) -> tuple[str, str, str | None]:
        title = row.get("title")
        found = id_of(row)
        if found is MISSING and named:
            remedy = f"correct the corpus's id_key in the recipe, {TAKE_OUT}"
            raise BadRecord(path, f"line {number}", "no id", f'no "{named}" in the object', remedy)
        if named and isinstance(found, (dict, list)):
            problem = f'"{named}" is neither a string nor a number'
            raise BadRecord(
                path, f"line {number}", "wrong type", problem, f"correct the corpus's id_key in the recipe, {TAKE_OUT}"
            )
        key = _key(path, number, found, line, id_of)
        return text_of(path, number, row, keys, joined), without_surrogates(title) if isinstance(title, str) else "", key

    return fields


def _key(path: Path, number: int, found: object, line: bytes, id_of: Getter) -> str | None:
    """Returns an id as it is written in the line; None where there is none, or one that says nothing (null, NaN, a truth value)."""
    if found is None or found is MISSING or found == "" or isinstance(found, bool):
        return None
    if isinstance(found, float):
        # Ids that differ in the file must differ here: as a float, an integer of 2^64 and more loses its last digits.
        exact = _parse_leniently(path, number, line, parse_float=str, parse_int=str, parse_constant=lambda name: None)
        written = id_of(exact)
        return None if written is None else str(written)
    return str(found)


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _parse_leniently(path, number, line)
    if not isinstance(row, dict):
        problem = f"a JSON {type(row).__name__} where an object is expected"
        raise BadRecord(path, f"line {number}", "not an object", problem, f"check that the file is JSON Lines, {TAKE_OUT}")
    return row


def _parse_leniently(path: Path, number: int, line: bytes, **hooks: Any) -> Any:
    """Parses what Python's json writes and orjson refuses (lone surrogates, NaN), or keeps numbers as `hooks` say."""
    text = decode(path, number, line)
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError as e:
        # The error's own text counts lines from the start of this line.
        problem = f"not JSON ({e.msg.removesuffix(' at')} at column {e.colno})"
    except ValueError:
        problem = "JSON with a number of thousands of digits"
    except RecursionError:
        problem = "JSON nested too deep"
    raise BadRecord(path, f"line {number}", "not JSON", problem, f"download the file again, {TAKE_OUT}")
