"""A document of the demo corpus: one topic, a season, a style and a few recurring people, places and things.

Answers the questions of a sentence (who, where, when, what, what is done to it) so that the answers fit the document.
Knows no sentence patterns; they are in `sentences`.
"""

import random
import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from preprocess.demo.grammar import (
    DEGREES,
    KINDS,
    NEGATED_DEGREES,
    SEASONS,
    TENSES,
    THINGS,
    TOPICS,
    WHEN,
    Adjective,
    Verb,
    copula,
)
from preprocess.demo.vocabulary import Word

Item = TypeVar("Item")


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())


def favourite(word: str, items: Sequence[Item], rng: random.Random) -> Item:
    """One of the two items that `word` prefers, now and then any: the habit that a model can learn about a word."""
    if rng.random() < 0.15:
        return rng.choice(items)
    number = _hash(word)
    return items[(number if rng.random() < 0.65 else number // len(items)) % len(items)]


class Pool:
    """Words drawn by Zipf's law in the order given."""

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = words
        self._weights = list(accumulate((rank + 8) ** -0.8 for rank in range(len(words))))

    def draw(self, rng: random.Random, count: int) -> list[Word]:
        """`count` different words, or all there are."""
        count = min(count, len(self.words))
        drawn: dict[Word, None] = {}
        while len(drawn) < count:
            drawn.update(dict.fromkeys(rng.choices(self.words, cum_weights=self._weights, k=count - len(drawn))))
        return list(drawn)


class Lexicon:
    """The words of each topic. A word for which the dictionary names no topic belongs to one by its hash."""

    def __init__(self, words: Sequence[Word]) -> None:
        self.topics = tuple(TOPICS)
        grouped: dict[tuple[str, str], list[Word]] = {}
        for word in words:
            topic = word.topic or self.topics[_hash(word.surface) % len(self.topics)]
            kind = "thing" if word.kind in THINGS else word.kind
            grouped.setdefault((topic, kind), []).append(word)
        self._pools = {key: Pool(group) for key, group in grouped.items()}
        self._empty = Pool([])

    def pool(self, topic: str, kind: str) -> Pool:
        return self._pools.get((topic, kind), self._empty)


class Document:
    """`style` is plain, polite or written (である, as in an encyclopedia)."""

    def __init__(self, lexicon: Lexicon, rng: random.Random, style: str) -> None:
        self.lexicon, self.rng, self.style = lexicon, rng, style
        self.sentences: list[str] = []
        self.topic = rng.choice(lexicon.topics)
        self.polite = style == "polite"
        roles, self.phrases = TOPICS[self.topic]
        self.role = rng.choice(roles)
        self.months, self.feels, self.events = SEASONS[rng.choice(tuple(SEASONS))]
        # Most sentences of a document share a tense, as the sentences of a report or a diary do.
        self.tense = "past" if rng.random() < 0.6 else rng.choice(TENSES)
        self.things = self._draw("thing", rng.randint(3, 5))
        self.matters = self._draw("matter", rng.randint(2, 3))
        self.actions, self.persons, self.places = (self._draw(kind, 2) for kind in ("action", "person", "place"))
        self.groups = self._draw("group", 1)
        self.town, given = self._draw("town", 1)[0], self._draw("given", 1)[0]
        self.home = f"{self.town.area}の{self.town.surface}市"
        surnames = [word.surface for word in self._draw("surname", 2)]
        self.full_name = surnames[0] + given.surface
        self.people = surnames if style == "written" else [name + "さん" for name in surnames]
        self.pronoun = rng.choice(("彼", "彼女"))
        if style != "written" and rng.random() < 0.35:
            self.people[0] = self.pronoun = "私" if self.polite else rng.choice(("私", "僕"))

    def _draw(self, kind: str, count: int) -> list[Word]:
        return self.lexicon.pool(self.topic, kind).draw(self.rng, count)

    @property
    def nouns(self) -> list[Word]:
        """The dictionary words that recur in the document."""
        return [*self.things, *self.matters, *self.actions, *self.persons, *self.places, *self.groups]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        return self.rng.choice(items)

    def thing(self) -> Word:
        """The document's first things more often than its last; now and then another of the topic."""
        if self.chance(0.08):
            return self._draw("thing", 1)[0]
        return self.things[int(len(self.things) * self.rng.random() ** 1.6)]

    def two_things(self) -> tuple[Word, Word]:
        first, second = self.rng.sample(self.things, 2)
        return first, second

    def any_noun(self) -> Word:
        draw = self.rng.random()
        pool = self.matters if draw < 0.25 else self.actions if draw < 0.35 else self.persons if draw < 0.45 else []
        return self.pick(pool) if pool else self.thing()

    def who(self) -> str:
        draw = self.rng.random()
        return self.people[0] if draw < 0.6 else self.pronoun if draw < 0.8 else self.people[1]

    def where(self) -> str:
        if not self.places or self.chance(0.25):
            return f"{self.town.surface}市"
        place = self.pick(self.places).surface
        return f"{self.town.surface}市の{place}" if self.chance(0.25) else place

    def time(self, tense: str) -> str:
        """A time adverb that fits the tense, or nothing."""
        draw = self.rng.random()
        if draw < 0.35:
            return ""
        if draw < 0.45 and tense == "past":
            return f"{self.pick(self.months)}月に、"
        return self.pick(WHEN[tense]) + "、"

    def phrase(self) -> Verb:
        return self.pick(self.phrases)

    def done(self, word: Word) -> Verb:
        return favourite(word.surface, KINDS[word.kind].done, self.rng)

    def does(self, word: Word) -> Verb:
        return favourite(word.surface + "が", KINDS[word.kind].does, self.rng)

    def looks(self, word: Word) -> Adjective:
        return favourite(word.surface + "い", KINDS[word.kind].looks, self.rng)

    def act(self, word: Word) -> str:
        """The noun and what is done to it; sometimes an adjective or a clause that fits stands before the noun."""
        draw, before = self.rng.random(), ""
        if draw < 0.15:
            before = self.looks(word).attributive
        elif draw < 0.25 and (clause := self.done(word).ta).startswith("を"):
            before = f"{self.people[1]}が{self.pick(WHEN['past'])}{clause[1:]}"
        return f"{before}{word.surface}{self.done(word).predicate(self.tense, self.polite)}"

    def so(self, word: Word, past: bool | None = None) -> str:
        """How the noun looks, as a predicate; `past` defaults to the document's tense."""
        look = self.looks(word)
        return favourite(look.stem, DEGREES, self.rng) + look.predicate(
            self.tense == "past" if past is None else past, self.style
        )

    def not_so(self, word: Word, past: bool | None = None) -> str:
        past = self.tense == "past" if past is None else past
        return self.pick(NEGATED_DEGREES) + self.looks(word).predicate(past, self.style, negated=True)

    def counted(self, word: Word) -> str:
        counters = KINDS[word.kind].counters
        return f"{self.rng.randint(2, 9)}{counters[_hash(word.surface) % len(counters)]}"

    def is_(self) -> str:
        return copula(False, self.style)

    def end(self, plain: str, polite: str) -> str:
        return polite if self.polite else plain
