"""Command lines whose mistakes are one sentence, like every other error of the project."""

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from jadeberta.errors import ConfigError

LONGEST_WORD = 120
"""Characters of a word in an error; who types more has pasted a file."""
LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class ParagraphFormatter(argparse.HelpFormatter):
    """argparse's help, but the paragraphs of a description stay apart; all are wrapped to the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.strip().split("\n\n"))


class _ParserFound(Exception):
    """Ends a program at the moment at which it would read its command line; see `found_parser`."""

    def __init__(self, parser: "OneSentenceParser", takes_more: bool) -> None:
        super().__init__(parser.prog)
        self.parser, self.takes_more = parser, takes_more


class OneSentenceParser(argparse.ArgumentParser):
    """argparse, but a mistake raises ConfigError instead of printing the usage."""

    is_asked: ClassVar[bool] = False
    """Whether `found_parser` asks for a parser at the moment."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.is_asked:
            raise _ParserFound(self, takes_more=False)
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.is_asked:
            raise _ParserFound(self, takes_more=True)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        message = LONG_WORD.sub(lambda word: f"{word[0][:LONGEST_WORD]}…", message.rstrip(".").replace("\n", " "))
        raise ConfigError(f"{message}; '{self.prog} --help' explains.")


def found_parser(program: Callable[[], object]) -> tuple[OneSentenceParser, bool]:
    """Returns the parser with which a program would read its command line, and whether it takes options that the parser does not know.

    Args:
        program: calls the program, which has to make its parser before it does anything else.
    """
    OneSentenceParser.is_asked = True
    try:
        program()
    except _ParserFound as found:
        return found.parser, found.takes_more
    finally:
        OneSentenceParser.is_asked = False
    raise TypeError("the program reads no command line")


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
