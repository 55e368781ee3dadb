"""Slurm's short form of a list of hosts, such as node[1-3,07],gpu-a[01-02]-ib, written out: a pure function.

`scontrol show hostnames` does the same, but is not there inside a container.
"""

import re
from itertools import product

from jadeberta.errors import ConfigError


def expand(hostlist: str) -> list[str]:
    """The hosts of a list in its order. Raises ConfigError where brackets or numbers do not fit together."""
    hosts = []
    for entry in _split(hostlist):
        pieces = re.split(r"\[([^\[\]]*)\]", entry)  # text, numbers, text, numbers, ..., text
        if any(c in text for text in pieces[::2] for c in "[]"):
            raise ConfigError(f"'{hostlist}' is no list of hosts: the brackets of '{entry}' do not match.")
        choices = [_numbers(piece, hostlist) if place % 2 else [piece] for place, piece in enumerate(pieces)]
        hosts += ["".join(parts) for parts in product(*choices)]
    return hosts


def _split(hostlist: str) -> list[str]:
    """At the commas outside brackets."""
    return [entry for entry in re.findall(r"(?:[^,\[]|\[[^\]]*\]?)+", hostlist) if entry.strip()]


def _numbers(ranges: str, hostlist: str) -> list[str]:
    """The numbers of 1-3,07 with their leading zeros."""
    numbers = []
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ConfigError(f"'{hostlist}' is no list of hosts: '{part}' is no range of numbers.")
        last = match[2] or match[1]
        numbers += [f"{number:0{len(match[1])}d}" for number in range(int(match[1]), int(last) + 1)]
    return numbers
