"""Reads the texts of evaluation sets (JGLUE's questions and sentences) for `decontaminate.py`, as letters that spelling does not change.

Takes JSON Lines, and JSON as SQuAD has it: a field is found at any depth.
"""

import glob
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jadeberta.shards import ConfigError, InputError
from jadeberta.utils.paths import expand_user, require_encodable
from preprocess.compressed import DamagedFile, chunks
from preprocess.config import EvaluationSetConfig
from preprocess.readers.input_split import natural_key
from preprocess.text import normalise

KEY = "preprocess.decontamination.sets"
USUAL_FIELDS = ("question", "sentence", "sentence1", "sentence2")
"""Fields that are taken where the recipe names none: those of JGLUE's tasks that hold what a model is asked."""
MOST_BYTES = 2**28
"""Most bytes that the files of one set may hold; JGLUE's largest is 30 MB."""
PIECE = 2**20
"""Characters that are normalised at once."""
_TABLED = 0x20000  # characters of the first two planes; those behind are rare kanji, which stay as they are


def fold(text: str) -> np.ndarray:
    """Returns the letters and digits of a text, normalised and in lower case, without marks and spaces; code points, uint32 [letters]."""
    return np.concatenate([_fold(piece) for piece in _pieces(text)])


def _fold(text: str) -> np.ndarray:
    points = np.frombuffer(normalise(text).encode("utf-32-le"), "<u4")
    letters = np.where(points < _TABLED, _letters()[np.minimum(points, _TABLED - 1)], points)
    return letters[letters > 0]


def _pieces(text: str) -> Iterator[str]:
    """Yields the text in pieces of some length, so that a document of a gigabyte takes no multiple of it."""
    start = 0
    while len(text) - start > PIECE:
        end = start + PIECE
        # A mark stays with the letter before it: NFKC makes one letter of the two.
        while end < len(text) and (text[end] in "ﾞﾟ" or unicodedata.combining(unicodedata.normalize("NFKD", text[end])[0])):
            end += 1
        yield text[start:end]
        start = end
    yield text[start:]


@cache
def _letters() -> np.ndarray:
    """Returns for each code point the letter that it counts as, 0 for what is no letter; uint32."""
    letters = np.zeros(_TABLED, np.uint32)
    for point in range(_TABLED):
        if chr(point).isalnum():
            letters[point] = ord(chr(point).lower()[0])
    return letters


def find_files(name: str, config: EvaluationSetConfig) -> list[Path]:
    """Returns the files of a set, sorted.

    Raises:
        InputError: no file matches.
    """
    key = f"{KEY}.{name}.path"
    expanded = expand_user(config.path, key)
    found = [Path(path) for path in glob.glob(expanded, recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
    # A name with brackets in it is a file before it is a pattern.
    files = [path for path in ([Path(expanded)] if Path(expanded).is_file() else found) if path.is_file()]
    if not files:
        what = "no file matches" if glob.has_magic(config.path) else "no such file"
        raise InputError(f"{config.path}: {what}; correct {key} or put the evaluation set there.")
    for path in files:
        require_encodable(str(path), key)
    return sorted(files, key=lambda path: (natural_key(path.name), str(path)))


def read_texts(name: str, config: EvaluationSetConfig) -> list[str]:
    """Returns the texts of a set's fields in the order of its files, each once.

    Raises:
        InputError: a file is missing, empty, damaged, too large, or no JSON.
        ConfigError: a field is in no row.
    """
    fields = tuple(config.fields) or USUAL_FIELDS
    found: dict[str, None] = {}
    seen: set[str] = set()
    files = find_files(name, config)
    keys: set[str] = set()
    size = 0
    for path in files:
        content = _content(path)
        size += len(content)
        if size > MOST_BYTES:
            raise InputError(
                f"{path}: the files of {KEY}.{name} hold more than {MOST_BYTES // 2**20} MiB; name those of an evaluation set."
            )
        for value in _values(path, content):
            for field, text in _texts(value, fields, keys):
                seen.add(field)
                found[text] = None
    missing = [field for field in fields if field not in seen]
    if missing and (config.fields or not seen):
        named = missing[0] if config.fields else f"{', '.join(USUAL_FIELDS[:-1])} or {USUAL_FIELDS[-1]}"
        has = f"name fields that it has: {', '.join(sorted(keys)[:20])}" if keys else "it has no text in any field"
        raise ConfigError(f"{KEY}.{name}.fields: {config.path} has no text in {named}; {has}.")
    return list(found)


def _content(path: Path) -> bytes:
    content = bytearray()
    try:
        for chunk in chunks(path):
            content += chunk
            if len(content) > MOST_BYTES:
                break
    except DamagedFile as e:
        raise InputError(f"{path}: byte {e.byte}: {e}; copy or download it again.") from e
    if not content.strip():
        raise InputError(f"{path}: the file is empty; copy or download it again.")
    return bytes(content)


def _values(path: Path, content: bytes) -> Iterator[Any]:
    """Yields the JSON values of a file: one, or one a line."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        yield orjson.loads(content)
        return
    except orjson.JSONDecodeError:
        pass
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            raise InputError(f"{path}: line {number} is not JSON ({e}); take the file as its project publishes it.") from e
        if not isinstance(value, dict | list):
            raise InputError(f"{path}: line {number} is not an object with fields; take the file as its project publishes it.")
        yield value


def _texts(value: Any, fields: tuple[str, ...], keys: set[str]) -> Iterator[tuple[str, str]]:
    """Yields (field, text) of a value in its order, at any depth; adds the names of all fields that hold a text to `keys`."""
    # A list of what is left and no recursion: JSON may be nested deeper than Python calls.
    left = [("", value)]
    while left:
        field, value = left.pop()
        if isinstance(value, str) and field:
            keys.add(field)
            if field in fields:
                yield field, value
        elif isinstance(value, dict):
            left += [(key, inner) for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            # The texts of a list belong to the list's field: choices, for example.
            left += [(field, inner) for inner in reversed(value)]
