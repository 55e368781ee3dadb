"""jadeberta: pre-trains a Japanese DeBERTa V2 on a cluster, from shards to a released model."""

import importlib
from typing import Any

__version__ = "0.1.0"
_PUBLIC = {"Tokenizer": "jadeberta.segmenting_tokenizer", "fast": "jadeberta.model.drop_in.fast_model"}
"""Public names and their modules, which are imported when a name is first used: commands must not wait for torch."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jadeberta' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
