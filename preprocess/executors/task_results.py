"""Results of tasks as JSON, for processes that share only a folder.

Promises that reading a result runs no code of whoever can write into that folder: it makes plain values, instances of dataclasses and
named tuples of this project that are loaded already, without calling their constructors, and this project's errors from their messages.
"""

import base64
import builtins
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path, PosixPath
from typing import Any

from jadeberta import errors
from jadeberta.errors import InputError, JadebertaError

PACKAGES = ("jadeberta.", "preprocess.", "bench.")
"""Prefixes of the modules whose classes may be in a result."""
COLLECTIONS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def dump(result: Any, error: Exception | None = None) -> bytes:
    """Returns a result as JSON, or the error that took its place.

    Raises:
        TypeError: the result holds something that cannot be read back.
    """
    return json.dumps({"result": _plain(result)} if error is None else {"error": _plain_error(error)}).encode()


def load(content: bytes, where: Path) -> Any:
    """Returns the result, or the error, that `dump` made into `content`.

    Raises:
        InputError: the content is not such JSON; names `where` it is from.
    """
    try:
        found = json.loads(content)
        return _restored_error(*found["error"]) if "error" in found else _restored(found["result"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(f"{where}: not a result of this pool ({type(e).__name__}: {e}). Use another --pool name.") from e


def _plain(value: Any) -> Any:
    """Returns a value of JSON's own types: what JSON does not know becomes {kind: content}."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _plain(value.item())  # a number of numpy
    if type(value) is list:
        return [_plain(item) for item in value]
    if type(value) in (dict, Counter):
        if all(type(key) is str for key in value):
            return {type(value).__name__: {key: _plain(item) for key, item in value.items()}}
        return {f"{type(value).__name__} of pairs": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if type(value) is PosixPath:
        return {"path": str(value)}
    if type(value) is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    for kind, collection in COLLECTIONS.items():
        if type(value) is collection:
            return {kind: [_plain(item) for item in value]}
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if _is_named_tuple(type(value)):
        return {"named tuple": [name, [_plain(item) for item in value]]}
    if dataclasses.is_dataclass(value) and name.startswith(PACKAGES):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"dataclass": [name, fields]}
    raise TypeError(f"a result of a task holds a {name}, which processes that share only a folder cannot exchange")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    match kind:
        case "dict" | "Counter":
            found = {key: _restored(item) for key, item in content.items()}
            return Counter(found) if kind == "Counter" else found
        case "dict of pairs" | "Counter of pairs":
            found = {_restored(key): _restored(item) for key, item in content}
            return Counter(found) if kind.startswith("Counter") else found
        case "path":
            return Path(content)
        case "bytes":
            return base64.b64decode(content)
        case "named tuple":
            name, items = content
            cls = _class(name)
            if not _is_named_tuple(cls):
                raise ValueError(f"{name} is no named tuple")
            return tuple.__new__(cls, map(_restored, items))
        case "dataclass":
            return _restored_dataclass(*content)
    return COLLECTIONS[kind](map(_restored, content))


def _restored_dataclass(name: str, fields: dict[str, Any]) -> Any:
    cls = _class(name)
    if not dataclasses.is_dataclass(cls) or {field.name for field in dataclasses.fields(cls)} != set(fields):
        raise ValueError(f"{name} is no dataclass with the fields {', '.join(fields)}")
    made = object.__new__(cls)
    for field, item in fields.items():
        # As a frozen dataclass sets its own fields.
        object.__setattr__(made, field, _restored(item))
    return made


def _class(name: str) -> type:
    """Returns a class of this project by MODULE:NAME; nothing is imported for it."""
    module, _, qualified = name.partition(":")
    if not module.startswith(PACKAGES):
        raise ValueError(f"{name} is no class of this project")
    found: Any = sys.modules[module]
    for part in qualified.split("."):
        found = vars(found)[part]
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"{name} is no class")
    return found


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and cls.__module__.startswith(PACKAGES)


def _plain_error(error: Exception) -> list[str]:
    """Returns the class and the message of an error; of our own classes the nearest that any process knows."""
    own = next((cls for cls in type(error).__mro__ if cls.__module__ == errors.__name__), RuntimeError)
    return [own.__name__, str(error)]


def _restored_error(name: str, message: str) -> Exception:
    found = vars(errors).get(name, RuntimeError)
    known = isinstance(found, type) and issubclass(found, JadebertaError)
    return found(*str(message).split("\n")) if known else builtins.RuntimeError(str(message))
