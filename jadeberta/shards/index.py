"""`index.json`: what a shard directory holds, how it was made, and where every block lies.

Promises that two directories with the same fingerprint hold the same rows in the same order.
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from jadeberta.errors import ShardError
from jadeberta.shards.index_checks import check_index
from jadeberta.shards.open_files import retry_io
from jadeberta.shards.row_format import RowFormat, TokenDtype
from jadeberta.shards.tokenizer_format import DEFAULT_SPECIAL_TOKENS, SpecialTokens

INDEX_NAME = "index.json"
FORMAT = "jadeberta-shards"
VERSIONS = (1, 2)
"""Versions of the format. 2 is written only for what 1 cannot say: uint32 ids, several row lengths, special tokens of other ids."""
Packing = Literal["concat", "best_fit"]
WordStarts = Literal["pieces", "documents"]
TokenizerInput = Literal["", "words", "text"]
WORD_START = 0x8000
"""Bit of a stored document number: a word starts here. Set only where `ShardIndex.word_starts` is documents; readers clear it."""


@dataclass
class ShardEntry:
    """One tar file; the field names are keys of `index.json`."""

    file: str
    """Name of the tar in the directory."""
    sequences: int
    """Number of rows."""
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
    sequence_length: int | None = None
    """Tokens in a row; None where it is the index's `sequence_length`."""

    def document(self) -> dict[str, Any]:
        """Returns the fields as plain values; `sequence_length` is left out where it is the index's."""
        fields = asdict(self)
        if self.sequence_length is None:
            del fields["sequence_length"]
        return fields


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
    """Tokens in a row, of the first length where there are several."""
    vocab_size: int
    tokenizer_sha256: str
    """sha256 of the file that gives the ids: the sentencepiece model `tokenizer/spm.model`, or that of a given tokenizer."""
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
    """sha256 of the files that were made from the sentencepiece model, such as `tokenizer.json`, by name; empty in older indexes. Of a
    given tokenizer all files."""
    tokenizer_input: TokenizerInput = ""
    """What the tokenizer read: the segmenter's words with spaces between them, or text. Empty where it trained here on words, or where the
    tokens are characters, which read text."""
    word_source: str = ""
    """What said where words start (segmenter, tokenizer, pieces or tokens); empty where `tokenizer_input` is."""
    token_dtype: TokenDtype = "uint16"
    """Type of the stored token ids."""
    special_tokens: SpecialTokens = DEFAULT_SPECIAL_TOKENS
    """Ids of the special tokens by role."""

    @property
    def sequence_lengths(self) -> tuple[int, ...]:
        """Every row length of the directory, the first one first, then in the order of the shards."""
        lengths = dict.fromkeys([self.sequence_length])
        for corpus in self.corpora.values():
            lengths |= dict.fromkeys(self.length_of(entry) for entry in [*corpus.train, *corpus.valid])
        return tuple(lengths)

    def length_of(self, entry: ShardEntry) -> int:
        """Tokens in a row of a shard."""
        return self.sequence_length if entry.sequence_length is None else entry.sequence_length

    def row_format(self, entry: ShardEntry | None = None) -> RowFormat:
        """How the rows of a shard are stored; without one, those of the first length."""
        return RowFormat(self.sequence_length if entry is None else self.length_of(entry), self.token_dtype)

    def of_length(self, sequence_length: int) -> "ShardIndex":
        """Returns the index of the shards of one row length alone: that of a directory that has no others.

        Raises:
            ValueError: the directory has no rows of this length; the message names those that are there.
        """
        if sequence_length not in self.sequence_lengths:
            there = " and ".join(map(str, self.sequence_lengths))
            raise ValueError(f"no rows of {sequence_length} tokens, but of {there}")

        def chosen(entries: list[ShardEntry]) -> list[ShardEntry]:
            return [replace(e, sequence_length=None) for e in entries if self.length_of(e) == sequence_length]

        corpora = {name: CorpusEntry(c.repeats, chosen(c.train), chosen(c.valid)) for name, c in self.corpora.items()}
        return replace(self, sequence_length=sequence_length, corpora=corpora)

    @property
    def version(self) -> int:
        """The oldest version of the format that can say all that this index says."""
        is_default = self.token_dtype == "uint16" and self.special_tokens == DEFAULT_SPECIAL_TOKENS
        return 1 if is_default and len(self.sequence_lengths) == 1 else 2

    def document(self) -> dict[str, Any]:
        """Returns the fields as plain values.

        `packing`, `word_starts`, `tokenizer_files`, `tokenizer_input`, `word_source`, `token_dtype` and `special_tokens` are left out at
        their defaults: indexes older than these keys keep their bytes.
        """
        corpora = {
            name: {"repeats": c.repeats, "train": [e.document() for e in c.train], "valid": [e.document() for e in c.valid]}
            for name, c in self.corpora.items()
        }
        fields = vars(self) | {"corpora": corpora, "special_tokens": self.special_tokens.document()}
        at_default = {
            "packing": self.packing == "concat",
            "word_starts": self.word_starts == "pieces",
            "tokenizer_files": not self.tokenizer_files,
            "tokenizer_input": not self.tokenizer_input,
            "word_source": not self.word_source,
            "token_dtype": self.token_dtype == "uint16",
            "special_tokens": self.special_tokens == DEFAULT_SPECIAL_TOKENS,
        }
        return {key: value for key, value in fields.items() if not at_default.get(key)}

    def to_json(self) -> bytes:
        """Returns the bytes of `index.json`."""
        document = {"format": FORMAT, "version": self.version, **self.document()}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer, the packing and every training shard's content, in order. Repeats are not part of it."""

        def described(entry: ShardEntry) -> list[Any]:
            other = [] if self.length_of(entry) == self.sequence_length else [self.length_of(entry)]
            return [entry.file, entry.sha256, entry.blocks, *other]

        content = [[name, [described(entry) for entry in c.train]] for name, c in self.corpora.items()]
        # The defaults add nothing, so that shards older than these keys keep their fingerprint. The version is 1 in all: what a later
        # one can say adds itself.
        added: list[Any] = [] if self.packing == "concat" else [self.packing]
        added += [] if self.word_starts == "pieces" else ["word starts"]
        added += [] if self.token_dtype == "uint16" else [self.token_dtype]
        added += [] if self.special_tokens == DEFAULT_SPECIAL_TOKENS else [self.special_tokens.document()]
        return hashlib.sha256(orjson.dumps([1, self.sequence_length, self.tokenizer_sha256, content, *added])).hexdigest()

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
        if type(version := document.pop("version", None)) is not int or version not in VERSIONS:
            read = " and ".join(map(str, VERSIONS))
            remedy = "Run 'python -m preprocess pack' again, or read it with the version that wrote it."
            raise ShardError(f"{path}: format version {version}, this program reads {read}. {remedy}")
        try:
            check_index(document, version)
        except ValueError as e:
            raise ShardError(f"{path}: {e}. Run 'python -m preprocess pack' again, or copy the directory again.") from e
        try:
            corpora = {
                name: CorpusEntry(c["repeats"], [ShardEntry(**s) for s in c["train"]], [ShardEntry(**s) for s in c["valid"]])
                for name, c in document.pop("corpora").items()
            }
            special = SpecialTokens(**document.pop("special_tokens", {}))
            index = cls(**document, corpora=corpora, special_tokens=special)
        except (KeyError, TypeError, AttributeError) as e:
            raise ShardError(f"{path}: incomplete or of another layout ({e}). Run 'python -m preprocess pack' again.") from e
        for key, value, known in (
            ("packing", index.packing, get_args(Packing)),
            ("word_starts", index.word_starts, get_args(WordStarts)),
            ("tokenizer_input", index.tokenizer_input, get_args(TokenizerInput)),
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
