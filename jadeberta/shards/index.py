"""`index.json`: what a shard directory holds, how it was made, and where every block lies.

Promises that two directories with the same fingerprint hold the same rows in the same order.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from jadeberta.errors import ShardError
from jadeberta.shards.index_checks import check_index
from jadeberta.shards.open_files import retry_io

INDEX_NAME = "index.json"
FORMAT = "jadeberta-shards"
VERSION = 1
Packing = Literal["concat", "best_fit"]
WordStarts = Literal["pieces", "documents"]
WORD_START = 0x8000
"""Bit of a stored document number: a word starts here. Set only where `ShardIndex.word_starts` is documents; readers clear it."""


@dataclass
class ShardEntry:
    """One tar file; the field names are keys of `index.json`."""

    file: str
    """Name of the tar in the directory."""
    sequences: int
    """Number of rows of `sequence_length` tokens."""
    documents: int
    """Number of documents that the rows were cut from."""
    tokens: int
    """Number of tokens without padding."""
    bytes: int
    """Size of the tar file in bytes."""
    sha256: str
    """sha256 of the tar file."""
    blocks: list[list[int]]
    """Per block: sequences, byte offset of the tokens, byte offset of the document numbers, both from the file's start."""
    sums_sha256: str = ""
    """sha256 of the file of row checksums beside the tar; empty where the shard was made without one."""


@dataclass
class CorpusEntry:
    """The shards of one corpus."""

    repeats: int
    """How often an epoch sees the corpus; the sample order applies it."""
    train: list[ShardEntry] = field(default_factory=list)
    valid: list[ShardEntry] = field(default_factory=list)


@dataclass
class ShardIndex:
    """Content of `index.json`; the field names are its keys."""

    sequence_length: int
    vocab_size: int
    tokenizer_sha256: str
    """sha256 of the sentencepiece model `tokenizer/spm.model`."""
    segmenter: dict[str, Any]
    """Engine, version, dictionary and options of the word segmenter."""
    normaliser: str
    sentence_splitter: str
    corpora: dict[str, CorpusEntry]
    packing: Packing = "concat"
    """How documents became rows. concat: one after the other, cut where a row ends; best_fit: uncut where they fit, then padding."""
    word_starts: WordStarts = "pieces"
    """How word starts are recorded. pieces: a piece that begins with ▁ starts a word; documents: `WORD_START` in the document numbers."""
    tokenizer_files: dict[str, str] = field(default_factory=dict)
    """sha256 of the files that were made from the sentencepiece model, such as `tokenizer.json`, by name; empty in older indexes."""

    def document(self) -> dict[str, Any]:
        """Returns the fields as plain values.

        `packing`, `word_starts` and `tokenizer_files` are left out at their defaults: indexes older than these keys keep their bytes.
        """
        fields = asdict(self)
        if self.packing == "concat":
            del fields["packing"]
        if self.word_starts == "pieces":
            del fields["word_starts"]
        if not self.tokenizer_files:
            del fields["tokenizer_files"]
        return fields

    def to_json(self) -> bytes:
        """Returns the bytes of `index.json`."""
        document = {"format": FORMAT, "version": VERSION, **self.document()}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer, the packing and every training shard's content, in order. Repeats are not part of it."""
        content = [[name, [[s.file, s.sha256, s.blocks] for s in c.train]] for name, c in self.corpora.items()]
        # The defaults add nothing, so that shards older than these keys keep their fingerprint.
        packing = ([] if self.packing == "concat" else [self.packing]) + ([] if self.word_starts == "pieces" else ["word starts"])
        return hashlib.sha256(orjson.dumps([VERSION, self.sequence_length, self.tokenizer_sha256, content, *packing])).hexdigest()

    @classmethod
    def load(cls, path: Path) -> "ShardIndex":
        """Reads `index.json`.

        Raises:
            ShardError: the file is missing, not JSON, of another version, incomplete, or has a value that this program does not know.
            ResourceError: the process lacks something, or the file system does not answer.
        """
        try:
            document = orjson.loads(retry_io(path.read_bytes, f"reading {path}"))
        except OSError as e:
            raise ShardError(f"{path}: cannot be read ({e.strerror}). Make the shards with 'python -m preprocess all'.") from e
        except orjson.JSONDecodeError as e:
            raise ShardError(f"{path}: not JSON ({e}). Run 'python -m preprocess pack' again.") from e
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            remedy = "Point to a directory that 'python -m preprocess pack' wrote."
            raise ShardError(f"{path}: not an index of shards (no format {FORMAT!r}). {remedy}")
        if (version := document.pop("version", None)) != VERSION:
            remedy = "Run 'python -m preprocess pack' again."
            raise ShardError(f"{path}: format version {version}, this program reads {VERSION}. {remedy}")
        try:
            check_index(document)
        except ValueError as e:
            raise ShardError(f"{path}: {e}. Run 'python -m preprocess pack' again, or copy the directory again.") from e
        try:
            corpora = {
                name: CorpusEntry(c["repeats"], [ShardEntry(**s) for s in c["train"]], [ShardEntry(**s) for s in c["valid"]])
                for name, c in document.pop("corpora").items()
            }
            index = cls(**document, corpora=corpora)
        except (KeyError, TypeError, AttributeError) as e:
            raise ShardError(f"{path}: incomplete or of another layout ({e}). Run 'python -m preprocess pack' again.") from e
        for key, value, known in (
            ("packing", index.packing, get_args(Packing)),
            ("word_starts", index.word_starts, get_args(WordStarts)),
        ):
            # Refused and not ignored: rows read by another rule would get wrong masks or wrong attention.
            if value not in known:
                raise ShardError(
                    f"{path}: {key} {value!r}, this program knows {' and '.join(known)}. Read it with the version that wrote it."
                )
        return index


def find_index(directory: str | Path) -> Path:
    """Returns the index of a shard directory: `DIR/index.json`, or `DIR/shards/index.json` where only that exists."""
    top = Path(directory)
    nested = top / "shards" / INDEX_NAME
    try:
        is_nested = retry_io(lambda: nested.exists() and not (top / INDEX_NAME).exists(), f"looking for {top / INDEX_NAME}")
    except OSError:
        is_nested = False  # reading it gives the error to its reader
    return nested if is_nested else top / INDEX_NAME
