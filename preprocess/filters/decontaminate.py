"""Optional filter: drops documents that hold a text of an evaluation set, counted by set.

A document is dropped if it holds a string of `characters` letters of a question, or a whole shorter one of at least `shortest` letters.
Texts are compared as letters and digits alone, in lower case after NFKC: the rule of GPT-4's report (OpenAI 2023, appendix C), which
takes strings of 50 Latin letters, or whole shorter examples, without spaces and marks. Off in the faithful recipe.

Each document is judged alone, so the result does not depend on other documents, ranks or restarts. Hashes only find candidates: a
document is dropped where the letters themselves are equal.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import xxhash

from jadeberta.shards import ConfigError
from preprocess.config import DecontaminationConfig, EvaluationSetConfig
from preprocess.filters.evaluation_sets import KEY, find_files, fold, read_texts
from preprocess.readers.input_split import Document

RULE = "letters-1"
"""Name of the rule by which texts are compared; goes into every marker."""
MOST_LETTERS = 2**24
"""Most letters of all evaluation sets together; a rank holds 16 to 24 bytes for each."""
BLOCK = 2**16
"""Letters of documents that are looked through at once."""
COMPARED = 4096
"""Candidates that are compared letter by letter at once."""
MAX_NAMED = 10
"""Most dropped documents that a split's marker, and a corpus in the report, names of each set."""
SHOWN = 100
"""Characters of an evaluation text that the report shows."""
REASON = "evaluation set: "
"""Begins the names under which dropped documents are counted."""
# Odd, so that it has an inverse modulo 2**64. A window's hash is the sum of its letters times powers of this number.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))


def describe(config: DecontaminationConfig) -> dict[str, Any] | None:
    """Returns all that decides which documents are dropped, with a hash of each set's texts; None: none are.

    Raises:
        InputError: a file cannot be read.
        ConfigError: a set has no text of the length wanted.
    """
    return _matcher(config).settings if config.sets else None


def keep(
    documents: Iterator[Document], config: DecontaminationConfig, dropped: Counter[str], named: list[dict[str, str]]
) -> Iterator[Document]:
    """Yields the documents that hold no text of an evaluation set.

    Args:
        documents: the documents to judge.
        config: the sets.
        dropped: counts the others under the first set, in the recipe's order, of which they hold a text.
        named: gets the first dropped documents of each set: {"id", "set", "text" (of the set, its beginning)}.
    """
    if not config.sets:
        yield from documents
        return
    matcher = _matcher(config)
    for document, found in matcher.judge(documents):
        if found is None:
            yield document
            continue
        name, text = matcher.text(found)
        dropped[f"{REASON}{name}"] += 1
        if dropped[f"{REASON}{name}"] <= MAX_NAMED:
            named.append({"id": document["id"], "set": name, "text": text[:SHOWN]})


def merge_named(named: list[dict[str, str]], more: list[dict[str, str]]) -> list[dict[str, str]]:
    """Returns both lists as one that names no more than MAX_NAMED documents of a set."""
    counts: Counter[str] = Counter()
    merged = []
    for entry in named + more:
        counts[entry["set"]] += 1
        if counts[entry["set"]] <= MAX_NAMED:
            merged.append(entry)
    return merged


@dataclass
class _Windows:
    """Strings of evaluation texts, by the hashes of their first `width` letters."""

    width: int
    hashes: np.ndarray
    """uint64 [strings], sorted."""
    places: np.ndarray
    """int64 [strings]: where each begins in the letters of all texts."""
    lengths: np.ndarray
    """int64 [strings]: letters of each, `width` or more."""
    maybe: np.ndarray = field(init=False)
    """bool [a power of two]: whether a hash with these highest bits is there: most windows of a document end here."""

    def __post_init__(self) -> None:
        order = np.lexsort((self.places, self.hashes))
        self.hashes, self.places, self.lengths = self.hashes[order], self.places[order], self.lengths[order]
        self.shift = np.uint64(64 - max(16, min(26, (16 * len(order)).bit_length())))
        self.maybe = np.zeros(2 ** (64 - int(self.shift)), np.bool_)
        self.maybe[self.hashes >> self.shift] = True

    def find(self, hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (windows of a document, strings) with equal hashes, as arrays of numbers; int64."""
        windows = np.flatnonzero(self.maybe[hashes >> self.shift])
        strings = np.searchsorted(self.hashes, hashes[windows])
        # Several strings may begin alike: one round for each of them.
        while len(windows):
            same = strings < len(self.hashes)
            same[same] = self.hashes[strings[same]] == hashes[windows[same]]
            windows, strings = windows[same], strings[same]
            if len(windows):
                yield windows, strings
            strings = strings + 1


class _Matcher:
    """All evaluation texts, ready to be looked for."""

    def __init__(self, config: DecontaminationConfig) -> None:
        self._names = list(config.sets)
        self._texts: list[tuple[int, str]] = []
        folded: list[np.ndarray] = []
        self.settings: dict[str, Any] = {"rule": RULE, "characters": config.characters, "shortest": config.shortest, "sets": {}}
        for number, (name, of_set) in enumerate(config.sets.items()):
            read = [(text, fold(text)) for text in read_texts(name, of_set)]
            usable = {letters.tobytes(): (text, letters) for text, letters in read if len(letters) >= config.shortest}
            if not usable:
                raise ConfigError(
                    f"{KEY}.{name}: {of_set.path} has no text of {config.shortest} letters or more in its fields; "
                    "lower preprocess.decontamination.shortest or name other fields."
                )
            self._texts += [(number, text) for text, _ in usable.values()]
            folded += [letters for _, letters in usable.values()]
            if (total := sum(map(len, folded))) > MOST_LETTERS:
                raise ConfigError(
                    f"{KEY}: the sets up to {name} hold {total:,} letters and may hold {MOST_LETTERS:,}; take fewer files or fields."
                )
            hashed = xxhash.xxh64_hexdigest(b"\n".join(usable))
            self.settings["sets"][name] = {"texts": len(usable), "too_short": len(read) - len(usable), "hash": hashed}
        lengths = np.array([len(letters) for letters in folded])
        self._letters = np.concatenate(folded)
        self._starts = np.cumsum(lengths) - lengths
        self._powers = _powers(_BASE, BLOCK)
        self._inverses = _powers(_INVERSE, BLOCK)
        long = lengths >= config.characters
        self._groups = [
            group for group in (self._long(config.characters, long), self._short(config.shortest, lengths, ~long)) if group
        ]
        self._overlap = max(config.characters, config.shortest) - 1

    def text(self, place: int) -> tuple[str, str]:
        """Returns the set and the text to which a place in the letters belongs."""
        set_number, text = self._texts[int(np.searchsorted(self._starts, place, side="right")) - 1]
        return self._names[set_number], text

    def judge(self, documents: Iterator[Document]) -> Iterator[tuple[Document, int | None]]:
        """Yields each document with the place of the first string that it holds, in the order of the sets; None: it holds none."""
        waiting: list[Document] = []
        letters: list[np.ndarray] = []
        size = 0
        for document in documents:
            folded = fold(document["text"])
            waiting.append(document)
            # Zero is no letter: no string goes from one document to the next.
            letters += [folded, np.zeros(1, np.uint32)]
            size += len(folded) + 1
            if size >= BLOCK // 2:
                yield from self._judge(waiting, letters)
                waiting, letters, size = [], [], 0
        yield from self._judge(waiting, letters)

    def _judge(self, documents: list[Document], letters: list[np.ndarray]) -> Iterator[tuple[Document, int | None]]:
        if not documents:
            return
        ends = np.cumsum([len(folded) + 1 for folded in letters[::2]])
        found = np.full(len(documents), MOST_LETTERS, np.int64)
        joined = np.concatenate(letters)
        for start in range(0, max(1, len(joined) - self._overlap), BLOCK - self._overlap):
            windows, places = self._find(joined[start : start + BLOCK])
            np.minimum.at(found, np.searchsorted(ends, windows + start, side="right"), places)
        for document, place in zip(documents, found.tolist(), strict=True):
            yield document, place if place < MOST_LETTERS else None

    def _find(self, letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (where a string of the sets begins in the letters, where in the sets); at most a block of letters."""
        sums = self._sums(letters)
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for group in self._groups:
            for windows, strings in group.find(self._hashes(sums, group.width)):
                places, lengths = group.places[strings], group.lengths[strings]
                fits = windows + lengths <= len(letters)
                windows, places, lengths = windows[fits], places[fits], lengths[fits]
                equal = self._equal(letters, windows, places, lengths)
                found.append((windows[equal], places[equal]))
        windows, places = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return windows, places

    def _equal(self, letters: np.ndarray, windows: np.ndarray, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns which windows of a document are the strings of the sets, letter by letter; bool [windows]."""
        equal = np.ones(len(windows), np.bool_)
        # Some at a time: a document may hold a string at every place.
        for first in range(0, len(windows), COMPARED):
            chosen = slice(first, first + COMPARED)
            offsets = np.arange(lengths[chosen].max())[None]
            inside = offsets < lengths[chosen, None]
            here = letters[np.minimum(windows[chosen, None] + offsets, len(letters) - 1)]
            there = self._letters[np.minimum(places[chosen, None] + offsets, len(self._letters) - 1)]
            equal[chosen] = ((here == there) | ~inside).all(axis=1)
        return equal

    def _sums(self, letters: np.ndarray) -> np.ndarray:
        """Returns the hash of the first 0, 1, 2, ... letters, not shifted; uint64 [letters + 1]."""
        sums = np.zeros(len(letters) + 1, np.uint64)
        np.cumsum(letters.astype(np.uint64) * self._powers[: len(letters)], out=sums[1:])
        return sums

    def _hashes(self, sums: np.ndarray, width: int) -> np.ndarray:
        """Returns the hash of every window of `width` letters; uint64 [letters - width + 1]."""
        # Divided by the power of its place, a window's hash does not depend on where the window stands.
        count = max(0, len(sums) - width)
        return _mixed((sums[width:] - sums[:count]) * self._inverses[:count]) if count else np.zeros(0, np.uint64)

    def _long(self, width: int, chosen: np.ndarray) -> _Windows | None:
        """Returns every string of `width` letters of the chosen texts."""
        hashes, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        ends = np.append(self._starts[1:], len(self._letters))
        for start, end in zip(self._starts[chosen].tolist(), ends[chosen].tolist(), strict=True):
            for first in range(start, end - width + 1, BLOCK - width):
                found = self._hashes(self._sums(self._letters[first : min(end, first + BLOCK)]), width)
                hashes.append(found)
                places.append(np.arange(first, first + len(found)))
        joined, where = np.concatenate(hashes), np.concatenate(places)
        if not len(joined):
            return None
        # Of equal strings the first: a document is counted under the first set that holds it.
        joined, kept = np.unique(joined, return_index=True)
        return _Windows(width, joined, where[kept], np.full(len(joined), width))

    def _short(self, width: int, lengths: np.ndarray, chosen: np.ndarray) -> _Windows | None:
        """Returns the chosen texts as wholes, by their first `width` letters."""
        places = self._starts[chosen]
        if not len(places):
            return None
        hashes = [self._hashes(self._sums(self._letters[place : place + width]), width)[0] for place in places.tolist()]
        return _Windows(width, np.array(hashes, np.uint64), places, lengths[chosen])


def _powers(base: np.uint64, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Returns the hashes with their low bits, the best of them, in the high ones too."""
    return (hashes ^ (hashes >> np.uint64(29))) * _BASE


def _matcher(config: DecontaminationConfig) -> _Matcher:
    """Returns the matcher of some sets: made once for a rank, and again where a file is another one."""
    files = {name: find_files(name, of_set) for name, of_set in config.sets.items()}
    seen = [[name, str(path), path.stat().st_size, path.stat().st_mtime_ns] for name, paths in files.items() for path in paths]
    sets = {name: [of_set.path, of_set.fields] for name, of_set in config.sets.items()}
    return _made(orjson.dumps([sets, config.characters, config.shortest]), orjson.dumps(seen))


@lru_cache(maxsize=1)
def _made(config: bytes, seen: bytes) -> _Matcher:
    sets, characters, shortest = orjson.loads(config)
    return _Matcher(
        DecontaminationConfig({name: EvaluationSetConfig(*values) for name, values in sets.items()}, characters, shortest)
    )
