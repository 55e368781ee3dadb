"""Raw texts to measure models on: plain text, JSON Lines, or the held-out documents of a directory that `preprocess` wrote.

Promises the texts as the files have them, in order; nothing is normalised here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError
from preprocess.compressed import decode, lines

HELDOUT = "work/pack/*.heldout.jsonl.zst"
JSON_LINES = (".jsonl", ".ndjson")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_LATIN_PAIR = re.compile(r"(?<=[!-~]) (?=[!-~])")


@dataclass(frozen=True)
class RawText:
    """A document."""

    file: str
    """Name of its file, or of its corpus."""
    name: str
    """Its id, or the number of its first line."""
    text: str


def read_texts(paths: Sequence[Path], limit: int = 0, characters: int = 0) -> list[RawText]:
    """Reads every text.

    Args:
        paths: .txt: a document is a block between blank lines; .jsonl: a document a line, under the key text; each of them may be
            compressed (.gz, .bz2, .xz, .zst); a directory of shards: its held-out documents, a corpus by itself.
        limit: documents of each file or corpus; 0 takes all.
        characters: the first characters of each document that count; 0 takes all. A document that begins with so many spaces is skipped.

    Raises:
        InputError: a file is missing, damaged, or not of its format; names file and line.
        ConfigError: there is no text in them.
    """
    found: list[RawText] = []
    for path in paths:
        counts: dict[str, int] = {}
        for text in _texts_of(path):
            counted = text.text[:characters] if characters else text.text
            if not counted.strip():
                continue
            counts[text.file] = counts.get(text.file, 0) + 1
            if not limit or counts[text.file] <= limit:
                found.append(RawText(text.file, text.name, counted))
            elif path.is_file():
                break
    if not found:
        raise ConfigError(f"--texts: no text in {', '.join(map(str, paths))[:200]}. Name .txt or .jsonl files with text in them.")
    return found


def _texts_of(path: Path) -> Iterator[RawText]:
    if path.is_dir():
        yield from _heldout(path)
        return
    if not path.exists():
        raise InputError(f"{path}: no such file. Name .txt or .jsonl files, or a directory of shards with its work/ folder.")
    if not path.is_file():
        raise InputError(f"{path}: a pipe or a device. Name .txt or .jsonl files.")
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSED]
    if suffixes[-1:] and suffixes[-1] in JSON_LINES:
        for number, line in _lines(path):
            if line.strip():
                yield RawText(path.name, str(number), _text_in(path, number, line))
    elif suffixes[-1:] == [".txt"]:
        yield from _blocks(path)
    else:
        raise InputError(f"{path}: neither .txt nor .jsonl (each may end in {', '.join(COMPRESSED)}). Rename it to what it is.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        for number, line in lines(path, "copy it again"):
            yield number, decode(path, number, line)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}). Make it readable.") from e


def _blocks(path: Path) -> Iterator[RawText]:
    """Documents of a plain text: blocks of lines between blank ones."""
    block: list[str] = []
    first = 1
    for number, line in _lines(path):
        if line.strip():
            first = first if block else number
            block.append(line)
        elif block:
            yield RawText(path.name, str(first), "\n".join(block))
            block = []
    if block:
        yield RawText(path.name, str(first), "\n".join(block))


def _text_in(path: Path, number: int, line: str) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as e:
        raise InputError(f"{path}: line {number} is not JSON ({e}). Give one object a line, with the key text.") from e
    if not isinstance(row, dict) or not isinstance(text := row.get("text"), str):
        raise InputError(
            f"{path}: line {number} has no text (a string under the key text). Give one object a line, with the key text."
        )
    return text


def _heldout(directory: Path) -> Iterator[RawText]:
    """Held-out documents, normalised and joined from words: the raw form is not kept."""
    from preprocess.document_files import read_jsonl_zst

    files = sorted(path for root in (directory, directory.parent) for path in root.glob(HELDOUT))
    if not files:
        raise InputError(
            f"{directory}: no held-out documents there ({HELDOUT}). Name the directory that 'preprocess' wrote, or text files."
        )
    for path in files:
        corpus = re.sub(r"-\d{5}\.heldout\.jsonl\.zst$", "", path.name)
        for row in read_jsonl_zst(path):
            yield RawText(corpus, *_spelled(path, row))


def _spelled(path: Path, row: dict[str, Any]) -> tuple[str, str]:
    try:
        sentences = ["".join(_join(sentence)) for sentence in row["sentences"]]
        return str(row["id"]), "\n".join(sentences)
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: a document without sentences ({e}). Run 'python -m preprocess pack' again.") from e


def _join(words: str) -> str:
    """The text of words with spaces between them: a ▁ before a word stands for a space, and so does one between Latin letters."""
    marked = words.replace(" ▁", "\0").replace("▁", "")
    return _LATIN_PAIR.sub("\0", marked).replace(" ", "").replace("\0", " ")
