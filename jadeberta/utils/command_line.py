"""Command lines whose mistakes are one sentence, like every other error of the project."""

import argparse
import math
import re
from typing import NoReturn

from jadeberta.errors import ConfigError

LONGEST_WORD = 120
"""Characters of a word in an error; who types more has pasted a file."""
LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class ParagraphFormatter(argparse.HelpFormatter):
    """argparse's help, but the paragraphs of a description stay apart; all are wrapped to the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.strip().split("\n\n"))


class OneSentenceParser(argparse.ArgumentParser):
    """argparse, but a mistake raises ConfigError instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        message = LONG_WORD.sub(lambda word: f"{word[0][:LONGEST_WORD]}…", message.rstrip(".").replace("\n", " "))
        raise ConfigError(f"{message}; '{self.prog} --help' explains.")


def positive(text: str) -> float:
    """An option's value above 0, in digits."""
    return _at_least(text, above=True)


def not_negative(text: str) -> float:
    """An option's value of at least 0, in digits."""
    return _at_least(text, above=False)


def _at_least(text: str, above: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # float() takes "nan" and "inf" too, and no comparison refuses nan.
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number {'above 0' if above else 'of at least 0'}")
    return value
