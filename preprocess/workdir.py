"""Layout of the output directory: names of its files and folders, and how the stages read what an earlier one wrote.

The stages know this module and not each other. It writes and removes nothing.

    OUT/index.json, *.tar, *.sums           shards (pack)
    OUT/provenance.json                     what they were made from, by hashes (pack)
    OUT/tokenizer/training.json             marker of the tokenizer stage
    OUT/work/written.json                   names of the files beside work/ that the stages wrote (written_files.py)
    OUT/work/documents/CORPUS/*.jsonl.zst   documents in parts (extract), one marker (.json) for each input split
    OUT/work/documents/CORPUS.pieces.json   planned input splits; CORPUS.complete.json: all of them are done
    OUT/work/cuts/CORPUS/                   text of input splits that wait for extraction
    OUT/work/raw/CORPUS/                    hashes of the corpus's files that no split has in its marker
    OUT/work/duplicates/CORPUS/             rows of each part that are duplicates
    OUT/work/words/CORPUS/                  segmented parts, each with its marker (.json), .rejects.jsonl and .order.jsonl
    OUT/work/counts/                        word counts while the tokenizer stage runs
    OUT/work/pack/                          markers of shards, and the held-out documents of each shard
    OUT/work/pool/, OUT/work/progress/      state of the running processes
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import xxhash

from jadeberta.shards import ConfigError, file_sha256
from jadeberta.shards.tokenizer_format import MODEL_FILE
from preprocess.document_files import read_json, read_jsonl_zst
from preprocess.readers.input_split import Document, natural_key

SUFFIX = ".jsonl.zst"
"""Suffix of every part of documents or words."""
TRAINING_NAME = "training.json"
"""Marker of the tokenizer stage: settings, hash and counts of the finished tokenizer; written last."""

WRITTEN_NAME = "written.json"
"""Record of the files beside work/ that the stages wrote."""
REPORT_NAME = "report.json"
"""Results of the newest run of each stage."""
WORK_FOLDERS = ("documents", "cuts", "raw", "duplicates", "words", "counts", "pack", "pool", "progress")
"""Folders of the stages in OUT/work."""


def documents_dir(out: Path, corpus: str) -> Path:
    """Folder of the extracted parts and markers of a corpus."""
    return out / "work" / "documents" / corpus


def cuts_dir(out: Path, corpus: str) -> Path:
    """Folder of the texts and notes of input splits that wait for extraction."""
    return out / "work" / "cuts" / corpus


def raw_dir(out: Path, corpus: str) -> Path:
    """Folder of the hashes of a corpus's files."""
    return out / "work" / "raw" / corpus


def planned_path(out: Path, corpus: str) -> Path:
    """File that lists the input splits of a corpus with their bytes: {"pieces": [[name, bytes]]}, the old word for splits."""
    return out / "work" / "documents" / f"{corpus}.pieces.json"


def list_planned(out: Path) -> list[tuple[str, dict[str, int]]]:
    """Returns every corpus whose input splits are planned, with the bytes of each split by its name."""
    suffix = planned_path(out, "").name
    found = sorted(documents_dir(out, "").glob(f"*{suffix}"))
    return [(path.name.removesuffix(suffix), dict(read_json(path)["pieces"])) for path in found]


def complete_path(out: Path, corpus: str) -> Path:
    """File that exists only while every input split of the corpus is extracted: {"pieces": [name]}."""
    return out / "work" / "documents" / f"{corpus}.complete.json"


def words_dir(out: Path, corpus: str) -> Path:
    """Folder of the segmented parts of a corpus."""
    return out / "work" / "words" / corpus


def words_path(part: Path, out: Path) -> Path:
    """The part of words that belongs to a part of documents."""
    return words_dir(out, part.parent.name) / part.name


def words_marker(words: Path) -> Path:
    """Marker of a part of words."""
    return words.with_name(words.name.removesuffix(SUFFIX) + ".json")


def counts_dir(out: Path) -> Path:
    """Folder of the word counts."""
    return out / "work" / "counts"


def pack_dir(out: Path) -> Path:
    """Folder of the shards' markers and held-out documents."""
    return out / "work" / "pack"


def pool_dir(out: Path) -> Path:
    """Folder of the pools' state."""
    return out / "work" / "pool"


def progress_dir(out: Path) -> Path:
    """Folder of the ranks' progress files."""
    return out / "work" / "progress"


def duplicates_dir(part: Path) -> Path:
    """Folder of the duplicate lists of a part's output directory; the part is in `work/documents/CORPUS/`."""
    return part.parents[2] / "duplicates"


def duplicates_list(part: Path) -> Path:
    """File that lists the rows of a part of documents that are duplicates."""
    return duplicates_dir(part) / part.parent.name / f"{part.name.removesuffix(SUFFIX)}.json"


def heldout_hash(document_id: str) -> int:
    """64-bit hash of a document's id. The documents of a corpus with the smallest hashes are held out of training."""
    return xxhash.xxh64_intdigest(document_id.encode())


def list_markers(out: Path, corpus: str) -> list[Path]:
    """Markers of the extracted input splits of a corpus, in the order of its documents."""
    return sorted(documents_dir(out, corpus).glob("*.json"), key=lambda marker: natural_key(marker.name))


def stream_markers(out: Path, corpus: str) -> Iterator[dict[str, Any]]:
    """Contents of the markers, one after the other, in the order of the corpus's documents; duplicates are counted as dropped.

    {"settings", "counts": {"documents", "bytes", "dropped": {reason: n}}, "parts": [{"file", "documents", "bytes"}],
    "heldout": [[hash, id]] (the smallest hashes of the input split), "seconds"}
    """
    folder = documents_dir(out, corpus)
    return (_without_duplicates(read_json(marker), folder) for marker in list_markers(out, corpus))


def read_markers(out: Path, corpus: str) -> list[dict[str, Any]]:
    """All markers of a corpus as `stream_markers` gives them, but without "heldout".

    "heldout" is by far the largest key: for a corpus of thousands of input splits it takes gigabytes.
    """
    return [{key: value for key, value in marker.items() if key != "heldout"} for marker in stream_markers(out, corpus)]


def require_complete(out: Path, corpus: str) -> None:
    """Checks that every input split of the corpus has been extracted and is still there.

    Raises:
        ConfigError: one is missing.
    """
    path = complete_path(out, corpus)
    # Compares names and not only numbers: a marker may have been deleted by hand to repeat a split.
    if not path.is_file() or read_json(path)["pieces"] != [marker.stem for marker in list_markers(out, corpus)]:
        problem = f"the documents of '{corpus}' are not all extracted"
        raise ConfigError(f"{out}: {problem}. Run 'python -m preprocess extract' with the same --out first.")


def list_parts(out: Path, corpus: str) -> list[Path]:
    """Parts of documents of a corpus in the order of its documents; only those of finished input splits."""
    folder = documents_dir(out, corpus)
    return [folder / part["file"] for marker in read_markers(out, corpus) for part in marker["parts"]]


def read_documents(part: Path) -> Iterator[Document]:
    """Streams the documents of a part, without duplicates: {"id", "source", "title", "text"}.

    Raises:
        InputError: the part is damaged.
    """
    # A missing list means that no duplicates were looked for: all rows are kept.
    skipped = frozenset((read_duplicates(part) or {"rows": ()})["rows"])
    return (row for number, row in enumerate(read_jsonl_zst(part)) if number not in skipped)


def read_duplicates(part: Path) -> dict[str, Any] | None:
    """Duplicates of a part of documents; None where none were looked for.

    {"digest", "rows": [row], "ids": [id], "bytes" (UTF-8 of their texts), "dropped": {reason: n}}
    """
    path = duplicates_list(part)
    return read_json(path) if path.is_file() else None


def duplicates_settings(part: Path) -> dict[str, str]:
    """Entry for the settings of what is made from a part: a hash of the rows that are left out. Empty where none are."""
    listed = read_duplicates(part)
    return {"without": xxhash.xxh64_hexdigest(orjson.dumps(listed["rows"]))} if listed and listed["rows"] else {}


def _without_duplicates(marker: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of a marker with its duplicates counted as dropped; `folder` holds its parts."""
    found = [(part, listed) for part in marker["parts"] if (listed := read_duplicates(folder / part["file"]))]
    ids = {id_ for _, listed in found for id_ in listed["ids"]}
    if not ids:
        return marker
    counts = marker["counts"]
    dropped = dict(counts["dropped"])
    for _, listed in found:
        for reason, number in listed["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + number
    fewer = {part["file"]: listed for part, listed in found}
    parts = [
        part
        if (listed := fewer.get(part["file"])) is None
        else part | {"documents": part["documents"] - len(listed["rows"]), "bytes": part["bytes"] - listed["bytes"]}
        for part in marker["parts"]
    ]
    counts = {name: sum(part[name] for part in parts) for name in ("documents", "bytes")} | {"dropped": dropped}
    heldout = [candidate for candidate in marker["heldout"] if candidate[1] not in ids]
    return marker | {"counts": counts, "parts": parts, "heldout": heldout}


def list_words(out: Path, corpus: str) -> list[Path]:
    """Parts of words of a corpus in the order of its documents.

    Raises:
        ConfigError: one is missing, or there are none.
    """
    require_complete(out, corpus)
    parts = [words_path(part, out) for part in list_parts(out, corpus)]
    missing = [part for part in parts if not (part.is_file() and words_marker(part).is_file())]
    if missing or not parts:
        what = f"{missing[0]}: not segmented yet" if missing else f"{out}: no words of '{corpus}'"
        raise ConfigError(f"{what}. Run 'python -m preprocess segment' with the same --out first.")
    return parts


def read_words(part: Path) -> Iterator[dict[str, Any]]:
    """Streams the documents of a part of words: {"id", "sentences": ["word word word", ...]}.

    Raises:
        InputError: the part is damaged.
    """
    return read_jsonl_zst(part)


def read_segmenter(out: Path) -> dict[str, Any]:
    """Description of the segmenter that made all words under `out`.

    Raises:
        ConfigError: there are several segmenters, or no words.
    """
    found: dict[bytes, Path] = {}
    for marker in sorted((out / "work" / "words").glob("*/*.json")):
        found.setdefault(orjson.dumps(read_json(marker)["settings"]["segmenter"]), marker)
    # Words of two segmenters in one tokenizer would give two spellings of the same word.
    if len(found) != 1:
        what = f"words of different segmenters ({', '.join(map(str, found.values()))})" if found else "no words"
        raise ConfigError(f"{out}: {what}. Delete {out / 'work' / 'words'} and run 'python -m preprocess segment'.")
    description: dict[str, Any] = orjson.loads(next(iter(found)))
    return description


def read_training(directory: Path) -> dict[str, Any] | None:
    """Content of `training.json` in a tokenizer's folder; None where it is missing or the model is another file now."""
    marker = directory / TRAINING_NAME
    if not marker.is_file():
        return None
    found: dict[str, Any] = read_json(marker)
    model = directory / found.get("main", MODEL_FILE)  # a given tokenizer names its own
    return found if model.is_file() and file_sha256(model) == found["sha256"] else None
