"""Reads plain text: each file is a document, or each paragraph of it, as `documents` in the recipe says. A paragraph ends at an empty line.

Text is UTF-8; another encoding is refused with the command that converts it. A document's id is the name of its file inside the corpus,
for a paragraph with the number of its first line. Lines end with \\n, \\r\\n or \\r, and with a form feed, which ends a printed page.
"""

import codecs
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jadeberta.shards import InputError
from preprocess.compressed import EXCLUDE, BadRecord
from preprocess.readers.archives.entries import is_archive
from preprocess.readers.bad_records import BadRecords
from preprocess.readers.input_split import Document, InputSplit, ReaderSettings, file_splits, printable, source_of, stem

KEYS = ("documents",)
MEMBERS = re.compile(r"\.(txt|text)(\.(gz|zst|xz|bz2))?$", re.IGNORECASE)
"""Names of the members of an archive that are read."""
MAX_DOCUMENT_BYTES = 2**28
"""Most bytes of a file that is one document: it is in memory as a whole."""
GROUP_BYTES = 4 * 2**20
"""Small files are read together, up to this size: for each of thousands a task of its own would take longer than the reading."""
_WIDE = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))
_GUESSES = (("CP932", "cp932"), ("EUC-JP", "euc_jp"))
_NO_TEXT = re.compile("[\x80-\x9f\ue000-\uf8ff]")
# A longer line is taken for text where a file is split: spaces before a document are no part of it.
_MOST_SPACE = 256


def splits(corpus: str, files: list[Path], settings: ReaderSettings) -> list[InputSplit]:
    """Returns the splits of the files: small files together, large ones in spans where each paragraph is a document."""
    top = Path(os.path.commonpath([path.parent for path in files]))
    found: list[InputSplit] = []
    small: list[InputSplit] = []

    def flush() -> None:
        found.extend([_grouped(small)] if len(small) > 1 else small)
        small.clear()

    for path in files:
        size, prefix = path.stat().st_size, f"{corpus}-{printable(path.relative_to(top).as_posix())}"
        whole = InputSplit(corpus, "text", stem(path), path, prefix, 0, size)
        if size > GROUP_BYTES:
            flush()
            # An archive holds files.
            can_split = is_archive(path) or not is_whole(settings.documents)
            found += file_splits(corpus, "text", path, prefix, files) if can_split else [whole]
            continue
        if small and sum(split.end for split in small) + size > GROUP_BYTES:
            flush()
        small.append(whole)
    flush()
    return found


def _grouped(small: list[InputSplit]) -> InputSplit:
    first, more = small[0], len(small) - 1
    size = sum(split.end for split in small)
    named = f"{first.path.name} and {more} more"
    return InputSplit(
        first.corpus,
        "text",
        f"{first.name}-and-{more}-more",
        first.path,
        first.id_prefix,
        0,
        size,
        file=named,
        group=tuple(small),
    )


def is_whole(documents: str) -> bool:
    """Returns whether a file is one document; `documents` is the key of the recipe."""
    return documents != "paragraph"


def begins(line: bytes, before: bytes) -> bool:
    """Returns whether a paragraph begins with this line."""
    return _is_blank(before) and not _is_blank(line)


def documents(split: InputSplit, dropped: Counter[str], bad: BadRecords) -> Iterator[Document]:
    """Streams the documents of a split. A document of which a line is excluded keeps its other lines."""
    whole = is_whole(split.settings.documents)
    found = False
    for place, lines in _blocks(split, bad, whole):
        found = True
        text = "\n".join(lines).strip()
        if text:
            id_ = split.id_prefix if whole else f"{split.id_prefix}-{place}"
            yield {"id": id_, "source": split.corpus, "title": "", "text": text}
        elif lines:
            dropped["empty"] += 1
    if not found and whole:
        dropped["empty"] += 1


def _is_blank(line: bytes) -> bool:
    return len(line) < _MOST_SPACE and not line.decode("utf-8-sig", "replace").strip()


def _blocks(split: InputSplit, bad: BadRecords, whole: bool) -> Iterator[tuple[str, list[str]]]:
    """Yields (place of its first line, lines) of each paragraph, or of the whole file; none where all of its lines are excluded."""
    place, block, size = "", list[str](), 0
    for number, raw in source_of(split).lines():
        if number == 1:
            _refuse_wide(split.path, raw)
        for part, line in enumerate(raw.split(b"\r")):
            try:
                text = _decode(split.path, number, line)
            except BadRecord as e:
                bad.add(e)
                continue
            if not text.strip():
                if block and not whole:
                    yield place, block
                    block, size = [], 0
                continue
            place = place if block else f"{number}.{part}" if part else f"{number}"
            block.append(text.strip("\f").replace("\f", "\n"))
            size += len(line)
            if size > MAX_DOCUMENT_BYTES:
                remedy = "set documents: paragraph for the corpus" if whole else "put empty lines between paragraphs"
                raise InputError(f"{split.path}: line {number}: a document of more than {MAX_DOCUMENT_BYTES:,} bytes; {remedy}.")
    if block:
        yield place, block


def _refuse_wide(path: Path, head: bytes) -> None:
    """Refuses a file that begins with the byte order mark of UTF-16 or UTF-32: no line of it can be read."""
    for mark, name in _WIDE:
        if head.startswith(mark):
            raise InputError(f"{path}: line 1: the file is {name} and not UTF-8; {_convert(path, name)}.")


def _convert(path: Path, encoding: str) -> str:
    return f"convert it by iconv -f {encoding} -t UTF-8 {shlex.quote(path.name)} > NEW.txt"


def _decode(path: Path, number: int, line: bytes) -> str:
    """Decodes a line; drops a byte order mark before it, which also stands inside of files that were joined. Raises BadRecord."""
    if len(line) > MAX_DOCUMENT_BYTES:
        problem = f"a line of more than {MAX_DOCUMENT_BYTES:,} bytes"
        raise BadRecord(path, f"line {number}", "too long", problem, f"break it into lines, or {EXCLUDE}")
    if b"\0" in line:
        encoding = "UTF-16LE" if line[1:2] == b"\0" else "UTF-16BE"
        remedy = f"if it is text, {_convert(path, encoding)}, or {EXCLUDE}"
        raise BadRecord(path, f"line {number}", "NUL", "a byte 0, so this is not text in UTF-8", remedy)
    if b"\x1b$" in line:
        remedy = f"{_convert(path, 'ISO-2022-JP')}, or {EXCLUDE}"
        raise BadRecord(path, f"line {number}", "not UTF-8", "the line is ISO-2022-JP and not UTF-8", remedy)
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        encoding = _guess(line)
        problem = f"byte {e.start + 1} of the line is not valid UTF-8" + (f" (it may be {encoding})" if encoding else "")
        remedy = f"{_convert(path, encoding or 'ENCODING')}, or {EXCLUDE}"
        raise BadRecord(path, f"line {number}", "not UTF-8", problem, remedy) from e


def _guess(line: bytes) -> str:
    """Returns the name for iconv of the encoding that a line of Japanese may be in; empty: none fits."""
    fits = []
    for name, codec in _GUESSES:
        try:
            text = line.decode(codec)
        except UnicodeDecodeError:
            continue
        if not _NO_TEXT.search(text):
            # Half-width kana are what one of these encodings looks like when it is read as the other.
            fits.append((sum("\uff61" <= character <= "\uff9f" for character in text), name))
    return min(fits)[1] if fits else ""
