"""Interface of all word segmenters.

Promises for every engine that the words of an answered sentence spell it without its spaces, that no word holds a space, and that
every other sentence comes back as Rejected with its reason.
"""

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Rejected:
    """Result for a sentence that the engine gave no usable words for."""

    reason: str
    """Reason in counts and reject files: crash, timeout, mismatch or encoding."""
    detail: str
    """Details for the person who reads the reject file."""


Answer = list[str] | Rejected
"""The words of a sentence, or why there are none."""
Spaced = str | Rejected
"""An answer as one string with a half-width space between words, as the stage writes it; four times as fast as lists."""


class Segmenter(ABC):
    """An open word segmenter; a context manager. The words of a sentence do not depend on the sentences around it."""

    description: dict[str, Any]
    """Engine, version, dictionary and options, as plain JSON: written into every shard, and the same on every rank."""
    restarts: int = 0
    """Number of processes started again because one crashed, hung or answered nonsense."""
    cut_sentences: int = 0
    """Number of sentences given to the engine in fragments, because it cannot bear them whole."""
    groups_ahead: ClassVar[int] = 0
    """Number of groups of sentences given to the engine before the answers to the first are read."""

    def segment(self, sentences: list[str]) -> list[Answer]:
        """Returns the words of each sentence, or why there are none.

        Anything that str.isspace() counts as a space separates words and is in none of them; a blank sentence has no words.
        """
        return [answer if isinstance(answer, Rejected) else answer.split() for answer in self._start(sentences)()]

    def segment_groups(self, groups: Iterable[list[str]]) -> Iterator[list[Spaced]]:
        """Streams the words of each sentence, group by group; an engine in its own process works on the next groups meanwhile."""
        started: deque[Callable[[], list[Spaced]]] = deque()
        for group in groups:
            # Keep `groups_ahead` groups with the engine while the oldest answer is read.
            started.append(self._start(group))
            if len(started) > self.groups_ahead:
                yield started.popleft()()
        while started:
            yield started.popleft()()

    def _start(self, sentences: list[str]) -> Callable[[], list[Spaced]]:
        """Gives sentences to the engine and returns a function that waits for the answers and checks them."""
        # One form for all engines: they differ in what they do with other spaces.
        lines = [" ".join(sentence.split()) for sentence in sentences]
        refused = _refusals(lines)
        asked = [line for number, line in enumerate(lines) if line and number not in refused]
        tokenized = self._begin(asked)

        def answers() -> list[Spaced]:
            checked = spelled(asked, tokenized())
            if len(asked) == len(lines):
                return checked
            # Blank and refused lines were not given to the engine; put them back in their places.
            rest = iter(checked)
            return [refused.get(number) or (next(rest) if line else "") for number, line in enumerate(lines)]

        return answers

    def _begin(self, lines: list[str]) -> Callable[[], list[Spaced]]:
        """Starts `_tokenize` and returns a function that waits for its result; for engines that work in their own process."""
        return lambda: self._tokenize(lines)

    @abstractmethod
    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        """Returns the tokens of each line. Lines are not blank, can be encoded, and hold no spaces except single ASCII ones inside.

        Spaces of any kind and number may stand between the tokens: the caller checks them and leaves one.
        """

    def close(self) -> None:  # noqa: B027 (most engines hold none)
        """Ends the processes that the engine holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def spelled(lines: list[str], answers: list[Spaced]) -> list[Spaced]:
    """Returns the words of `answers` with one space between them; Rejected if they do not spell the line without its spaces.

    Args:
        lines: lines without newlines, surrogates, and spaces other than ASCII ones.
        answers: one for each line, with any spaces.
    """
    spaced = [answer if isinstance(answer, Rejected) else " ".join(answer.split()) for answer in answers]
    return [
        answer if isinstance(answer, Rejected) or answer.replace(" ", "") == line.replace(" ", "") else _mismatch(line, answer)
        for line, answer in zip(lines, spaced, strict=True)
    ]


def _mismatch(line: str, answer: str) -> Rejected:
    wanted, found = line.replace(" ", ""), answer.replace(" ", "")
    pairs = zip(wanted, found, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(found)))
    return Rejected("mismatch", f"words differ from the sentence at character {at + 1}: {found[at : at + 20]!r}")


def _refusals(lines: list[str]) -> dict[int, Rejected]:
    """Returns why lines cannot be given to any program, by their number."""
    try:
        "".join(lines).encode()
    except UnicodeEncodeError:
        found = ((number, LONE_SURROGATE.search(line)) for number, line in enumerate(lines))
        return {
            number: Rejected("encoding", f"lone surrogate U+{ord(match[0]):04X} at character {match.start() + 1}")
            for number, match in found
            if match
        }
    return {}
