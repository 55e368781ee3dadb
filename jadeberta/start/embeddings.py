"""Carries embeddings and output biases over to another tokenizer: shared pieces keep theirs, a new piece gets the mean of its parts.

The parts are those into which the source's tokenizer cuts the text of the new piece (Gee et al.: Fast vocabulary transfer for
language model compression, 2022).
"""

from dataclasses import dataclass

import torch

from jadeberta.errors import ConfigError
from jadeberta.model.published import BIAS, EMBEDDINGS, Weights
from jadeberta.start.source_vocabulary import ROLES, SPECIAL, Vocabulary


@dataclass(frozen=True)
class Match:
    """Where the embeddings of a new tokenizer come from."""

    parts: list[list[int]]
    """For each new id the ids of the source whose mean it gets; empty: the mean of all pieces."""
    special: int
    """Pieces whose place is a role: pad, cls, sep, unk, mask."""
    shared: int
    """Pieces that the source has too."""
    from_parts: int
    """Pieces that are the mean of their parts."""
    from_all: int
    """Pieces of which the source has no part: the mean of all its pieces."""

    def counts(self) -> dict[str, int]:
        """How many pieces there are of each kind."""
        return {"special": self.special, "shared": self.shared, "from_parts": self.from_parts, "from_all": self.from_all}


def match_vocabularies(source: Vocabulary, new: Vocabulary, rows: int) -> Match:
    """Finds the source of every embedding of a new tokenizer.

    Args:
        source: the tokenizer that the embeddings were trained with.
        new: the tokenizer of the shards.
        rows: number of embeddings of the source; ids beyond it have none.
    """
    numbers = {key: number for key, number in source.numbers.items() if number < rows}
    roles = {new.roles[role]: source.roles[role] for role in ROLES if role in new.roles and source.roles.get(role, rows) < rows}
    parts, counts = [], {"special": 0, "shared": 0, "from_parts": 0, "from_all": 0}
    for number, key in enumerate(new.keys):
        if number in roles:
            found, kind = [roles[number]], "special"
        elif key is None or number in new.roles.values():
            found, kind = [], "from_all"
        elif key in numbers:
            found, kind = [numbers[key]], "shared"
        else:
            found = [part for part in source.encode(key) if part < rows]
            if key.strip(b" ") and all(source.keys[part] == b" " for part in found):
                found = []  # the space in front alone says nothing about the text
            kind = "from_parts" if found else "from_all"
        parts.append(found)
        counts[kind] += 1
    return Match(parts, **counts)


def first_difference(source: Vocabulary, new: Vocabulary) -> str | None:
    """Says in words where two tokenizers differ first; None where each piece and each role of the new one has the source's id."""
    # Of the others a tokenizer may have two, cls and bos for one, and either is right.
    for role in ("mask", "pad"):
        ids = new.roles.get(role), source.roles.get(role)
        if ids[0] != ids[1] and None not in ids:
            return f"the token for {role} is {ids[0]} in the shards' and {ids[1]} in the source's"
    for number, key in enumerate(new.keys):
        other = source.keys[number] if number < len(source.keys) else None
        if _text(key) != _text(other) and number not in new.specials:
            return f"piece {number} is {_shown(key)} in the shards' and {_shown(other)} in the source's"
    return None


def _text(key: bytes | None) -> bytes | None:
    """A key without the mark of special pieces: two files of one tokenizer may call other pieces special."""
    return None if key is None else key.removeprefix(SPECIAL).replace("▁".encode(), b" ")


def _shown(key: bytes | None) -> str:
    return "none" if key is None else f"'{key.lstrip(bytes([255, 254])).decode(errors='backslashreplace')}'"


def carry_over(weights: Weights, match: Match) -> Weights:
    """Returns weights with the embeddings and output biases of the new tokenizer, in its order; all others stay.

    Raises:
        ConfigError: the new tokenizer has no piece in common with the source's, not even in part.
    """
    if not match.shared and not match.from_parts:
        raise ConfigError(
            "model.init_tokenizer match: the shards' tokenizer has no piece in common with the source's, not even in parts; the embeddings "
            "would all be alike. Name the right shards, or start from random weights."
        )
    carried = dict(weights)
    for name in (EMBEDDINGS, BIAS):
        old = weights[name]
        new = torch.empty(len(match.parts), *old.shape[1:])
        everything = old.double().mean(0).float()
        for number, found in enumerate(match.parts):
            # Of one part its very bits; the mean of several is taken in fp64.
            new[number] = old[found[0]] if len(found) == 1 else old[found].double().mean(0) if found else everything
        carried[name] = new
    return carried
