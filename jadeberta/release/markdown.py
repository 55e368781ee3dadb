"""Names and texts of others in Markdown and YAML: they stay text, whatever they hold."""

import json
import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_REFERENCE = re.compile(r"&(?=#?\w+;)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto):|\bwww\.")
LONGEST = 200
"""Characters of a name that are shown."""


def in_text(name: object) -> str:
    """Returns a name as Markdown shows it letter by letter: on one line, without links, HTML or emphasis; at most LONGEST characters."""
    text = _BREAKS.sub(" ", _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(name))).strip()
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    text = _SPECIAL.sub(r"\\\1", _REFERENCE.sub("&amp;", text))
    return _LINK.sub(lambda found: found[0].replace(":", "&#58;").replace(".", "&#46;"), text)


def in_table(value: object) -> str:
    """Returns a value for a cell of a Markdown table; the empty text as a dash."""
    return in_text(value) or "-"


def in_yaml(value: object) -> str:
    """Returns a text as a quoted scalar of YAML, on one line."""
    # JSON's strings are YAML's; what YAML cannot hold is escaped in ASCII.
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(value))
    is_plain = all(character.isprintable() for character in text)
    return json.dumps(text, ensure_ascii=not is_plain)
