"""The one rule for every path that a user writes: in a recipe, as an option, or in a setting of a launch script.

`~` and `~name` stand for a home directory, and a relative path starts at the current directory of whoever typed the command.
Nothing else is expanded: what looks like a variable of the shell, or the address of an object store, is refused, so that no directory is
named after it.
"""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jadeberta.errors import ConfigError
from jadeberta.utils.bounded_yaml import require_bounded
from jadeberta.utils.remote_paths import refuse_remote

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
"""The recipes that come with the project."""
LONGEST_PATH, LONGEST_NAME = 4095, 255
"""Bytes, Linux's PATH_MAX and NAME_MAX."""
SHELL_VARIABLE = re.compile(r"(?:^|/)\$(?:\w+|\{\w+\})(?:/|$)")


def expand_user(text: str, what: str = "") -> str:
    """Returns a path, or a pattern of paths, with `~` replaced by the home directory; an empty one stays empty.

    Args:
        text: as the user wrote it.
        what: names the key or option in the error, e.g. "run.dir".

    Raises:
        ConfigError: there is no such home directory, the path holds a variable of the shell or a character that no path can hold, is
            longer than a path can be, or is no path of this machine (`s3://`).
    """
    refuse_remote(text, what)
    where = f"{what} {text}" if what else text
    encoded = require_encodable(text, what)
    if len(encoded) > LONGEST_PATH or any(len(name) > LONGEST_NAME for name in encoded.split(b"/")):
        raise ConfigError(f"{what or 'the path'} is longer than a path can be, from {text[:60]} on; correct it.")
    if variable := SHELL_VARIABLE.search(text):
        raise ConfigError(f"{where}: {variable[0].strip('/')} is not expanded here; write the path in full, or begin it with ~/.")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path would drop the trailing slash and dots of a pattern
    if text.startswith("~") and expanded == text:
        raise ConfigError(f"{where}: no home directory is known for {text.split('/')[0]}; write the path in full.")
    return expanded


def require_encodable(text: str, what: str = "") -> bytes:
    """Returns a path as bytes.

    Args:
        text: the path.
        what: names the key or option in the error, e.g. "run.dir".

    Raises:
        ConfigError: it is not UTF-8, as names from archives of other systems, or holds a NUL: reports and indexes, which are JSON, cannot
            hold it.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{what or 'the path'} is {text!a}; this name is not UTF-8. Rename it, from Shift JIS by convmv -f shift_jis -t utf-8."
        ) from None
    if b"\0" in encoded:
        raise ConfigError(f"{what or 'the path'} is {text!a}; no path can hold such a character, so correct it.")
    return encoded


def require_current_directory() -> None:
    """Raises ConfigError where the current directory is gone, or its path cannot be written into reports."""
    try:
        require_encodable(os.getcwd(), "the current directory")  # noqa: PTH109 - Path.cwd() is the same
    except OSError as e:
        raise ConfigError(f"the current directory cannot be used ({e.strerror}); change into another.") from None


def names_of(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of paths that tell them apart, all of one length; `paths` are not empty and no two are equal."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def user_path(text: str, what: str = "") -> Path:
    """Returns the path that a user wrote, with `~` expanded.

    Args:
        text: as the user wrote it.
        what: names the key or option in the error, e.g. "run.dir".

    Raises:
        ConfigError: it is empty, or as for `expand_user`. An empty path would mean the current directory.
    """
    if not text.strip():
        raise ConfigError(f"{what or 'the path'} is empty; name a path, or '.' for the current directory.")
    return Path(expand_user(text, what))


def find_recipe(text: str) -> Path:
    """Returns the file of a recipe that the user named.

    Raises:
        ConfigError: there is no such file, it is far larger than a recipe once its aliases are written out, or as for `user_path`.
    """
    path = user_path(text, "--config")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: a folder, a pipe or a device; a recipe is a file, as it is read more than once.")
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe. The ones that come with the project lie in {RECIPES}.")
    try:
        require_bounded(path)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    return path


def path_option(text: str) -> Path:
    """Reads an option that names a file or directory; give it to argparse as `type`."""
    try:
        return user_path(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
