"""Prepares sentences for Juman++ and JUMAN: splits long ones into fragments, replaces spaces, defines the end of the line.

Pure functions of one sentence, so that an answer never depends on the sentences around it.
"""

import re
from collections.abc import Iterator

from preprocess.segmenters.base import Rejected, Spaced
from preprocess.segmenters.cuts import ONE_SCRIPT, cut_long, cut_runs

FEEDING = "pieces-4090-40-100"
"""Version of the rules of this file, on which words depend: change a rule, change the name. ("pieces" are fragments.)"""

# Juman++ gives no answer to lines of more than 4,096 bytes; `disguise` may add a space.
MAX_BYTES = 4090

# Juman++ makes a node of every substring of repeated characters: 800 of them take 1.8 to 7 GB, 40 next to nothing.
MAX_REPEATS = 40
REPEATED = re.compile(rf"(.{{1,4}}?)\1{{{MAX_REPEATS},}}", re.DOTALL)

# The same holds for characters of one script that do not repeat: time and memory grow with the third power of their number. Of 430,000
# sentences of real text none has 100 in a row.
MAX_RUN = 100
RUNS = re.compile(ONE_SCRIPT)

SPACE = "\u3000"

# rc3 looks one character past the end of a line that ends in a digit and a point (NumericUnkMaker::checkPeriod, bug #157), where
# it finds what an earlier line has left. Digits and points as in rc3's characters.cc; an ASCII full stop is not among them.
DIGITS = frozenset("0123456789０１２３４５６７８９○〇零一二三四五六七八九十百千万億兆")
POINTS = frozenset("．・·")


def fragments(line: str) -> list[str]:
    """Splits a line into fragments of at most MAX_BYTES as they are fed, without long repetitions and runs; joined they are the line.

    A fragment ends where the program would end a word too, wherever the line has such a place: after punctuation, else between two scripts.
    """
    # The common case first. A character has at most four bytes.
    if len(line) <= MAX_REPEATS or (len(line) <= MAX_RUN and REPEATED.search(line) is None):
        return [line]
    parts = (run for part in _cut_repeated(line) for run in cut_runs(part, RUNS, MAX_RUN))
    return [fragment for part in parts for fragment in cut_long(part, _fitting)]


def disguise(fragment: str) -> str:
    """Returns a fragment as it is fed to the program.

    Ideographic spaces replace ASCII ones: a line that begins with '# ' would be taken for a comment, and JUMAN and Juman++ print
    ASCII spaces in ways of their own. One more such space gives a digit and a point at the end a defined successor.
    """
    line = fragment.replace(" ", SPACE)
    return line + SPACE if line[-1] in POINTS and line[-2:-1] in DIGITS else line


def joined(answers: list[Spaced]) -> Spaced:
    """Joins the tokens of a sentence's fragments; one rejected fragment rejects the sentence."""
    if len(answers) == 1:
        return answers[0]
    spaced: list[str] = []
    for answer in answers:
        if isinstance(answer, Rejected):
            return answer
        spaced.append(answer)
    return " ".join(spaced)


def _cut_repeated(line: str) -> Iterator[str]:
    start = 0
    for match in REPEATED.finditer(line):
        if start < match.start():
            yield line[start : match.start()]
        size = MAX_REPEATS * len(match[1])
        for at in range(match.start(), match.end(), size):
            yield line[at : min(at + size, match.end())]
        start = match.end()
    if start < len(line):
        yield line[start:]


def _fitting(line: str, start: int) -> int:
    """Returns how many of the characters from `start` on are MAX_BYTES as they are fed, with three bytes for a space."""
    fed = line[start : start + MAX_BYTES].replace(" ", SPACE).encode()
    return len(fed[:MAX_BYTES].decode(errors="ignore"))
