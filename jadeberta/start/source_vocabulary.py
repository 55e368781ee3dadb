"""The pieces of a tokenizer as text that can be compared, whatever alphabet its files use.

Three alphabets exist: sentencepiece marks a space by `▁` and bytes by `<0xE3>`, byte-level BPE writes each byte as a letter of its
own (a space as `Ġ`), and WordPiece marks what continues a word by `##`. Here a piece is its bytes, with a space in front where it
starts a word.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import CheckpointError
from jadeberta.model.published import refuse_pointer
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, FAST_FILE, MASK, MODEL_FILE, MODEL_FILES, SPECIAL_TOKENS

LARGEST_FILE = 256 << 20
MOST_ADDED = 100_000
"""Ids that added tokens may lie beyond the pieces: a number far beyond is damage, and would be a list as long."""
ROLES = ("pad", "cls", "sep", "unk", "mask")
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPECIAL, BYTE = b"\xff", b"\xfe"
"""First bytes of keys that are no text: no UTF-8 text begins with them."""
Encode = Callable[[bytes], list[int]]


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of one tokenizer."""

    keys: list[bytes | None]
    """Each piece by its id; None for an id without a piece."""
    roles: dict[str, int]
    """Ids of pad, cls, sep, unk and mask, as far as the tokenizer has them."""
    specials: frozenset[int]
    """Ids that stand for no text."""
    encode: Encode
    """Ids of the pieces that some text is cut into, a space in front where a word starts; special ones are left out."""

    @property
    def numbers(self) -> dict[bytes, int]:
        """Id of each key."""
        return {key: number for number, key in enumerate(self.keys) if key is not None}


def read_tokenizer_files(directory: Path) -> dict[str, bytes]:
    """Returns the tokenizer files of a published model, by name.

    Raises:
        CheckpointError: one cannot be read.
    """
    found = {}
    for name in ALL_TOKENIZER_FILES:
        path = directory / name
        try:
            if path.is_file():
                if path.stat().st_size > LARGEST_FILE:
                    raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes are no tokenizer.")
                found[name] = path.read_bytes()
                refuse_pointer(path, found[name])
        except OSError as e:
            raise CheckpointError(f"{path}: cannot be read ({e.strerror}). Make it readable.") from e
    return found


def read_vocabulary(files: dict[str, bytes], where: str) -> Vocabulary:
    """Reads a tokenizer.

    Args:
        files: content by name: a `tokenizer.json`, else a sentencepiece model, and what says the roles of special tokens.
        where: directory, for messages.

    Raises:
        CheckpointError: there is no tokenizer, or it is damaged.
    """
    try:
        if FAST_FILE in files:
            return _read_fast(files)
        if model := next((name for name in MODEL_FILES if name in files), None):
            return _read_sentencepiece(files[model], files, where)
    except Exception as e:  # `tokenizers`, sentencepiece and protobuf raise classes of their own
        raise CheckpointError(
            f"{where}: its tokenizer cannot be read ({str(e).strip() or type(e).__name__}). Put it back."
        ) from e
    raise CheckpointError(
        f"{where}: no tokenizer there ({FAST_FILE} or {MODEL_FILE}), so nobody knows which piece an embedding is of. Copy it there."
    )


def _read_fast(files: dict[str, bytes]) -> Vocabulary:
    import tokenizers

    from preprocess.tokenization.encoders.fast_encoder import token_names
    from preprocess.tokenization.encoders.roles import known_roles

    text = files[FAST_FILE].decode()
    document, tokenizer = orjson.loads(text), tokenizers.Tokenizer.from_str(text)
    kind, alphabet = document["model"]["type"], _alphabet(document)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise ValueError("its vocabulary is empty")
    pieces = {number: piece for piece, number in vocabulary.items()}
    names = token_names(document, vocabulary, _documents(files))
    roles = known_roles(names)
    specials = names.special | frozenset(roles.values())
    if max(pieces, default=0) > len(pieces) + MOST_ADDED:
        raise ValueError(f"its ids go up to {max(pieces):,}, and it has {len(pieces):,} pieces")
    keys = [_key(pieces.get(n), n in specials, alphabet) for n in range(max(pieces, default=-1) + 1)]

    def encode(key: bytes) -> list[int]:
        spelt = _spelt(key, alphabet)
        try:
            return [] if spelt is None else [token.id for token in tokenizer.model.tokenize(spelt)]
        except Exception:  # plain Exception, of a model without [UNK] for a text that it cannot spell
            return []

    # A model of whole words gives [UNK] alone for what it does not know; the caller leaves that out.
    return _vocabulary(keys, roles, specials, encode if kind != "WordLevel" else lambda key: [])


def _read_sentencepiece(model: bytes, files: dict[str, bytes], where: str) -> Vocabulary:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    from preprocess.tokenization.encoders.roles import known_roles
    from preprocess.tokenization.encoders.sentencepiece_encoder import token_names

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    count = len(proto.pieces)
    names = token_names(proto, _documents(files), where)
    if names.size > count + 1 + MOST_ADDED:
        raise ValueError(f"its added tokens go up to {names.size - 1:,}, and the model has {count:,} pieces")
    roles, pieces = known_roles(names), {number: piece for piece, number in names.ids.items()}
    if "mask" not in roles and names.size == count:
        # As transformers' tokenizer of DeBERTa V2 does, whose V3 has it in no file.
        roles["mask"], pieces[count] = count, SPECIAL_TOKENS[MASK]
    specials = names.special | frozenset(roles.values())
    keys = [_key(pieces.get(n), n in specials, "spaces") for n in range(max(pieces) + 1)]
    # A piece is a part of a text: nothing is put in front of it, and it has been normalised.
    proto.normalizer_spec.Clear()
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = proto.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(key: bytes) -> list[int]:
        spelt = _spelt(key, "spaces")
        return [] if spelt is None else processor.encode(spelt)

    return _vocabulary(keys, roles, specials, encode)


def _documents(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """The JSON files that say the roles of special tokens, by name."""
    from preprocess.tokenization.encoders.tokenizer_files import TokenizerFiles

    return TokenizerFiles(files, "", "its files").documents()


def _vocabulary(keys: list[bytes | None], roles: dict[str, int], specials: frozenset[int], cut: Encode) -> Vocabulary:
    bytes_of = {key[-1]: n for n, key in enumerate(keys) if key is not None and len(key) == 2 and key[:1] == BYTE}
    bytes_of |= {key[0]: n for n, key in enumerate(keys) if key is not None and len(key) == 1 and key[0] not in bytes_of}

    def encode(key: bytes) -> list[int]:
        if key[:1] == SPECIAL:
            return []
        key = key[1:] if key[:1] == BYTE else key
        parts = [number for number in cut(key) if number not in specials]
        return parts or [bytes_of[byte] for byte in key if byte in bytes_of]

    return Vocabulary(keys, roles, specials, encode)


def _alphabet(document: dict[str, Any]) -> str:
    """Which alphabet a tokenizer.json uses: bytes, spaces, or continuations."""
    kinds = set(_kinds([document.get("pre_tokenizer"), document.get("decoder")]))
    if "ByteLevel" in kinds:
        return "bytes"
    return "continuations" if document["model"]["type"] in ("WordPiece", "WordLevel") else "spaces"


def _kinds(parts: Iterable[Any]) -> Iterable[str]:
    for part in parts:
        if isinstance(part, dict):
            yield str(part.get("type"))
            yield from _kinds(part.values())
        elif isinstance(part, list):
            yield from _kinds(part)


def _key(piece: str | None, is_special: bool, alphabet: str) -> bytes | None:
    """The key of a piece; None where there is none."""
    if piece is None:
        return None
    if is_special:
        return SPECIAL + piece.encode()
    if alphabet == "bytes":
        letters = _byte_letters()
        key = bytes(letters[c] for c in piece) if all(c in letters for c in piece) else piece.encode()
        return BYTE + key if len(key) == 1 and key[0] >= 0x80 else key  # a part of a letter, as `<0xE3>` is
    if alphabet == "continuations":
        return piece[2:].encode() if piece.startswith("##") else b" " + piece.encode()
    if match := BYTE_PIECE.fullmatch(piece):
        return BYTE + bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode()


def _spelt(key: bytes, alphabet: str) -> str | None:
    """A key as text in an alphabet; None where it is a part of a letter and the alphabet has whole letters only."""
    if alphabet == "bytes":
        letters = {byte: letter for letter, byte in _byte_letters().items()}
        return "".join(letters[byte] for byte in key)
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return None
    return text.removeprefix(" ") if alphabet == "continuations" else text.replace(" ", "▁")


_LETTERS: dict[str, int] = {}


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte: itself where it can be printed, else one from U+0100 on (GPT-2's table)."""
    if not _LETTERS:
        printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
        others = [byte for byte in range(256) if byte not in printed]
        _LETTERS.update({chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)})
    return _LETTERS
