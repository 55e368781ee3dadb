"""Word segmentation behind one interface: Juman++, JUMAN, or MeCab with JumanDIC.

Promises for every engine that the words of an answered sentence spell it without its spaces, that no word holds a space, and that
every other sentence comes back as Rejected with its reason. Never falls back from one engine to another.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

from preprocess.config import SegmenterConfig

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Rejected:
    """A sentence that the engine gave no usable words for."""

    reason: str
    """What it is counted under: crash, timeout, mismatch or encoding."""
    detail: str
    """What was seen, for the person who reads the reject file."""


Answer = list[str] | Rejected


class Segmenter(ABC):
    """An open word segmenter; a context manager. What it answers for a sentence does not depend on the sentences beside it."""

    description: dict[str, Any]
    """engine, version, dictionary, options: written into every shard. Plain JSON, equal on every rank of a sound installation."""
    restarts: int = 0
    """Processes started again because one crashed, hung or answered nonsense."""

    def segment(self, sentences: list[str]) -> list[Answer]:
        """Words of each sentence, or why there are none.

        Anything that str.isspace() counts as a space separates words and is in none of them; a blank sentence has no words.
        """
        lines = [" ".join(sentence.split()) for sentence in sentences]
        answers: list[Answer] = [_refusal(line) or [] for line in lines]
        askable = [number for number, line in enumerate(lines) if line and not isinstance(answers[number], Rejected)]
        tokens = self._tokenize([lines[number] for number in askable])
        for number, answer in zip(askable, tokens, strict=True):
            answers[number] = answer if isinstance(answer, Rejected) else spelled(lines[number], answer)
        return answers

    @abstractmethod
    def _tokenize(self, lines: list[str]) -> list[Answer]:
        """Tokens of each line; lines are not blank, encodable, and hold no space but single ASCII ones inside.

        Tokens may be or contain spaces; they are checked and stripped by the caller.
        """

    def close(self) -> None:  # noqa: B027 (most engines hold none)
        """Ends the processes that the engine holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def spelled(line: str, tokens: list[str]) -> Answer:
    """The words in `tokens`, or Rejected where they do not spell `line` without its spaces."""
    words = [word for token in tokens for word in token.split()]
    wanted, found = "".join(line.split()), "".join(words)
    if found == wanted:
        return words
    pairs = zip(wanted, found, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(found)))
    return Rejected("mismatch", f"words differ from the sentence at character {at + 1}: {found[at : at + 20]!r}")


def open_segmenter(config: SegmenterConfig) -> Segmenter:
    """The engine that the recipe names, ready to work.

    Raises SegmenterError where its program is missing, is another one, or does not segment a plain sentence.
    """
    # Imported late: each engine loads libraries that the others do not need.
    if config.engine == "jumanpp":
        from preprocess.segmenters.jumanpp import Jumanpp

        return Jumanpp(config)
    if config.engine == "juman":
        from preprocess.segmenters.juman import Juman

        return Juman(config)
    from preprocess.segmenters.mecab import Mecab

    return Mecab(config)


def _refusal(line: str) -> Rejected | None:
    match = LONE_SURROGATE.search(line)
    return Rejected("encoding", f"lone surrogate U+{ord(match[0]):04X} at character {match.start() + 1}") if match else None
