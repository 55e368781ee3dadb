"""How a model's pre-training text was made: segmenter, normaliser, sentence splitter. Input of the model must be made the same way.

`export` writes it beside the weights, and a checkpoint has it in state.json. Fine-tuning and evaluation read it.
"""

from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import CheckpointError

ORIGIN_NAME = "pretraining_text.json"
KEYS = ("segmenter", "normaliser", "sentence_splitter")
TOKENIZER_KEYS = ("tokenizer_input", "tokenizer_file")
"""What a tokenizer that is not the published recipe's reads (words or text), and the file that gives its ids."""
CHARACTERS = {"word_starts": "documents"}
"""Part of the origin where tokens are characters of plain text; the segmenter then only decided which ones were masked together."""


def origin_of(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the origin that a checkpoint's state.json records."""
    return _recorded_in(state["data"])


def is_of_characters(origin: dict[str, Any]) -> bool:
    """Whether the model reads plain text, each character a token."""
    return origin.items() >= CHARACTERS.items() and "tokenizer_input" not in origin


def reads_text(origin: dict[str, Any]) -> bool:
    """Whether the model reads text without the spaces of a segmenter."""
    return is_of_characters(origin) or origin.get("tokenizer_input") == "text"


def _recorded_in(data: dict[str, Any]) -> dict[str, Any]:
    other = {key: str(data[key]) for key in TOKENIZER_KEYS if key in data}
    return {key: data[key] for key in KEYS} | (CHARACTERS if is_of_characters(data) else {}) | other


def write_origin(directory: Path, origin: dict[str, Any]) -> None:
    """Writes the origin beside a model's weights, for `read_origin`."""
    (directory / ORIGIN_NAME).write_bytes(orjson.dumps(origin, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_origin(directory: Path) -> dict[str, Any] | None:
    """Reads segmenter, normaliser and sentence splitter of an exported directory or a checkpoint; None for a model from elsewhere.

    Raises:
        CheckpointError: the file that records them is damaged.
    """
    exported, state = directory / ORIGIN_NAME, directory / "state.json"
    path = exported if exported.is_file() else state
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
        origin = _recorded_in(found) if path == exported else origin_of(found)
        if not isinstance(origin["segmenter"], dict):
            raise TypeError("segmenter is no object")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(
            f"{path}: does not record how the pre-training text was made ({e}). Export the checkpoint again."
        ) from e
    return origin
