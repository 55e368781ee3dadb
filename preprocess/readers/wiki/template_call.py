"""A template call and its arguments."""

import re
from dataclasses import dataclass

from preprocess.readers.wikitext import Parts

_PREFIX = re.compile(r"(?:(?:template|テンプレート|t|safesubst|subst|msg|msgnw|raw)\s*:\s*)+", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """A template call."""

    name: str
    """Name as it is written."""
    arguments: dict[str, str]
    """Arguments by name or number, without spaces around them."""
    unnamed: list[str]
    """Arguments that were given without a name, in order."""

    @property
    def key(self) -> str:
        """Name as in the tables of rules."""
        return self.name.lower()

    def first(self, *names: str) -> str:
        """Returns the first of these arguments that is given and not empty, or ""."""
        return next((value for name in names if (value := self.arguments.get(name))), "")

    def numbered(self) -> list[str]:
        """Returns the arguments 1, 2, ... as far as they go."""
        found: list[str] = []
        while (number := str(len(found) + 1)) in self.arguments:
            found.append(self.arguments[number])
        return found


def call_of(parts: Parts) -> Call:
    """Returns the call that stands in a template's brackets."""
    name = "".join(parts[0]).strip().replace("_", " ")
    if match := _PREFIX.match(name):
        name = name[match.end() :]
    arguments: dict[str, str] = {}
    unnamed: list[str] = []
    for part in parts[1:]:
        key, equals, value = part[0].partition("=") if part else ("", "", "")
        if equals:
            arguments[key.strip()] = "".join([value, *part[1:]]).strip()
        else:
            unnamed.append("".join(part).strip())
            arguments[str(len(unnamed))] = unnamed[-1]
    return Call(name, arguments, unnamed)
