"""Documents of the demo corpus: sentence patterns, filled with the words of one topic.

The same key gives the same document, so a larger corpus begins with the smaller one. There is enough to learn: a document keeps its topic,
its names, its place and a few nouns, and each noun prefers two verbs and two adjectives.
"""

import random
import zlib
from collections.abc import Sequence
from typing import TypeVar

from preprocess.demo.vocabulary import SURNAMES, TOPICS, TOWNS

Item = TypeVar("Item")
STYLES = ("plain", "polite", "written")
TIMES = ("昨日", "先週", "先月", "去年", "その日", "翌日", "以前", "昔", "春に", "夏に", "秋に", "冬に")
DEGREES = ("とても", "かなり", "非常に", "少し", "本当に", "意外に")
MANNERS = ("ゆっくり", "静かに", "丁寧に", "急いで", "慎重に", "熱心に", "一人で", "みんなで", "すぐに", "何度も")
PATTERNS = (
    "{time}、{who}は{place}で{noun}{did}。",
    "{time}、{who}は{adjective}{noun}{did}。",
    "{who}は{noun}{te}、{other}{other_did}。",
    "{who}は{place}で{manner}{noun}{did}。",
    "この{noun}は{degree}{is_so}。",
    "{noun}より{other}のほうが{degree}{other_is_so}。",
    "{noun}や{other}など、{place}には{adjective}{genus}が{many}。",
    "{noun}が{adjective}ので、{who}は{other}{other_did}。",
    "「{noun}は{is_so}。{other}も{is_so}」と{person}は{said}。",
    "{month}月になると、{town}市では{noun}が話題に{became}。",
    "{year}年、{town}市で{person}が{noun}{did}。",
    "なぜ{noun}は{adjective}の{question}。",
    "{person}は{role}の{partner}と{noun}{did}。",
    "{count}人の{role}が{place}に{gathered}。",
)


def _prefer(word: str, items: Sequence[Item], rng: random.Random) -> Item:
    """One of the two items that a word prefers, or in one draw of ten any: what a model can learn about the word."""
    if rng.random() < 0.1:
        return rng.choice(items)
    # Not Python's hash, which differs from run to run.
    number = zlib.crc32(word.encode())
    return items[(number if rng.random() < 0.7 else number // len(items)) % len(items)]


class Document:
    """One generated document; `style` is one of STYLES: plain (だ), polite (です) or written (である, as in an encyclopedia)."""

    def __init__(self, key: str, style: str) -> None:
        self.rng = rng = random.Random(key)
        self.topic = rng.choice(TOPICS)
        self.nouns = rng.sample(self.topic.nouns, 4)
        """The nouns that recur in the document; the first is its title."""
        self.town = rng.choice(tuple(TOWNS))
        self._polite, self._copula = style == "polite", ("だ", "です", "である")[STYLES.index(style)]
        self._people = [name if style == "written" else f"{name}さん" for name in rng.sample(SURNAMES, 2)]
        self._places, self._role = rng.sample(self.topic.places, 2), rng.choice(self.topic.roles)
        self._who = self._people[0] if style == "written" else rng.choice((self._people[0], "私", "彼", "彼女"))
        if style == "written":
            kind = _prefer(self.nouns[0], self.topic.adjectives, rng) + self.topic.genus
            first = f"{self.nouns[0]}は、{self.topic.name}の分野で知られる{kind}の一つ{self._copula}。"
        else:
            first = f"{self._people[0]}は{self.town}市に住む{self._role}{self._copula}。"
        sentences = {first: None}
        # A dictionary for its keys: no sentence twice in a document.
        while len(sentences) < 5 or rng.random() < 0.9:
            sentences[rng.choice(PATTERNS).format_map(self._fields())] = None
        self.sentences = list(sentences)

    def _fields(self) -> dict[str, str]:
        """What the patterns' fields stand for in the next sentence."""
        rng, topic = self.rng, self.topic
        noun, other = rng.sample(self.nouns, 2)
        verb, other_verb = _prefer(noun, topic.verbs, rng), _prefer(other, topic.verbs, rng)
        adjective, other_adjective = _prefer(noun, topic.adjectives, rng), _prefer(other, topic.adjectives, rng)
        polite = self._polite
        return {
            "noun": noun,
            "did": verb.polite if polite else verb.plain,
            "te": verb.te,
            "adjective": adjective,
            "is_so": self._predicate(adjective),
            "other": other,
            "other_did": other_verb.polite if polite else other_verb.plain,
            "other_is_so": self._predicate(other_adjective),
            "genus": topic.genus,
            "time": rng.choice(TIMES),
            "year": str(rng.randint(1868, 2019)),
            "month": str(rng.randint(1, 12)),
            "count": str(rng.randint(2, 9)),
            "degree": _prefer(adjective, DEGREES, rng),
            "manner": _prefer(verb.te, MANNERS, rng),
            "who": self._who,
            "person": self._people[0],
            "partner": self._people[1],
            "role": self._role,
            "place": rng.choice(self._places),
            "town": self.town,
            "said": "言いました" if polite else "言った",
            "many": "多いです" if polite else "多い",
            "became": "なります" if polite else "なる",
            "question": "でしょうか" if polite else "だろうか",
            "gathered": "集まりました" if polite else "集まった",
        }

    def _predicate(self, adjective: str) -> str:
        if adjective.endswith("な"):
            return adjective[:-1] + self._copula
        return adjective + ("です" if self._polite else "")
