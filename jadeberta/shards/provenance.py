"""`provenance.json` of a shard directory: by hashes, which files its rows were made from. Not needed to read a row.

{"format", "version", "program", "index_sha256", "shards" (fingerprint), "segmenter", "normaliser", "sentence_splitter",
"corpora": {name: {"format", "extractor", "raw": [{"file", "bytes", "sha256"}],
"documents": {"parts", "documents", "bytes", "sha256"}, "words": {"parts", "documents_sha256", "sha256"}}}, "tokenizer": {file: sha256}}

The sha256 of many parts is that of the lines that sha256sum(1) prints for them, in the order of the parts. A hash that nobody took, as an
older version did not, is null.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from jadeberta import __version__
from jadeberta.shards.index import find_index
from jadeberta.utils.files import file_sha256

SHARDS_PROVENANCE_NAME = "provenance.json"
SHARDS_PROVENANCE_FORMAT = "jadeberta-shards-provenance"
SHARDS_PROVENANCE_VERSION = 1


def sha256_of_parts(parts: Iterable[tuple[str, str | None]]) -> str | None:
    """Returns the sha256 of the lines that sha256sum(1) prints for files; None where the hash of one is not known.

    Args:
        parts: name and sha256 of each file.
    """
    digest = hashlib.sha256()
    for name, sha256 in parts:
        if sha256 is None:
            return None
        digest.update(f"{sha256}  {name}\n".encode())
    return digest.hexdigest()


def provenance_bytes(content: dict[str, Any]) -> bytes:
    """Returns the file's bytes: `content` with the format, its version and that of the program in front."""
    head = {"format": SHARDS_PROVENANCE_FORMAT, "version": SHARDS_PROVENANCE_VERSION, "program": __version__}
    return orjson.dumps(head | content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def provenance_sha256(shards: str | Path) -> str | None:
    """Returns the sha256 of the file in a shard directory; None for shards of an older version, or where it cannot be read."""
    try:
        return file_sha256(find_index(shards).with_name(SHARDS_PROVENANCE_NAME))
    except OSError:
        return None
