"""The sentence patterns of the demo corpus, each a function from a document to one sentence.

Promises that a document is a pure function of its key, so that a larger corpus begins with the smaller one.
"""

import random
from collections.abc import Callable

from preprocess.demo.documents import Document, Lexicon, favourite
from preprocess.demo.grammar import (
    CONNECTIVES,
    EXISTENCE,
    GIVING,
    GRADUALLY,
    KINDS,
    MANNERS,
    RECEIVING,
    SAYING,
    WHEN,
)

Pattern = Callable[[Document], str]


def event(d: Document) -> str:
    link = d.pick(CONNECTIVES) + "、" if d.chance(0.2) else d.time(d.tense)
    return f"{link}{d.who()}は{d.where()}で{d.act(d.any_noun())}。"


def manner(d: Document) -> str:
    verb = d.phrase()
    return f"{d.time(d.tense)}{d.who()}は{favourite(verb.dictionary, MANNERS, d.rng)}{verb.predicate(d.tense, d.polite)}。"


def chain(d: Document) -> str:
    return f"{d.who()}は{d.phrase().te}、{d.act(d.thing())}。"


def counted(d: Document) -> str:
    word = d.thing()
    verb = d.done(word)
    if not verb.dictionary.startswith("を"):
        return chain(d)
    return f"{d.who()}は{word.surface}を{d.counted(word)}{verb.predicate(d.tense, d.polite)[1:]}。"


def exists(d: Document) -> str:
    word = d.pick((d.thing(), *d.persons))
    tense = "past" if d.tense == "past" else "habit"
    count = d.counted(word) if d.chance(0.6) else ""
    ending = EXISTENCE[KINDS[word.kind].exists].predicate(tense, d.polite)
    return f"{d.where()}には{d.looks(word).attributive}{word.surface}が{count}{ending}。"


def quality(d: Document) -> str:
    word = d.any_noun()
    return f"{word.surface}は{d.not_so(word)}。" if d.chance(0.3) else f"この{word.surface}は{d.so(word)}。"


def happens(d: Document) -> str:
    word, negated = d.any_noun(), d.chance(0.2)
    adverb = "なかなか" if negated else favourite(word.surface, GRADUALLY, d.rng)
    ending = d.does(word).predicate(d.tense, d.polite, negated)[1:]
    return f"{d.time(d.tense)}{d.where()}では{word.surface}が{adverb}{ending}。"


def because(d: Document) -> str:
    word, other = d.two_things()
    return f"{word.surface}が{d.looks(word).attributive}ので、{d.who()}は{d.act(other)}。"


def although(d: Document) -> str:
    word, other = d.two_things()
    look, past = d.looks(word), d.tense == "past"
    return f"{word.surface}は{look.predicate(past, d.style)}が、{other.surface}は{look.predicate(past, d.style, negated=True)}。"


def compare(d: Document) -> str:
    word, other = d.two_things()
    return f"{other.surface}より{word.surface}のほうが{d.so(word)}。"


def meanwhile(d: Document) -> str:
    word = d.thing()
    ending = d.does(word).predicate("past", d.polite)
    return f"{d.who()}が{d.pick(WHEN['past'])}{d.phrase().ta}とき、{word.surface}{ending}。"


def season(d: Document) -> str:
    month, happening = d.pick(d.months), d.pick(d.events)
    if d.chance(0.5):
        return f"{month}月の{d.town.surface}市は{d.pick(d.feels)}、{happening.predicate('habit', d.polite)}。"
    return f"{month}月になると、{happening.te}、{d.any_noun().surface}が話題に{d.end('なる', 'なります')}。"


def intent(d: Document) -> str:
    word = d.any_noun()
    noun = d.pick(("つもり", "予定"))
    return f"{d.pick(WHEN['future'])}、{d.who()}は{word.surface}{d.done(word).dictionary}{noun}{d.is_()}。"


def guess(d: Document) -> str:
    word = d.any_noun()
    adverb = d.pick(("おそらく", "たぶん", "きっと"))
    return f"{adverb}{d.who()}は{word.surface}{d.done(word).dictionary}{d.end('だろう', 'でしょう')}。"


def condition(d: Document) -> str:
    word = d.thing()
    if d.chance(0.5):
        ending = d.phrase().dictionary + d.end("だろう", "でしょう")
        return f"もし{word.surface}が{d.looks(word).conditional}、{d.who()}は{ending}。"
    return f"たとえ{word.surface}が{d.looks(word).concessive}、{d.who()}は{d.phrase().predicate('future', d.polite)}。"


def duty(d: Document) -> str:
    if d.chance(0.5):
        return f"{d.who()}は{d.phrase().negative}なければ{d.end('ならない', 'なりません')}。"
    word = d.any_noun()
    return f"{d.where()}では{word.surface}{d.done(word).dictionary}ことが{d.end('できる', 'できます')}。"


def quotation(d: Document) -> str:
    """Brackets hold one sentence or two, so that the sentence splitter has something to keep together."""
    word, other = d.two_things()
    more = f"。{other.surface}は{d.not_so(other, past=False)}" if word != other and d.chance(0.3) else ""
    return f"「{word.surface}は{d.so(word, past=False)}{more}」と{d.who()}は{d.pick(SAYING).predicate('past', d.polite)}。"


def question(d: Document) -> str:
    word = d.any_noun()
    return f"なぜ{word.surface}は{d.looks(word).attributive}の{d.end('だろうか', 'でしょうか')}。"


def listing(d: Document) -> str:
    word, other = d.two_things()
    genus = d.looks(word).attributive + KINDS[word.kind].genus
    return f"{word.surface}や{other.surface}など、{d.where()}には{genus}が{d.end('多い', '多いです')}。"


def sequence(d: Document) -> str:
    first = d.phrase()
    order = first.dictionary + "前に" if d.chance(0.5) else first.ta + "後で"
    return f"{order}、{d.who()}は{d.act(d.any_noun())}。"


def gift(d: Document) -> str:
    if not d.persons:
        return chain(d)
    word = d.thing()
    given = d.chance(0.5)
    other = f"{d.people[1]}に" if given else f"{d.persons[0].surface}から"
    ending = d.pick(GIVING if given else RECEIVING).predicate(d.tense, d.polite)
    return f"{d.people[0]}は{other}{d.looks(word).attributive}{word.surface}{ending}。"


def news(d: Document) -> str:
    subject = d.groups[0].surface if d.groups else f"{d.town.surface}市"
    action = d.pick(d.actions)
    ending = d.done(action).predicate("past", d.polite)
    return f"{d.time('past')}{subject}は{d.pick(d.matters).surface}の{action.surface}{ending}。"


def experience(d: Document) -> str:
    word = d.any_noun()
    return f"{d.who()}は{d.where()}で{word.surface}{d.done(word).ta}ことが{d.end('ある', 'あります')}。"


def relation(d: Document) -> str:
    return f"{d.thing().surface}は{d.pick(d.matters).surface}と深い関係が{d.end('ある', 'あります')}。"


def history(d: Document) -> str:
    year, word = d.rng.randint(1868, 2019), d.thing()
    return f"{year}年、{d.home}で{d.full_name}が{word.surface}{d.done(word).ta}。"


def introduction(d: Document) -> str:
    """How a diary or a report begins: who it is about."""
    return f"{d.people[0]}は{d.home}に住む{d.role}{d.is_()}。"


def definition(d: Document) -> str:
    """How an encyclopedia article begins: what its title means."""
    word = d.things[0]
    genus = d.looks(word).attributive + KINDS[word.kind].genus
    return f"{word.surface}は、{d.topic}の分野で知られる{genus}の一つ{d.is_()}。"


EVERYDAY: dict[Pattern, int] = {
    event: 14, manner: 6, chain: 8, counted: 6, exists: 6, quality: 8, happens: 6, because: 6, although: 4, compare: 4,
    meanwhile: 4, season: 5, intent: 4, guess: 3, condition: 5, duty: 5, quotation: 5, question: 2, listing: 4, sequence: 5,
    gift: 5, news: 5, experience: 3, relation: 2,
}  # fmt: skip
ENCYCLOPEDIC: dict[Pattern, int] = {
    event: 8, exists: 8, quality: 10, happens: 10, because: 4, although: 6, compare: 6, season: 5, duty: 5, listing: 8,
    news: 10, history: 12, relation: 6, meanwhile: 4, sequence: 2, chain: 3, quotation: 2,
}  # fmt: skip


def write(lexicon: Lexicon, key: str, style: str, sentences: int) -> Document:
    """The document that `key` names: a sentence that says what it is about, then patterns drawn by weight."""
    document = Document(lexicon, random.Random(key), style)
    patterns, first = (ENCYCLOPEDIC, definition) if style == "written" else (EVERYDAY, introduction)
    document.sentences.append(first(document))
    choices, weights = list(patterns), list(patterns.values())
    while len(document.sentences) < sentences:
        (pattern,) = document.rng.choices(choices, weights)
        sentence = pattern(document)
        if sentence not in document.sentences:
            document.sentences.append(sentence)
    return document
