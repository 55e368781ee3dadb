"""Finds a tokenizer's special tokens by their roles, from what its own files say; no number of a token is assumed.

Pure functions of parsed files, so that each layout of a published tokenizer is one small test.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jadeberta.errors import ConfigError
from jadeberta.shards.index_checks import VOCAB_LIMIT
from jadeberta.shards.tokenizer_format import SpecialTokens

ROLE_KEYS = {
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
}
"""Keys of `tokenizer_config.json` and `special_tokens_map.json`, the ones that are asked first in front."""
USUAL_NAMES = {
    "cls": ("[CLS]", "<cls>", "<s>", "<bos>"),
    "sep": ("[SEP]", "<sep>", "</s>", "<eos>"),
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
}
"""Names of tokens but the mask, asked where no file says the role."""
MASK_NAME = re.compile(r"[\[<(]+[^\w]*mask\b.*[\])>]", re.IGNORECASE | re.DOTALL)
"""Names such as `[MASK]`, `<|mask|>` and `<MASK|MODEL>`."""


@dataclass(frozen=True)
class TokenNames:
    """What a tokenizer's files say about its special tokens."""

    ids: Mapping[str, int]
    """Id of every token that may have a role, by its text."""
    said: dict[str, str] = field(default_factory=dict)
    """Text of the token of a key such as `mask_token`."""
    defaults: dict[str, int] = field(default_factory=dict)
    """Ids of roles that the tokenizer's program itself knows; asked after `said`."""
    special: frozenset[int] = frozenset()
    """Ids that stand for no text."""
    size: int = 0
    """Largest id and one."""


def said_in(*documents: Mapping[str, Any]) -> dict[str, str]:
    """Returns the token of each key; of several documents the first that has it. A value is a string, or {"content": string}."""
    found: dict[str, str] = {}
    for document in documents:
        for key in (key for keys in ROLE_KEYS.values() for key in keys):
            value = document.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str) and value:
                found.setdefault(key, value)
    return found


def find_roles(names: TokenNames, where: str) -> tuple[SpecialTokens, int]:
    """Returns the special tokens by role, and the number of ids with them.

    A tokenizer without a padding token of its own gets the first id that it does not use: padding has no text, so its files stay as they
    are. Where one token only stands for a document's border, it is both `cls` and `sep`.

    Args:
        names: what the files say.
        where: the tokenizer, for messages.

    Raises:
        ConfigError: there is no mask token, or several and none is named, or no token for a document's borders; one token has two roles; or
            an id is beyond what shards hold.
    """
    if names.size >= VOCAB_LIMIT:
        raise ConfigError(
            f"{where}: its largest id is {names.size - 1:,}, and the largest that shards hold is {VOCAB_LIMIT - 2:,}. "
            "Name a tokenizer whose ids have no such holes."
        )
    found = known_roles(names)
    mask, cls, sep = found.get("mask"), found.get("cls"), found.get("sep")
    if mask is None and (masks := _masks(names)):
        raise ConfigError(
            f"{where}: has several mask tokens ({', '.join(sorted(masks))}) and names none of them. "
            "Set mask_token in tokenizer_config.json."
        )
    if mask is None:
        raise ConfigError(
            f"{where}: has no mask token (mask_token in tokenizer_config.json, or a special token like [MASK] or <mask>), so that nothing "
            "could be predicted. Add one with tokenizer.add_special_tokens and save it, or name another tokenizer."
        )
    if cls is None or sep is None:
        raise ConfigError(
            f"{where}: has no token for the borders of a document (cls_token and sep_token, or bos_token and eos_token in "
            "tokenizer_config.json). Name them there, or name another tokenizer."
        )
    unk, pad, size = found.get("unk"), found.get("pad"), names.size
    if pad is None:
        pad, size = size, size + 1
    try:
        return SpecialTokens(pad, cls, sep, unk, mask, tuple(names.special - {pad, cls, sep, unk, mask})), size
    except ValueError as e:
        raise ConfigError(f"{where}: {e}, so that they cannot be told apart. Give each role a token of its own.") from e


def known_roles(names: TokenNames) -> dict[str, int]:
    """Returns the ids of the roles that the files give; one token for a document's borders is both `cls` and `sep`."""
    found = {role: number for role in ROLE_KEYS if (number := _find(role, names)) is not None}
    for border, other in (("cls", "sep"), ("sep", "cls")):
        if other in found:
            found.setdefault(border, found[other])
    # Such as eos for padding: a document's end would not be told from what fills a row.
    for role, others in (("unk", ("cls", "sep")), ("pad", ("mask", "cls", "sep", "unk"))):
        if role in found and found[role] in [found.get(other) for other in others]:
            del found[role]
    return found


def _find(role: str, names: TokenNames) -> int | None:
    for key in ROLE_KEYS[role]:
        if (number := names.ids.get(names.said.get(key, ""))) is not None:
            return number
    if role in names.defaults:
        return names.defaults[role]
    if role == "mask":
        masks = _masks(names)
        return next(iter(masks.values())) if len(masks) == 1 else None
    for name in USUAL_NAMES[role]:
        # Only a special one: a vocabulary may have "<s>" for the HTML element.
        if (number := names.ids.get(name)) is not None and number in names.special:
            return number
    return None


def _masks(names: TokenNames) -> dict[str, int]:
    """Special tokens whose names are those of a mask."""
    return {name: number for name, number in names.ids.items() if number in names.special and MASK_NAME.fullmatch(name)}
