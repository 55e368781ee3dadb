"""The files of a tokenizer: which of a path's files belong to it, by their content, and the encoder that they make."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, COMPANION_FILES, FAST_FILE, MODEL_FILE, MODEL_FILES
from preprocess.tokenization.encoders.encoder_base import Encoder

LARGEST_FILE = 256 << 20
"""Most bytes of a file of a tokenizer."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's files in memory."""

    content: dict[str, bytes]
    """Content by name."""
    main: str
    """Name of the file that gives the ids: `tokenizer.json` or the sentencepiece model."""
    where: str
    """Path, for messages."""

    @property
    def is_fast(self) -> bool:
        """Whether the ids are those of Hugging Face's fast tokenizer."""
        return self.main == FAST_FILE

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Hash of every file by name."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.content.items())}

    def documents(self) -> dict[str, dict[str, Any]]:
        """Hugging Face's JSON files but `tokenizer.json`, by name.

        Raises:
            ConfigError: one is not JSON.
        """
        found: dict[str, dict[str, Any]] = {}
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
            if name in self.content:
                try:
                    document = orjson.loads(self.content[name])
                except orjson.JSONDecodeError as e:
                    raise ConfigError(f"{self.where}: {name} is not JSON ({e}). Copy it again.") from e
                if not isinstance(document, dict):
                    raise ConfigError(f"{self.where}: {name} holds no JSON object. Copy it again.")
                found[name] = document
        return found


def find_tokenizer(path: Path) -> TokenizerFiles:
    """Reads the tokenizer at a path: a sentencepiece model, or a directory with `tokenizer.json` or a sentencepiece model.

    Of a directory, `tokenizer.json` counts first, because it is what AutoTokenizer reads.

    Raises:
        ConfigError: there is none, several sentencepiece models are there, or a file cannot be read.
    """
    key = f"preprocess.tokenizer {path}"
    if path.is_file():
        if path.name == FAST_FILE or path.suffix == ".json":
            raise ConfigError(f"{key}: is a file of a tokenizer. Name its directory, which says the roles of the special tokens.")
        return TokenizerFiles({MODEL_FILE: _read(path)}, MODEL_FILE, str(path))
    if not path.is_dir():
        raise ConfigError(
            f"{key}: no such file or directory. Name a sentencepiece model, a directory with a tokenizer, or train."
        )
    content = {name: _read(path / name) for name in (*COMPANION_FILES, FAST_FILE, *MODEL_FILES) if (path / name).is_file()}
    if FAST_FILE in content:
        return TokenizerFiles(content, FAST_FILE, str(path))
    models = [name for name in MODEL_FILES if name in content]
    if not models:
        others = sorted(file.name for file in path.glob("*.model") if file.is_file())
        content |= {MODEL_FILE: _read(path / others[0])} if len(others) == 1 else {}
        models = [MODEL_FILE] if len(others) == 1 else others
    if len(models) != 1:
        problem = f"has {' and '.join(models)}" if models else f"holds neither {FAST_FILE} nor a sentencepiece model"
        remedy = "Name one of them" if models else f"Name the directory of a tokenizer ({FAST_FILE}, {MODEL_FILE}), or train"
        raise ConfigError(f"{key}: {problem}. {remedy}.")
    return TokenizerFiles(content, models[0], str(path))


def read_tokenizer(directory: Path, main: str) -> TokenizerFiles:
    """Reads the tokenizer of a directory that this program wrote: shards' `tokenizer/`, a checkpoint or an export.

    Args:
        directory: with the files.
        main: name of the file that gives the ids.

    Raises:
        ConfigError: a file cannot be read.
    """
    content = {name: _read(directory / name) for name in ALL_TOKENIZER_FILES if (directory / name).is_file()}
    if main not in content:
        raise ConfigError(f"{directory / main}: missing. Put the tokenizer back.")
    return TokenizerFiles(content, main, str(directory / main))


def open_encoder(files: TokenizerFiles) -> Encoder:
    """Opens the encoder of a tokenizer.

    Raises:
        ConfigError: it is damaged, or lacks a role that training needs.
    """
    if files.is_fast:
        from preprocess.tokenization.encoders.fast_encoder import FastEncoder

        return FastEncoder(files.content[FAST_FILE], files.documents(), files.where)
    from preprocess.tokenization.encoders.sentencepiece_encoder import SentencepieceEncoder

    return SentencepieceEncoder(files.content[files.main], files.documents(), files.where)


def _read(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ConfigError(f"{path}: {size:,} bytes are no file of a tokenizer. Name another one.")
        return path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}). Make it readable.") from e
