"""A tokenizer that is not trained here: its files go unchanged into `OUT/tokenizer`, with what AutoTokenizer needs beside them.

Promises that AutoTokenizer gives the ids that the shards get, which is tried before any file counts as finished.
"""

import logging
from pathlib import Path
from typing import Any

import orjson

from jadeberta.shards import ConfigError, file_sha256
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, FAST_FILE
from jadeberta.utils.files import atomic_file
from preprocess.config import PreprocessConfig
from preprocess.document_files import write_json
from preprocess.executors.executor import Executor
from preprocess.tokenization.encoders import Encoder, TokenizerFiles, find_tokenizer, open_encoder
from preprocess.tokenization.encoders.auto_tokenizer import refuse_other_ids
from preprocess.tokenization.encoders.fast_file import fast_tokenizer
from preprocess.workdir import TRAINING_NAME, read_training
from preprocess.written_files import TOKENIZER_NAMES, claim

log = logging.getLogger(__name__)

FAST_CLASS = "PreTrainedTokenizerFast"
"""Class of transformers that takes `tokenizer.json` as it is."""
ROLE_KEYS = {"cls_token": "cls", "sep_token": "sep", "pad_token": "pad", "unk_token": "unk", "mask_token": "mask"}


def take_tokenizer(config: PreprocessConfig, out: Path, executor: Executor) -> dict[str, Any]:
    """Writes `out/tokenizer/` from the tokenizer that the recipe names; one with the same files is kept.

    Returns:
        {"sha256", "main", "files", "pieces", "kind", "settings"}.

    Raises:
        ConfigError: there is no tokenizer, it lacks a role, or AutoTokenizer gives other ids.
    """
    return executor.run_on_root(lambda: _take(config, out))


def given_settings(files: TokenizerFiles) -> dict[str, Any]:
    """Returns all that `out/tokenizer` depends on; the path is not part of it."""
    return {"given": files.sha256, "main": files.main}


def _take(config: PreprocessConfig, out: Path) -> dict[str, Any]:
    files = find_tokenizer(Path(config.tokenizer))
    encoder = open_encoder(files)  # before any file is written: what is missing is said first
    directory, settings = out / "tokenizer", given_settings(files)
    found = read_training(directory)
    if found is not None and found["settings"] == settings and _is_whole(directory, found):
        log.info("tokenizer: taken already, %s", found["kind"])
        return found
    claim(out, TOKENIZER_NAMES)
    directory.mkdir(parents=True, exist_ok=True)
    # The marker first, so that nothing half written counts.
    for name in (TRAINING_NAME, *ALL_TOKENIZER_FILES, "config.json", "words.tsv", "seed.tsv"):
        (directory / name).unlink(missing_ok=True)
    for name, content in {**files.content, **_companions(files, encoder, max(config.sequence_lengths))}.items():
        with atomic_file(directory / name) as f:
            f.write(content)
    write_model_type(directory, encoder.vocab_size)
    remedy = (
        "Set tokenizer_class in the tokenizer's tokenizer_config.json to PreTrainedTokenizerFast if tokenizer.json is right as it is, or "
        "save it again with AutoTokenizer."
    )
    refuse_other_ids(directory, encoder, remedy, ConfigError, encoder.hard_texts)
    if encoder.name_of(encoder.special.pad) is None:
        log.warning(
            "tokenizer: has no padding token of its own (none, or one with another role, such as eos); the id %d, which no text gets, "
            "fills rows",
            encoder.special.pad,
        )
    result = {
        "sha256": files.sha256[files.main],
        "main": files.main,
        "files": hashes(directory),
        "pieces": encoder.vocab_size,
        "kind": encoder.description,
        "settings": settings,
    }
    write_json(directory / TRAINING_NAME, result)
    log.info("tokenizer: %s, from %s", encoder.description, files.where)
    return result


def hashes(directory: Path) -> dict[str, str]:
    """Hash of every file of the tokenizer in a directory, by name."""
    return {name: file_sha256(directory / name) for name in ALL_TOKENIZER_FILES if (directory / name).is_file()}


def _is_whole(directory: Path, found: dict[str, Any]) -> bool:
    return hashes(directory) == found["files"]


def _companions(files: TokenizerFiles, encoder: Encoder, longest: int) -> dict[str, bytes]:
    """Files that AutoTokenizer needs and the tokenizer lacks, by name."""
    made: dict[str, bytes] = {}
    if FAST_FILE not in files.content:
        names = {n: name for n in encoder.special.ids if (name := encoder.name_of(n)) is not None}
        made[FAST_FILE] = fast_tokenizer(files.content[files.main], encoder.special, names)
    if "tokenizer_config.json" not in files.content:
        made["tokenizer_config.json"] = tokenizer_config(encoder, longest)
    return made


def tokenizer_config(encoder: Encoder, longest: int) -> bytes:
    """Returns the bytes of a `tokenizer_config.json` by which AutoTokenizer takes `tokenizer.json` as it is."""
    roles = {key: getattr(encoder.special, role) for key, role in ROLE_KEYS.items()}
    named = {key: encoder.name_of(number) for key, number in roles.items() if number is not None}
    tokens = {key: name for key, name in named.items() if name is not None}
    content = {"tokenizer_class": FAST_CLASS, **tokens, "model_max_length": longest, "clean_up_tokenization_spaces": False}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def write_model_type(directory: Path, vocab_size: int) -> None:
    """Writes the `config.json` by which AutoTokenizer knows the model."""
    with atomic_file(directory / "config.json") as f:
        f.write(orjson.dumps({"model_type": "deberta-v2", "vocab_size": vocab_size}))
