"""How the text that a released model was pre-trained on was made; text that is given to the model has to be made the same way.

Written by `export` beside the weights, and known to a checkpoint's state.json; read by whatever gives text to the model.
"""

from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import CheckpointError

ORIGIN_NAME = "pretraining_text.json"
KEYS = ("segmenter", "normaliser", "sentence_splitter")
CHARACTERS = {"word_starts": "documents"}
"""Is part of the origin where the tokens are characters of plain text: the segmenter then only told which ones to mask together."""


def origin_of(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's state.json that tells it."""
    return _told_by(state["data"])


def is_of_characters(origin: dict[str, Any]) -> bool:
    """Whether the model reads plain text, each character a token."""
    return origin.items() >= CHARACTERS.items()


def _told_by(data: dict[str, Any]) -> dict[str, Any]:
    return {key: data[key] for key in KEYS} | (CHARACTERS if is_of_characters(data) else {})


def write_origin(directory: Path, origin: dict[str, Any]) -> None:
    """Lays what is known beside a model's weights, for `read_origin`."""
    (directory / ORIGIN_NAME).write_bytes(orjson.dumps(origin, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_origin(directory: Path) -> dict[str, Any] | None:
    """Segmenter, normaliser and sentence splitter of an exported directory or a checkpoint; None of a model from elsewhere.

    Raises CheckpointError where the file that tells it is damaged.
    """
    exported, state = directory / ORIGIN_NAME, directory / "state.json"
    path = exported if exported.is_file() else state
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
        origin = _told_by(found) if path == exported else origin_of(found)
        if not isinstance(origin["segmenter"], dict):
            raise TypeError("segmenter is no object")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(
            f"{path}: does not tell how the pre-training text was made ({e}). Export the checkpoint again."
        ) from e
    return origin
