"""Writes `provenance.json` beside `index.json`: the files of each corpus, its documents, words, the tokenizer and the shards, by hashes.

Reads the markers of all stages, and of the data nothing: each hash was taken when the file was read or written.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jadeberta.shards import ShardIndex
from jadeberta.shards.provenance import SHARDS_PROVENANCE_NAME, provenance_bytes, sha256_of_parts
from jadeberta.shards.tokenizer_format import main_file
from jadeberta.utils.files import write_atomically
from preprocess.document_files import read_json
from preprocess.stages.raw_files import list_raw_files
from preprocess.workdir import read_markers, words_dir, words_marker


def write_made_from(out: Path, index: ShardIndex, words: Mapping[str, list[tuple[str, str]]]) -> None:
    """Writes the file.

    Args:
        out: output directory of the stages.
        index: as it will be written.
        words: name and sha256 of the parts of words that the shards were made from, by corpus.
    """
    main = main_file(index.tokenizer_sha256, index.tokenizer_files)
    content = {
        "index_sha256": hashlib.sha256(index.to_json()).hexdigest(),
        "shards": index.fingerprint,
        "segmenter": index.segmenter,
        "normaliser": index.normaliser,
        "sentence_splitter": index.sentence_splitter,
        "corpora": {corpus: _corpus(out, corpus, words[corpus]) for corpus in index.corpora},
        "tokenizer": {main: index.tokenizer_sha256} | index.tokenizer_files,
    }
    write_atomically(out / SHARDS_PROVENANCE_NAME, provenance_bytes(content))


def _corpus(out: Path, corpus: str, words: list[tuple[str, str]]) -> dict[str, Any]:
    markers = read_markers(out, corpus)
    parts = [part for marker in markers for part in marker["parts"]]
    read = [
        (part["file"], read_json(words_marker(words_dir(out, corpus) / part["file"])).get("documents_sha256")) for part in parts
    ]
    counts = {key: sum(marker["counts"][key] for marker in markers) for key in ("documents", "bytes")}
    documents = {"parts": len(parts), **counts, "sha256": sha256_of_parts((part["file"], part.get("sha256")) for part in parts)}
    return {
        "format": markers[0]["settings"]["format"],
        "extractor": markers[0]["settings"]["extractor"],
        "raw": [{"sha256": None} | entry for entry in list_raw_files(out, corpus)],
        "documents": documents,
        "words": {"parts": len(words), "documents_sha256": sha256_of_parts(read), "sha256": sha256_of_parts(words)},
    }
